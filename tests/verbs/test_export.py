"""`export`: folders, precisions, parity gates, int8 and opening an exported encoder."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from loid_infer import Encoder, export, ingest, tensors
from loid_infer.artifact import digest_file
from loid_infer.data.corpora import digests_of
from loid_infer.data.reviews import open_table
from loid_infer.encoders import opening
from loid_infer.encoders import torch as torch_runtime
from loid_infer.encoders.folder import EncoderFolder, open_folder
from loid_infer.encoders.manifest import GATES, HeadGate, Parity
from loid_infer.encoders.opening import able, measure_runtimes
from loid_infer.encoders.processor import has_bf16, installed
from loid_infer.encoders.torch import TorchRuntime, module_of
from loid_infer.errors import BadArtifact, BadName, BadSetting, NoSpace, ParityError
from loid_infer.graphs import making
from loid_infer.graphs import quantize as quantizing
from loid_infer.graphs.bases import load_base
from loid_infer.graphs.graph import write_graph
from loid_infer.graphs.making import make_encoder
from loid_infer.graphs.quantize import ALPHAS, quantize
from loid_infer.settings import Workspace
from loid_infer.types import SILENT
from loid_infer.verbs import export as export_module
from loid_infer.verbs.export import open_calibration
from tests.conftest import toy_texts, write_reviews


def test_transformers_reads_the_exported_folder(exported: Path, toy_base: Path) -> None:
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
    assert str(toy_base.parent) not in json.dumps(manifest), "the manifest must not contain a local path"


def test_an_export_names_the_scripts_that_its_tokenizer_does_not_know(toy_base: Path, tmp_path: Path) -> None:
    class Recorder(type(SILENT)):
        def say(self, line: str) -> None:
            lines.append(line)

    lines: list[str] = []
    export(base=str(toy_base), precision="fp32", max_tokens=32, workspace=Workspace(tmp_path), progress=Recorder())
    (line,) = [line for line in lines if "does not know" in line]
    assert all(script in line for script in ("emoji", "Arabic", "Chinese", "Cyrillic", "Greek", "Thai"))


def test_exporting_twice_gives_identical_files(exported: Path, toy_base: Path, tmp_path: Path) -> None:
    again = export("base", base=str(toy_base), precision="fp32", max_tokens=32, workspace=Workspace(tmp_path))
    first, second = exported / "exports/encoders/base", Path(again.path)
    assert json.loads((first / "manifest.json").read_text())["fingerprint"] == again.fingerprint
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int3"}, "auto | fp32 | bf16 | fp16 | int8"),
        ({"precision": "int8"}, "--calibrate-on DOMAIN"),
        ({"precision": "bf16", "calibrate_on": "toys"}, "only int8 is calibrated"),
        ({"store": "fp8"}, "fp16 | fp32"),
        ({"max_tokens": 65}, "3 to 64"),
        ({"max_tokens": 2}, "3 to 64"),
    ],
)
def test_invalid_options_are_refused_with_the_valid_values(
    toy_base: Path, tmp_path: Path, arguments: dict, message: str
) -> None:
    with pytest.raises(BadSetting) as error:
        export(base=str(toy_base), workspace=Workspace(tmp_path), **arguments)
    assert message in str(error.value)
    assert not any(tmp_path.rglob("model.onnx"))


def test_an_invalid_encoder_name_is_refused(toy_base: Path, tmp_path: Path) -> None:
    with pytest.raises(BadName):
        export("../../etc", base=str(toy_base), workspace=Workspace(tmp_path))


def test_an_export_that_fails_parity_leaves_the_previous_encoder(
    workspace: Workspace, toy_base: Path, monkeypatch
) -> None:
    before = (workspace.encoder("base") / "manifest.json").read_bytes()
    monkeypatch.setattr(making, "measure_runtimes", lambda _: [("openvino", Parity(0.97, 0.99, 1.0, 64))])
    with pytest.raises(ParityError, match=r"0\.970000.*Nothing was written"):
        export("base", base=str(toy_base), precision="fp32", workspace=workspace)
    assert (workspace.encoder("base") / "manifest.json").read_bytes() == before
    assert [path.name for path in workspace.encoder("base").parent.iterdir()] == ["base"], "a partial folder was left"


def test_auto_precision_falls_back_to_fp32_and_reports_why(toy_base: Path, tmp_path: Path, monkeypatch) -> None:
    original = opening.measure_runtimes
    monkeypatch.setattr(making, "has_bf16", lambda: True)
    monkeypatch.setattr(
        making,
        "measure_runtimes",
        lambda e: original(e) if e.spec.precision == "fp32" else [("openvino", Parity(0.99, 1.0, 1.0, 64))],
    )
    result = export(base=str(toy_base), max_tokens=16, workspace=Workspace(tmp_path))
    assert (result.precision, "missed its gate" in result.precision_reason) == ("fp32", True)
    monkeypatch.setattr(making, "has_bf16", lambda: False)
    result = export(base=str(toy_base), max_tokens=16, workspace=Workspace(tmp_path))
    assert (result.precision, result.precision_reason) == ("fp32", "the processor has no native bf16")


@pytest.mark.parametrize("cosines", [(0.99995,), (0.9998, 0.99995)])
def test_norms_and_sums_are_bf16_where_they_pass_the_gate(
    toy_base: Path, tmp_path: Path, monkeypatch, cosines: tuple[float, ...]
) -> None:
    seen: list[bytes] = []

    def measured(encoder: EncoderFolder) -> list[tuple[str, Parity]]:
        cosine = 1.0 if encoder.spec.precision == "fp32" else cosines[len(seen) - 1]
        seen.append(encoder.graph.read_bytes())
        return [("openvino", Parity(cosine, cosine, 0.0, 64))]

    monkeypatch.setattr(making, "has_bf16", lambda: True)
    monkeypatch.setattr(making, "measure_runtimes", measured)
    result = export("it", base=str(toy_base), precision="bf16", max_tokens=16, workspace=Workspace(tmp_path))
    assert result.parity.cos_min == cosines[-1] and len(seen) == 1 + len(cosines)
    exact, fast, *last = seen
    assert exact != fast and last == [exact] * (len(cosines) - 1)
    assert open_folder(Path(result.path), "it").graph.read_bytes() == seen[-1]


@pytest.mark.parametrize(
    ("is_native", "cosine", "expected"),
    [
        (True, 0.99995, ["bf16"]),
        (True, 0.99, ["bf16", "bf16", "fp32"]),  # with and without norms in bf16
        (False, 0.99, ["fp32"]),
    ],
)
def test_a_first_use_proves_the_precision_that_it_ends_with(
    toy_base: Path, tmp_path: Path, monkeypatch, is_native: bool, cosine: float, expected: list[str]
) -> None:
    seen: list[str] = []

    def measured(encoder: EncoderFolder) -> list[tuple[str, Parity]]:
        seen.append(encoder.spec.precision)
        of_this = 1.0 if seen[-1] == "fp32" else cosine
        return [("openvino", Parity(of_this, of_this, 0.0, 64))]

    monkeypatch.setattr(making, "has_bf16", lambda: is_native)
    monkeypatch.setattr(making, "measure_runtimes", measured)
    base = load_base(str(toy_base))
    made = make_encoder(tmp_path / "it", base, precision="auto", max_tokens=16, progress=SILENT, every_runtime=False)
    assert seen == expected and made.spec.precision == expected[-1] and made.parity.passed
    if expected[-1] == "fp32":
        write_graph(made.spec, open_folder(tmp_path / "it", "it").tensors(), tmp_path / "exact.onnx")
        assert (tmp_path / "it" / "model.onnx").read_bytes() == (tmp_path / "exact.onnx").read_bytes()


def test_a_full_disk_is_reported_and_no_partial_export_is_left(toy_base: Path, tmp_path: Path, monkeypatch) -> None:
    def raise_disk_full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensors, "save_file", raise_disk_full)
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

    def test_an_encoder_without_a_passing_parity_report_is_refused(self, workspace: Workspace) -> None:
        path = workspace.encoder("base") / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["parity"]["passed"] = False
        path.write_text(json.dumps(manifest))
        with pytest.raises(ParityError, match="no passing parity report"):
            open_folder(path.parent, "base")

    def test_a_spec_edited_by_hand_is_refused(self, workspace: Workspace) -> None:
        path = workspace.encoder("base") / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["card"]["max_tokens"] = 64
        path.write_text(json.dumps(manifest))
        with pytest.raises(BadArtifact, match="changed after the export"):
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


def test_an_int8_export_reports_its_quantization_and_losses(exported_int8) -> None:
    workspace, result = exported_int8
    folder = open_folder(workspace.encoder("small"), "small")
    assert result.precision == folder.spec.precision == "int8"
    assert folder.spec.quantized_graph == digest_file(folder.graph)
    assert result.int8.calibrated_on == "toys"
    assert result.int8.choice.n_products + len(result.int8.choice.kept_float) == 6, "the products of one of two layers"
    assert result.int8.choice.cos_mean >= 0.998
    assert result.int8.head.change <= 0.005
    assert result.int8.head.n_seeds == 5
    assert folder.manifest.int8.head.mse_int8 == result.int8.head.mse_int8
    assert set(folder.manifest.parity.runtimes) == {
        backend.name for backend in able("cpu", "int8") if backend.installed
    }


def test_an_int8_graph_has_int8_weights_and_standard_operators(exported_int8) -> None:
    import onnx

    from loid_infer.encoders.graph import checked

    workspace, _ = exported_int8
    graph = workspace.encoder("small") / "model.onnx"
    checked(graph)
    model = onnx.load(graph)
    onnx.checker.check_model(model)
    kinds = [tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 2]
    assert kinds.count(onnx.TensorProto.INT8) == 6


def test_exporting_int8_twice_gives_identical_files(exported_int8, toy_base: Path, tmp_path: Path) -> None:
    workspace, result = exported_int8
    shutil.copytree(workspace.root / "data", tmp_path / "data")
    arguments = {"base": str(toy_base), "precision": "int8", "calibrate_on": "toys", "max_tokens": 32}
    again = export("small", **arguments, workspace=Workspace(tmp_path))
    assert again.fingerprint == result.fingerprint
    first, second = Path(result.path), Path(again.path)
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}


def test_matrix_products_with_too_much_loss_stay_in_floating_point(
    exported: Path, exported_int8, toy_base: Path, monkeypatch
) -> None:
    """With a gate just above the cosine of the fully quantized graph, some products stay in floating point."""
    workspace, _ = exported_int8
    gates = "loid_infer.encoders.manifest.GATES"
    monkeypatch.setattr(quantizing, "has_amx", lambda: False)
    calibration = open_calibration(workspace, "int8", "toys")
    folder = copy_of_encoder(exported, workspace.root / "all")
    int8, everything = quantize(folder, *reference_of(folder), calibration.texts())
    on_probes = next(measure_runtimes(int8))[1]
    monkeypatch.setattr(gates, GATES | {"int8": ("cos_mean", min(everything.cos_mean, on_probes.cos_mean) + 1e-9)})
    folder = copy_of_encoder(exported, workspace.root / "kept")
    _, choice = quantize(folder, *reference_of(folder), calibration.texts())
    assert choice.kept_float and not everything.kept_float
    assert choice.cos_mean > everything.cos_mean

    monkeypatch.setattr(gates, GATES | {"int8": ("cos_mean", 1.1)})
    folder = copy_of_encoder(exported, workspace.root / "refused")
    before = folder.graph.read_bytes()
    with pytest.raises(ParityError, match=r"int8 misses its gate .*got 0\.99.* of 4 groups"):
        quantize(folder, *reference_of(folder), calibration.texts())
    assert same_graph(folder.graph.read_bytes(), before), "the floating-point graph was not restored"


def test_inputs_get_zero_points_before_products_stay_in_floating_point(
    exported: Path, exported_int8, monkeypatch
) -> None:
    workspace, _ = exported_int8
    calibration, tried, quantized = open_calibration(workspace, "int8", "toys"), [], quantizing._quantized
    monkeypatch.setattr(quantizing, "has_amx", lambda: True)
    monkeypatch.setattr(quantizing, "installed", lambda _: True)

    def record(model, inputs, alpha, signed):
        tried.append((signed, len(inputs)))
        return quantized(model, inputs, alpha, signed)

    monkeypatch.setattr(quantizing, "_quantized", record)
    folder = copy_of_encoder(exported, workspace.root / "signed")
    quantize(folder, *reference_of(folder), calibration.texts())
    assert tried == [(True, 4)] * (len(ALPHAS) + 1)

    tried.clear()
    monkeypatch.setattr("loid_infer.encoders.manifest.GATES", GATES | {"int8": ("cos_mean", 1.1)})
    folder = copy_of_encoder(exported, workspace.root / "zeros")
    with pytest.raises(ParityError):
        quantize(folder, *reference_of(folder), calibration.texts())
    n = len(ALPHAS) + 1
    assert tried == [(True, 4)] * n + [(False, 4)] * n + [(False, 3), (False, 2)]


def copy_of_encoder(exported: Path, path: Path) -> EncoderFolder:
    shutil.copytree(exported / "exports/encoders/base", path)
    return open_folder(path, "base")


def reference_of(folder: EncoderFolder):
    """The torch module of an encoder and the function that computes its float32 vectors."""
    module = module_of(folder)
    return module, Encoder(folder.spec, lambda: (folder.tokenizer(), TorchRuntime(module, "fp32", 1))).encode


def same_graph(first: bytes, second: bytes) -> bool:
    import onnx

    return bool(onnx.load_from_string(first) == onnx.load_from_string(second))


def test_int8_is_refused_when_it_makes_the_head_worse(exported_int8, toy_base: Path, tmp_path: Path) -> None:
    workspace, _ = exported_int8
    shutil.copytree(workspace.root / "data", tmp_path / "data")
    arguments = {"base": str(toy_base), "precision": "int8", "calibrate_on": "toys", "max_tokens": 32}

    def judge(interactions, exact, approximate, progress) -> HeadGate:
        assert exact.shape == approximate.shape == (len(interactions.digests), 32)
        assert not np.array_equal(exact, approximate)
        return HeadGate(1.0, 1.0051, 0.0051, interactions.n, 5)

    with pytest.raises(ParityError, match=r"at most 0\.5% above .*got \+0\.51%"):
        export("small", **arguments, judge=judge, workspace=tmp_path)
    assert not Workspace(tmp_path).encoder("small").exists()


def test_int8_with_too_few_calibration_texts_is_refused(exported_int8, toy_base: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    ingest([write_reviews(tmp_path / "few.jsonl", toy_texts(63))], "few", workspace=workspace)
    with pytest.raises(BadSetting, match=r"too few texts .*at least 64.*got 63"):
        export(base=str(toy_base), precision="int8", calibrate_on="few", workspace=workspace)


def test_the_head_gate_samples_whole_users_of_a_large_domain(exported_int8, monkeypatch) -> None:
    workspace, _ = exported_int8
    monkeypatch.setattr(export_module, "_MAX_REVIEWS", 50)
    calibration = open_calibration(workspace, "int8", "toys")
    part = calibration.interactions
    assert 50 <= part.n < 200
    whole = open_table(workspace.table("toys"), "toys").interactions(SILENT)
    per_user = np.bincount(whole.users)
    assert (np.bincount(part.users, minlength=len(per_user))[part.users] == per_user[part.users]).all()
    texts = {
        tuple(digest): row
        for rows, part_texts in calibration.table.texts(np.sort(calibration.rows))
        for row, digest in zip(rows.tolist(), digests_of(part_texts), strict=True)
    }
    assert [texts[tuple(digest)] for digest in part.digests] == calibration.rows.tolist()


def test_export_for_tensorrt_sets_shape_profiles_and_reports_missing_requirements(
    toy_base: Path, tmp_path: Path
) -> None:
    from loid_infer.encoders.gpu import tensorrt_lacks

    result = export(base=str(toy_base), precision="fp16", max_tokens=64, tensorrt=True, workspace=Workspace(tmp_path))
    assert result.tensorrt is not None
    assert [shape.max_tokens for shape in result.tensorrt.profiles] == [32, 64]
    assert result.tensorrt.ready == (not result.tensorrt.missing)
    if tensorrt_lacks():
        assert result.tensorrt.missing == tensorrt_lacks()


def test_with_a_gpu_auto_precision_is_fp16_and_auto_runtime_is_torch(
    toy_base: Path, tmp_path: Path, monkeypatch
) -> None:
    """The packed runtime of GPUs runs on the CPU here, and torch_device reports a GPU."""
    from loid_infer.encoders.budget import Budget
    from loid_infer.encoders.cuda import PackedRuntime

    original = torch_runtime._open

    def load(encoder, device, n_threads, n_streams):
        if device == "cpu":
            return original(encoder, device, n_threads, n_streams)
        return PackedRuntime(module_of(encoder), encoder.spec.precision, "cpu", Budget(4096), half=True)

    monkeypatch.setattr(torch_runtime, "_open", load)
    for module in (opening, making):
        monkeypatch.setattr(module, "torch_device", lambda device: "cpu" if device == "cpu" else "cuda")
    result = export(base=str(toy_base), max_tokens=32, workspace=Workspace(tmp_path))
    assert (result.precision, "GPU" in result.precision_reason) == ("fp16", True)
    parity = json.loads((Path(result.path) / "manifest.json").read_text())["parity"]
    assert parity["runtime"] == "torch on cuda"
    encoder = open_folder(Path(result.path), "base")
    for device, name in (("auto", "torch"), ("cpu", "openvino")):
        opened = opening.open_runtime(encoder, runtime="auto", device=device, n_threads=1, progress=SILENT)
        assert opened.name == name or not installed(name)
    assert opening.open_runtime(encoder, runtime="openvino", device="auto", n_threads=1, progress=SILENT).name == (
        "openvino"
    )
