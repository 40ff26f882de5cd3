"""sentence-transformers as its documentation shows it: torch, float32, batches of 32 sorted by characters."""

LABEL = "sentence-transformers (default)"


def load(folder: str, max_tokens: int, **options):
    """The model, for this way and for those that differ by `options` only."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", **options)
    model.max_seq_length = max_tokens
    return model


def prepare(folder: str, max_tokens: int, **options):
    model = load(folder, max_tokens, **options)
    return lambda texts: model.encode(texts, show_progress_bar=False)
