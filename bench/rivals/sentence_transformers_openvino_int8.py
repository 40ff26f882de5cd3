"""sentence-transformers on its OpenVINO backend with NNCF's static int8 (transformer preset), which is what its
documentation recommends; calibrated on 300 of the texts, since its own calibration set needs the network."""

from bench.rivals import sentence_transformers_default as default

LABEL = "sentence-transformers (openvino, int8)"


def prepare(folder: str, max_tokens: int, texts: list[str]):
    import nncf

    model = default.load(folder, max_tokens, backend="openvino", model_kwargs={"export": True})
    inner = model[0].auto_model
    names = {port.get_any_name() for port in inner.model.inputs}

    def as_input(text: str) -> dict:
        found = model.tokenizer([text], truncation=True, max_length=max_tokens, return_tensors="np")
        return {name: part for name, part in found.items() if name in names}

    calibration = nncf.Dataset(texts[:: max(1, len(texts) // 300)][:300], as_input)
    inner.model = nncf.quantize(inner.model, calibration, model_type=nncf.ModelType.TRANSFORMER)
    inner.clear_requests()
    return lambda texts: model.encode(texts, show_progress_bar=False)
