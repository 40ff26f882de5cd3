"""fastembed (onnxruntime) with the same model, CLS pooling, as its documentation shows it for a model of one's own."""

LABEL = "fastembed"


def prepare(folder: str, max_tokens: int):
    import json
    import shutil
    import tempfile
    from pathlib import Path

    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    place = Path(tempfile.mkdtemp())
    shutil.copytree(folder, place, dirs_exist_ok=True)
    ORTModelForFeatureExtraction.from_pretrained(folder, export=True).save_pretrained(place)
    settings = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps(settings | {"max_length": max_tokens}))
    TextEmbedding.add_custom_model(
        model="local/encoder",
        pooling=PoolingType.CLS,
        normalization=False,
        sources=ModelSource(hf="local/encoder"),
        dim=json.loads((place / "config.json").read_text())["hidden_size"],
        model_file="model.onnx",
    )
    model = TextEmbedding("local/encoder", specific_model_path=str(place))
    return lambda texts: list(model.embed(texts))
