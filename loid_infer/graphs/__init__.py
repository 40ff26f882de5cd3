"""Exports encoders as ONNX graphs and compares them with transformers."""
