"""sentence-transformers on its OpenVINO backend, exported by optimum-intel on the spot. It takes bf16 where that is
native."""

from bench.rivals import sentence_transformers_default as default

LABEL = "sentence-transformers (openvino)"


def prepare(folder: str, max_tokens: int):
    return default.prepare(folder, max_tokens, backend="openvino", model_kwargs={"export": True})
