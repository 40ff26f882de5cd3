import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from loid_infer import export
from loid_infer.encoders import opening
from loid_infer.encoders.folder import open_folder
from loid_infer.encoders.processor import has_bf16
from loid_infer.encoders.proof import Parity
from loid_infer.errors import BadArtifact, BadName, BadSetting, NoSpace, ParityError
from loid_infer.settings import Workspace
from loid_infer.verbs import export as export_module


def test_the_folder_is_what_others_read(exported: Path, toy_base: Path) -> None:
    import torch
    import transformers

    folder = exported / "exports/encoders/base"
    assert {path.name for path in folder.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "model.onnx",
        "parity.safetensors",
        "manifest.json",
    }
    model, report = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    original = transformers.AutoModel.from_pretrained(toy_base)
    ids = torch.tensor([[2, 50, 60, 3]])
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).last_hidden_state, original.eval()(ids).last_hidden_state)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parity"]["passed"] is True
    assert manifest["parity"]["cos_min"] >= 0.99999
    assert str(toy_base.parent) not in json.dumps(manifest), "a name, never a path"


def test_two_exports_are_the_same_bytes(exported: Path, toy_base: Path, tmp_path: Path) -> None:
    again = export("base", base=str(toy_base), precision="fp32", max_tokens=32, workspace=Workspace(tmp_path))
    first, second = exported / "exports/encoders/base", Path(again.path)
    assert json.loads((first / "manifest.json").read_text())["fingerprint"] == again.fingerprint
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"precision": "int3"}, "auto | fp32 | bf16"),
        ({"store": "fp8"}, "fp16 | fp32"),
        ({"max_tokens": 65}, "3 to 64"),
        ({"max_tokens": 2}, "3 to 64"),
    ],
)
def test_options_out_of_range_are_named(toy_base: Path, tmp_path: Path, arguments: dict, said: str) -> None:
    with pytest.raises(BadSetting) as error:
        export(base=str(toy_base), workspace=Workspace(tmp_path), **arguments)
    assert said in str(error.value)
    assert not any(tmp_path.rglob("model.onnx"))


def test_a_name_is_a_slug(toy_base: Path, tmp_path: Path) -> None:
    with pytest.raises(BadName):
        export("../../etc", base=str(toy_base), workspace=Workspace(tmp_path))


def test_an_export_whose_parity_fails_is_not_finished_and_the_old_one_stays(
    workspace: Workspace, toy_base: Path, monkeypatch
) -> None:
    before = (workspace.encoder("base") / "manifest.json").read_bytes()
    monkeypatch.setattr(export_module, "measure_runtimes", lambda _: {"openvino": Parity(0.97, 0.99, 1.0, 64)})
    with pytest.raises(ParityError, match=r"0\.970000.*Nothing was written"):
        export("base", base=str(toy_base), precision="fp32", workspace=workspace)
    assert (workspace.encoder("base") / "manifest.json").read_bytes() == before
    assert [path.name for path in workspace.encoder("base").parent.iterdir()] == ["base"], "no partial folder stays"


def test_auto_says_why_and_takes_fp32_when_bf16_misses(toy_base: Path, tmp_path: Path, monkeypatch) -> None:
    real = opening.measure_runtimes
    monkeypatch.setattr(export_module, "has_bf16", lambda: True)
    monkeypatch.setattr(
        export_module,
        "measure_runtimes",
        lambda e: real(e) if e.card.precision == "fp32" else {"openvino": Parity(0.99, 1.0, 1.0, 64)},
    )
    result = export(base=str(toy_base), max_tokens=16, workspace=Workspace(tmp_path))
    assert (result.precision, "missed its gate" in result.precision_reason) == ("fp32", True)
    monkeypatch.setattr(export_module, "has_bf16", lambda: False)
    result = export(base=str(toy_base), max_tokens=16, workspace=Workspace(tmp_path))
    assert (result.precision, result.precision_reason) == ("fp32", "the processor has no native bf16")


def test_a_full_disk_ends_an_export_with_its_error(toy_base: Path, tmp_path: Path, monkeypatch) -> None:
    import safetensors.torch

    def full(*_: object, **__: object) -> None:
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(NoSpace, match=r"No space left on device.*bytes free.*nothing is lost"):
        export(base=str(toy_base), precision="fp32", workspace=Workspace(tmp_path))
    assert list(Workspace(tmp_path).encoder("base").parent.iterdir()) == []


class TestLoader:
    def test_an_altered_file_is_refused(self, workspace: Workspace) -> None:
        for name in ("model.safetensors", "model.onnx", "tokenizer.json", "config.json", "parity.safetensors"):
            folder = Path(shutil.copytree(workspace.encoder("base"), workspace.root / "copy" / name))
            data = bytearray((folder / name).read_bytes())
            data[len(data) // 2] ^= 1
            (folder / name).write_bytes(data)
            with pytest.raises(BadArtifact, match=name):
                open_folder(folder, "base")

    def test_no_passing_report_no_encoder(self, workspace: Workspace) -> None:
        path = workspace.encoder("base") / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["parity"]["passed"] = False
        path.write_text(json.dumps(manifest))
        with pytest.raises(ParityError, match="no passing parity report"):
            open_folder(path.parent, "base")

    def test_a_card_edited_by_hand_is_refused(self, workspace: Workspace) -> None:
        path = workspace.encoder("base") / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["card"]["max_tokens"] = 64
        path.write_text(json.dumps(manifest))
        with pytest.raises(BadArtifact, match="not the one that was exported"):
            open_folder(path.parent, "base")

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"kind": "head"}', '{"kind": "encoder"}'])
    def test_a_broken_manifest_is_refused(self, workspace: Workspace, text: str) -> None:
        path = workspace.encoder("base") / "manifest.json"
        path.write_text(text)
        with pytest.raises(BadArtifact, match=r"loid-infer export --name base"):
            open_folder(path.parent, "base")


@pytest.mark.skipif(not has_bf16(), reason="this processor has no native bf16")
def test_the_bundled_encoder_passes_the_bf16_gate(bundled) -> None:
    _, result = bundled
    assert result.precision == "bf16"
    assert result.parity.cos_min >= 0.9999
    assert result.parity.n_texts == 64
    assert {field.name for field in fields(result)} >= {"encoder", "path", "fingerprint", "precision", "parity"}


def test_optimum_opens_the_export(exported: Path) -> None:
    optimum = pytest.importorskip("optimum.onnxruntime", reason="optimum is not installed")
    import torch

    folder = exported / "exports/encoders/base"
    model = optimum.ORTModelForCustomTasks.from_pretrained(folder, file_name="model.onnx")
    probes = open_folder(folder, "base").probes()
    ids = torch.from_numpy(probes.flat_ids[: probes.lengths[0]].astype(np.int64))[None]
    cls = model(input_ids=ids, attention_mask=torch.ones_like(ids))["cls"]
    np.testing.assert_allclose(np.asarray(cls)[0], probes.cls[0], atol=1e-4)
