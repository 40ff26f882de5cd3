"""The loop everybody writes first: transformers, float32, batches of 32 in file order, CLS of the last hidden state."""

LABEL = "plain transformers loop"


def prepare(folder: str, max_tokens: int):
    import numpy as np
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()

    def encode(texts: list[str]):
        vectors = []
        with torch.inference_mode():
            for at in range(0, len(texts), 32):
                part = texts[at : at + 32]
                batch = tokenizer(part, truncation=True, max_length=max_tokens, padding=True, return_tensors="pt")
                vectors.append(model(**batch).last_hidden_state[:, 0].numpy())
        return np.concatenate(vectors)

    return encode
