"""The loop one writes with OpenVINO: the full graph as optimum exports it, batches of 32 in file order, defaults."""

LABEL = "plain OpenVINO loop"


def prepare(folder: str, max_tokens: int):
    import numpy as np
    import transformers
    from optimum.intel import OVModelForFeatureExtraction

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = OVModelForFeatureExtraction.from_pretrained(folder, export=True)

    def encode(texts: list[str]):
        vectors = []
        for at in range(0, len(texts), 32):
            part = texts[at : at + 32]
            batch = tokenizer(part, truncation=True, max_length=max_tokens, padding=True, return_tensors="np")
            vectors.append(np.asarray(model(**batch).last_hidden_state)[:, 0])
        return np.concatenate(vectors)

    return encode
