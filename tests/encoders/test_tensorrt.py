"""TensorRT without a GPU: profiles, engine folders, and the calls of onnxruntime."""

import ctypes
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from loid_infer.encoders import tensorrt
from loid_infer.encoders.budget import Budget
from loid_infer.encoders.folder import EncoderFolder, open_folder
from loid_infer.encoders.onnxruntime import forward, open_session
from loid_infer.encoders.schedule import padded_lengths, token_batches
from loid_infer.encoders.tensorrt import MIN_TOKENS, TensorRt, private_folder, profiles
from loid_infer.errors import BadArtifact, RuntimeMissing
from tests.conftest import toy_texts


@pytest.fixture(scope="module")
def encoder(exported: Path) -> EncoderFolder:
    return open_folder(exported / "exports/encoders/base", "base")


@pytest.mark.parametrize("max_tokens", [8, 32, 100, 256, 512])
@pytest.mark.parametrize("budget", [512, 32_768])
def test_every_batch_within_the_budget_fits_one_profile(max_tokens: int, budget: int) -> None:
    shapes = profiles(max_tokens, budget)
    for length in range(1, max_tokens + 1):
        width = max(MIN_TOKENS, min(int(padded_lengths(np.array([length]))[0]), max_tokens))
        (profile,) = [shape for shape in shapes if shape.min_tokens <= width <= shape.max_tokens]
        assert profile.best_rows <= max(1, budget // width) <= profile.max_rows
        assert profile.max_rows * profile.max_tokens <= 2 * max(budget, profile.max_tokens)


def test_an_engine_folder_that_is_writable_by_others_is_refused(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "engines", "a")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder(tmp_path / "engines", "a") == folder
    folder.chmod(0o770)
    with pytest.raises(BadArtifact, match=r"others may write.*got mode 770.*rm -r"):
        private_folder(tmp_path / "engines", "a")
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "engines" / "b").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadArtifact, match="others may write"):
        private_folder(tmp_path / "engines", "b")


