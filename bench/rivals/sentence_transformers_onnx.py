"""sentence-transformers on its ONNX backend, exported by optimum on the spot."""

LABEL = "sentence-transformers (onnx)"


def prepare(folder: str, max_tokens: int):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", backend="onnx", model_kwargs={"export": True})
    model.max_seq_length = max_tokens
    return lambda texts: model.encode(texts, show_progress_bar=False)
