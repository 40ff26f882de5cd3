"""From an encoder's weights to an ONNX graph that ends in a vector, and the proof that it computes what they say."""