def test_a_missing_tensorrt_is_an_error(encoder: EncoderFolder, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tensorrt, "tensorrt_lacks", lambda: "TensorRT is not installed: libnvinfer.so.10")
    with pytest.raises(RuntimeMissing, match=r"cannot run here: TensorRT is not installed: libnvinfer\.so\.10.*doctor"):
        TensorRt(encoder.graph, "fp16", 32, "Toy GPU", tmp_path, Budget(512))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def session_options(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The options of opened sessions; the CPU computes instead of TensorRT and checks the shapes."""
    sessions: list[dict[str, str]] = []
    writes_engine = getattr(request, "param", True)  # whether an engine file is written

    def session(graph, provider, options, n_threads):
        assert provider == "tensorrt"
        sessions.append(options)
        most = dict(part.split(":") for part in options["trt_profile_max_shapes"].split(","))["input_ids"]
        least = dict(part.split(":") for part in options["trt_profile_min_shapes"].split(","))["attention_mask"]
        if writes_engine:
            Path(options["trt_engine_cache_path"], options["trt_engine_cache_prefix"] + "_1_0_fp16.engine").touch()
        return SimpleNamespace(
            real=open_session(graph, "cpu", {}, 1),
            rows=int(most.split("x")[0]),
            most=int(most.split("x")[1]),
            least=int(least.split("x")[1]),
        )

    def compute(session, batch, device):
        n, width = batch.input_ids.shape
        assert n <= session.rows
        assert session.least <= width <= session.most
        assert device == "cuda"
        return forward(session.real, batch, "cpu")

    monkeypatch.setattr(tensorrt, "tensorrt_lacks", lambda: "")
    monkeypatch.setattr(tensorrt, "tensorrt_libraries", lambda: ("one", "two"))
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: SimpleNamespace(getInferLibVersion=lambda: 101600))
    monkeypatch.setattr(tensorrt, "open_session", session)
    monkeypatch.setattr(tensorrt, "forward", compute)
    return sessions


def test_engines_are_built_on_demand_and_compute_every_vector(
    encoder: EncoderFolder, tmp_path: Path, session_options: list[dict[str, str]]
) -> None:
    texts = ["", "a", *toy_texts(80), "guitar " * 40]
    tokens = encoder.tokenizer()(texts)
    runtime = TensorRt(encoder.graph, "fp16", 32, "Toy GPU", tmp_path, Budget(256))
    assert session_options == []
    parts = list(token_batches(np.arange(len(texts)), tokens.flat_ids, tokens.lengths, 256, 32))
    slots, vectors = zip(*runtime.run(parts), strict=True)
    order = np.argsort(np.concatenate(slots))
    assert np.concatenate(slots)[order].tolist() == list(range(len(texts)))
    reference = [forward(open_session(encoder.graph, "cpu", {}, 1), part, "cpu") for part in parts]
    expected = np.concatenate(reference)[np.argsort(np.concatenate([part.slots for part in parts]))]
    np.testing.assert_allclose(np.concatenate(vectors)[order], expected, atol=1e-5)
    (options,) = session_options
    assert options["trt_fp16_enable"] == "1"
    assert "trt_bf16_enable" not in options
    folder = Path(options["trt_engine_cache_path"])
    assert folder.parent == tmp_path / "tensorrt"
    assert folder.name.endswith("-101600-Toy_GPU-fp16")


def test_every_graph_precision_and_gpu_has_its_own_engine_folder(
    encoder: EncoderFolder, tmp_path: Path, session_options: list[dict[str, str]]
) -> None:
    folders, copies = set(), [tmp_path / name for name in ("same.onnx", "other.onnx")]
    for copy, more in zip(copies, (b"", b"\n"), strict=True):
        copy.write_bytes(encoder.graph.read_bytes() + more)
    same, other = copies
    for graph, precision, gpu in (
        (encoder.graph, "fp16", "A"),
        (encoder.graph, "bf16", "A"),
        (same, "fp16", "B"),
        (other, "fp16", "A"),
        (same, "fp16", "A"),
    ):
        folders.add(TensorRt(graph, precision, 32, gpu, tmp_path, Budget(256))._folder)
    assert len(folders) == 4, "equal graphs share a folder"


@pytest.mark.parametrize("session_options", [False], indirect=True)
def test_a_graph_that_only_cuda_computes_is_refused(encoder: EncoderFolder, tmp_path: Path, session_options) -> None:
    runtime = TensorRt(encoder.graph, "fp16", 32, "A/B GPU", tmp_path, Budget(256))
    tokens = encoder.tokenizer()(["great guitar"])
    with pytest.raises(RuntimeMissing, match="TensorRT computes no part of the graph"):
        list(runtime.run(token_batches(np.arange(1), tokens.flat_ids, tokens.lengths, 256, 32)))
    assert len(session_options) == 1


def test_layer_norm_is_one_operator_in_the_graph(encoder: EncoderFolder) -> None:
    """TensorRT computes LayerNormalization in float32, but a decomposed norm in half precision."""
    import onnx

    kinds = [node.op_type for node in onnx.load(encoder.graph).graph.node]
    assert kinds.count("LayerNormalization") == 2 * encoder.spec.n_layers + 1
    assert not {"Pow", "ReduceMean"} & set(kinds)


def test_an_unexpected_provider_is_refused(encoder: EncoderFolder, monkeypatch) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(RuntimeMissing, match=r"not built for a GPU.*expected CUDAExecutionProvider.*\[gpu\]"):
            open_session(encoder.graph, "cuda", {}, 1)
    fallback = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("three lines"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: fallback)
    with pytest.raises(RuntimeMissing, match=r"uses another provider.*expected CUDA.*got CPU.*doctor"):
        open_session(encoder.graph, "cuda", {}, 1)


def test_a_full_gpu_halves_the_batches_of_onnxruntime(encoder: EncoderFolder, monkeypatch) -> None:
    from loid_infer.encoders import onnxruntime as module

    tokens = encoder.tokenizer()(toy_texts(40))
    parts = list(token_batches(np.arange(40), tokens.flat_ids, tokens.lengths, 400, 32))
    runtime = module.OnnxRuntime(encoder.graph, "fp32", "cpu", 1, Budget(400))
    expected = np.concatenate([vectors for _, vectors in runtime.run(parts)])
    original, sizes = module.forward, []

    def small(session, batch, device):
        sizes.append(batch.input_ids.size)
        if batch.input_ids.size > 150:
            raise RuntimeError("Failed to allocate memory for requested buffer")
        return original(session, batch, device)

    monkeypatch.setattr(module, "forward", small)
    slots, vectors = zip(*runtime.run(parts), strict=True)
    np.testing.assert_allclose(np.concatenate(vectors), expected, atol=1e-5)
    assert sorted(np.concatenate(slots)) == list(range(40))
    assert max(sizes[3:]) <= 200
