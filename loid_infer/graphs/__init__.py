"""From an encoder's weights to an ONNX graph that ends in CLS, and the proof that it computes what the weights say."""
