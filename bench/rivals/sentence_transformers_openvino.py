"""sentence-transformers on its OpenVINO backend, exported by optimum-intel on the spot. It takes bf16 where that is
native."""

LABEL = "sentence-transformers (openvino)"


def prepare(folder: str, max_tokens: int):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", backend="openvino", model_kwargs={"export": True})
    model.max_seq_length = max_tokens
    return lambda texts: model.encode(texts, show_progress_bar=False)
