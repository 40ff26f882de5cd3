"""Loading of base models from folders and from the hub."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loid_infer.errors import BadArtifact, BadSetting, RuntimeMissing
from loid_infer.graphs.bases import find_base, load_base


@pytest.fixture
def folder(toy_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_base, tmp_path / "my-bert"))


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_the_bundled_encoder_needs_no_network() -> None:
    name, path = find_base("default")
    assert name == "all-MiniLM-L6-v2"
    assert (path / "model.safetensors").is_file()


def test_a_local_base_is_recorded_by_name_without_its_path(folder: Path) -> None:
    base = load_base(str(folder))
    assert base.name == "my-bert"
    assert base.config["hidden_size"] == 32
    parts = json.loads(base.tokenizer_json)
    assert parts["truncation"] is None is parts["padding"]


def test_old_checkpoint_tensor_names_are_supported(folder: Path) -> None:
    """Like bert-base-uncased on the hub: prefix `bert.`, LayerNorm gamma and beta, a task head; no tokenizer.json."""
    new = load_base(str(folder)).tensors
    old = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    old["cls.predictions.bias"] = old["bert.embeddings.word_embeddings.weight"][:, 0].clone()
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer.json").unlink()
    base = load_base(str(folder))
    assert sorted(base.tensors) == sorted(new)
    assert all(bool((base.tensors[name] == tensor).all()) for name, tensor in new.items())
    assert json.loads(base.tokenizer_json)["model"]["type"] == "WordPiece"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_reference_is_float32_for_every_checkpoint(folder: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    change_config(folder, dtype=str(dtype).removeprefix("torch."))
    base = load_base(str(folder))
    loaded = [*base.tensors.values(), *base.model.parameters()]
    assert {tensor.dtype for tensor in loaded} == {torch.float32}
    name = "encoder.layer.0.output.dense.weight"
    assert bool((base.tensors[name] == tensors[name].float()).all())


def test_a_missing_tensor_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadArtifact, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        load_base(str(folder))


def test_a_missing_pooler_is_allowed(folder: Path) -> None:
    tensors = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert not any("pooler" in name for name in load_base(str(folder)).tensors)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "albert"),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("hidden_act", "mish"),
    ],
)
def test_unsupported_models_are_refused(folder: Path, field: str, value: object) -> None:
    change_config(folder, **{field: value})
    with pytest.raises(BadArtifact, match="activation" if field == "hidden_act" else field):
        load_base(str(folder))


def test_a_folder_without_config_or_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadArtifact, match="weights cannot be read"):
        load_base(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(BadArtifact, match=r"config\.json cannot be read"):
        load_base(str(folder))
    with pytest.raises(BadSetting, match="no such base"):
        find_base("/no/such/folder")


def test_a_hub_name_is_downloaded(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    import huggingface_hub

    downloads = []

    def download(name: str, **_: object) -> str:
        downloads.append(name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_base("bert-base-uncased") == ("bert-base-uncased", folder)
    assert downloads == ["bert-base-uncased"]

    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(RuntimeMissing, match=r"bert-base-uncased.*no route to host.*--base a folder"):
        find_base("bert-base-uncased")
