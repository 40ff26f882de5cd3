"""sentence-transformers with its weights in bfloat16."""

LABEL = "sentence-transformers (torch, bf16)"


def prepare(folder: str, max_tokens: int):
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", model_kwargs={"torch_dtype": torch.bfloat16})
    model.max_seq_length = max_tokens
    return lambda texts: model.encode(texts, show_progress_bar=False)
