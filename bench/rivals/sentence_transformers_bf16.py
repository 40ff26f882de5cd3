"""sentence-transformers with its weights in bfloat16."""

from bench.rivals import sentence_transformers_default as default

LABEL = "sentence-transformers (torch, bf16)"


def prepare(folder: str, max_tokens: int):
    import torch

    return default.prepare(folder, max_tokens, model_kwargs={"torch_dtype": torch.bfloat16})
