"""sentence-transformers on its ONNX backend, exported by optimum on the spot."""

from bench.rivals import sentence_transformers_default as default

LABEL = "sentence-transformers (onnx)"


def prepare(folder: str, max_tokens: int):
    return default.prepare(folder, max_tokens, backend="onnx", model_kwargs={"export": True})
