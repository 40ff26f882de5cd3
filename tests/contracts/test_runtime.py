"""The contract of a runtime, tested for every runtime and precision."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from loid_infer.encoders import gpu, processor
from loid_infer.encoders.budget import Budget
from loid_infer.encoders.fake import FakeRuntime
from loid_infer.encoders.folder import EncoderFolder, open_folder
from loid_infer.encoders.opening import backends, load, measure
from loid_infer.encoders.openvino import OpenVino
from loid_infer.encoders.processor import has_bf16
from loid_infer.encoders.protocol import Runtime
from loid_infer.encoders.schedule import padded, token_batches
from loid_infer.encoders.torch import module_of
from loid_infer.kernels.cosine import row_cosines
from loid_infer.types import TokenBatch
from tests.conftest import toy_texts

# The packed module is for GPUs; here it runs on the CPU.
CASES = [
    ("cpu", "fake", "fp32"),
    *(("cpu", "packed", precision) for precision in ("fp32", "fp16", "bf16")),
    *(
        (device, backend.name, precision)
        for backend in backends()
        for device in backend.precisions
        for precision in backend.precisions[device]
    ),
]
BACKENDS = {backend.name: backend for backend in backends()}
GPU_LACKS = {"torch": gpu.torch_lacks, "onnxruntime": gpu.onnxruntime_lacks, "tensorrt": gpu.tensorrt_lacks}


def opened(device: str, name: str, encoder: EncoderFolder) -> Runtime:
    """An unverified runtime; skips with the reason if it cannot run here."""
    if name == "packed":
        from loid_infer.encoders.cuda import PackedRuntime

        return PackedRuntime(module_of(encoder), encoder.spec.precision, "cpu", Budget(500), half=False)
    if device == "cuda" and (lacks := GPU_LACKS[name]()):
        pytest.skip(f"{name} computes on no GPU here: {lacks}")
    if not BACKENDS[name].installed:
        pytest.skip(f"{name} is not installed")
    if (device, encoder.spec.precision) == ("cpu", "bf16") and not has_bf16():
        pytest.skip("this processor has no native bf16")
    return load(name, encoder, device, 2)


@pytest.fixture(scope="module")
def encoder(exported: Path) -> EncoderFolder:
    return open_folder(exported / "exports/encoders/base", "base")


@pytest.fixture(scope="module")
def encoder_int8(exported_int8) -> EncoderFolder:
    workspace, _ = exported_int8
    return open_folder(workspace.encoder("small"), "small")


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def runtime(request: pytest.FixtureRequest, encoder: EncoderFolder) -> tuple[Runtime, float]:
    """A runtime, and the cosine that its precision must reach."""
    device, name, precision = request.param
    if name == "fake":
        return FakeRuntime(encoder.spec.dim), 1.0
    if precision == "int8":
        return opened(device, name, request.getfixturevalue("encoder_int8")), 0.99
    opened_runtime = opened(device, name, replace(encoder, spec=structs.replace(encoder.spec, precision=precision)))
    # The toy's random weights are much larger than trained ones, so bf16 rounds more than its gate allows.
    return opened_runtime, {"fp32": 0.99999, "bf16": 0.995, "fp16": 0.9999}[precision]


def batches(encoder: EncoderFolder, texts: list[str], budget: int) -> list[TokenBatch]:
    tokens = encoder.tokenizer()(texts)
    return list(token_batches(np.arange(len(texts)), tokens.flat_ids, tokens.lengths, budget, encoder.spec.max_tokens))


def vectors(runtime: Runtime, parts: list[TokenBatch], n: int) -> np.ndarray:
    by_slot: dict[int, np.ndarray] = {}
    for slots, rows in runtime.run(iter(parts)):
        assert rows.dtype in (np.float32, np.float16)
        assert len(slots) == len(rows)
        for slot, row in zip(slots, rows, strict=True):
            assert int(slot) not in by_slot
            by_slot[int(slot)] = row
    return np.stack([by_slot[i] for i in range(n)])


def test_a_vector_computed_in_a_batch_equals_the_text_alone(
    runtime: tuple[Runtime, float], encoder: EncoderFolder
) -> None:
    tested, min_cosine = runtime
    texts = ["", "a", *toy_texts(60), "👍"]
    together = vectors(tested, batches(encoder, texts, 400), len(texts))
    alone = vectors(tested, batches(encoder, texts, 1), len(texts))
    # On a GPU the number of rows decides the order of sums, which for the toy in bf16 is as large as the rounding.
    assert row_cosines(together, alone).min() >= (0.9999 if tested.n_tokenizers == 1 else min(0.9999, min_cosine))


def test_padding_and_other_texts_of_a_batch_change_nothing(
    runtime: tuple[Runtime, float], encoder: EncoderFolder
) -> None:
    tested, min_cosine = runtime
    tokens = encoder.tokenizer()(["great guitar", "the plot was bad"])
    starts = np.cumsum(tokens.lengths) - tokens.lengths
    batch, wide = (padded(np.arange(2), tokens.flat_ids, starts, tokens.lengths, width) for width in (6, 15))
    np.testing.assert_array_less(
        min_cosine - 1e-9, row_cosines(vectors(tested, [batch], 2), vectors(tested, [wide], 2))
    )


def test_runs_are_repeatable_and_an_empty_run_returns_nothing(
    runtime: tuple[Runtime, float], encoder: EncoderFolder
) -> None:
    tested, _ = runtime
    parts = batches(encoder, toy_texts(30), 200)
    np.testing.assert_allclose(vectors(tested, parts, 30), vectors(tested, parts, 30), atol=1e-6)
    assert list(tested.run(iter([]))) == []


def test_a_closed_run_leaves_the_runtime_usable(runtime: tuple[Runtime, float], encoder: EncoderFolder) -> None:
    tested, _ = runtime
    parts = batches(encoder, toy_texts(30), 100)
    run = tested.run(iter(parts))
    next(run)
    run.close()
    assert vectors(tested, parts, 30).shape == (30, encoder.spec.dim)


def test_an_error_in_the_input_stream_reaches_the_caller(
    runtime: tuple[Runtime, float], encoder: EncoderFolder
) -> None:
    def source():
        yield from batches(encoder, toy_texts(5), 100)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(runtime[0].run(source()))


def test_vectors_equal_the_reference(runtime: tuple[Runtime, float], encoder: EncoderFolder) -> None:
    tested, min_cosine = runtime
    if tested.name == "fake":
        assert not measure(tested, encoder.probes()).passes("fp32"), "fake vectors must never pass for real ones"
    else:
        assert measure(tested, encoder.probes()).cos_min >= min_cosine


def test_a_runtime_reports_its_name_and_details(runtime: tuple[Runtime, float]) -> None:
    assert runtime[0].name in {"fake", "torch", "onnxruntime", "openvino", "tensorrt"}
    assert runtime[0].detail


@pytest.mark.skipif(not has_bf16(), reason="this processor has no native bf16")
@pytest.mark.parametrize(("precision", "tile", "batch"), [("fp32", 1, 2048), ("bf16", 16, 1792), ("int8", 16, 2048)])
def test_openvino_is_fastest_in_multiples_of_a_tile_with_amx(
    encoder, monkeypatch, precision: str, tile: int, batch: int
) -> None:
    for feature, expected in (("amx_bf16", (tile, batch)), ("avx512_bf16", (1, 2048))):
        monkeypatch.setattr(processor, "features", lambda feature=feature: {feature})
        runtime = OpenVino(encoder.graph, precision, 1, 1)
        assert (runtime.tile, runtime.max_batch_tokens) == expected
