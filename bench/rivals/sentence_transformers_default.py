"""sentence-transformers as its documentation shows it: torch, float32, batches of 32 sorted by characters."""

LABEL = "sentence-transformers (default)"


def prepare(folder: str, max_tokens: int):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")
    model.max_seq_length = max_tokens
    return lambda texts: model.encode(texts, show_progress_bar=False)
