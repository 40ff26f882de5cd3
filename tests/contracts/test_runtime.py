"""What every runtime promises, run for each of them in each precision it computes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from loid_infer.encoders.budget import Budget
from loid_infer.encoders.fake import FakeRuntime
from loid_infer.encoders.folder import EncoderFolder, open_folder
from loid_infer.encoders.opening import backends, load
from loid_infer.encoders.processor import has_bf16
from loid_infer.encoders.proof import measure
from loid_infer.encoders.protocol import Runtime
from loid_infer.encoders.schedule import padded, token_batches
from loid_infer.encoders.torch import module_of
from loid_infer.kernels.cosine import row_cosines
from loid_infer.types import TokenBatch
from tests.conftest import toy_texts

# The packed module is what a GPU computes; on the CPU it keeps the same promises.
CASES = [
    ("cpu", "fake", "fp32"),
    *(("cpu", "packed", precision) for precision in ("fp32", "fp16", "bf16")),
    *(
        (place, backend.name, precision)
        for backend in backends()
        for place in backend.precisions
        for precision in backend.precisions[place]
    ),
]
BACKENDS = {backend.name: backend for backend in backends()}


def opened(place: str, name: str, encoder: EncoderFolder) -> Runtime:
    """A runtime without the proof, or a skip that says what is missing."""
    if name == "packed":
        from loid_infer.encoders.cuda import PackedRuntime

        return PackedRuntime(module_of(encoder), encoder.spec.precision, "cpu", Budget(500), half=False)
    if place == "cuda" and BACKENDS[name].gpu_lacks():
        pytest.skip(f"{name} computes on no GPU here: {BACKENDS[name].gpu_lacks()}")
    if not BACKENDS[name].installed:
        pytest.skip(f"{name} is not installed")
    if (place, encoder.spec.precision) == ("cpu", "bf16") and not has_bf16():
        pytest.skip("this processor has no native bf16")
    return load(name, encoder, place, 2)


@pytest.fixture(scope="module")
def encoder(exported: Path) -> EncoderFolder:
    return open_folder(exported / "exports/encoders/base", "base")


@pytest.fixture(scope="module")
def encoder_int8(exported_int8) -> EncoderFolder:
    workspace, _ = exported_int8
    return open_folder(workspace.encoder("small"), "small")


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def runtime(request: pytest.FixtureRequest, encoder: EncoderFolder) -> tuple[Runtime, float]:
    """A runtime, and the cosine that its precision promises."""
    place, name, precision = request.param
    if name == "fake":
        return FakeRuntime(encoder.spec.dim), 1.0
    if precision == "int8":
        return opened(place, name, request.getfixturevalue("encoder_int8")), 0.99
    made = opened(place, name, replace(encoder, spec=structs.replace(encoder.spec, precision=precision)))
    # The toy's random weights are far larger than a trained BERT's, so bf16 rounds more than the gate allows it there.
    return made, {"fp32": 0.99999, "bf16": 0.995, "fp16": 0.9999}[precision]


def batches(encoder: EncoderFolder, texts: list[str], budget: int) -> list[TokenBatch]:
    tokens = encoder.tokenizer()(texts)
    return list(token_batches(np.arange(len(texts)), tokens.flat_ids, tokens.lengths, budget, encoder.spec.max_tokens))


def vectors(runtime: Runtime, parts: list[TokenBatch], n: int) -> np.ndarray:
    found: dict[int, np.ndarray] = {}
    for slots, rows in runtime.run(iter(parts)):
        assert rows.dtype in (np.float32, np.float16)
        assert len(slots) == len(rows)
        for slot, row in zip(slots, rows, strict=True):
            assert int(slot) not in found
            found[int(slot)] = row
    return np.stack([found[i] for i in range(n)])


def test_a_row_of_a_batch_equals_the_text_alone(runtime: tuple[Runtime, float], encoder: EncoderFolder) -> None:
    made, promised = runtime
    texts = ["", "a", *toy_texts(60), "👍"]
    together = vectors(made, batches(encoder, texts, 400), len(texts))
    alone = vectors(made, batches(encoder, texts, 1), len(texts))
    # On a GPU the rows of a product decide how it is summed; of the toy in bf16 that shows as much as bf16 does.
    assert row_cosines(together, alone).min() >= (0.9999 if made.n_tokenizers == 1 else min(0.9999, promised))


def test_padding_and_neighbors_change_nothing(runtime: tuple[Runtime, float], encoder: EncoderFolder) -> None:
    made, promised = runtime
    tokens = encoder.tokenizer()(["great guitar", "the plot was bad"])
    starts = np.cumsum(tokens.lengths) - tokens.lengths
    batch, wide = (padded(np.arange(2), tokens.flat_ids, starts, tokens.lengths, width) for width in (6, 15))
    np.testing.assert_array_less(promised - 1e-9, row_cosines(vectors(made, [batch], 2), vectors(made, [wide], 2)))


def test_running_twice_and_running_nothing(runtime: tuple[Runtime, float], encoder: EncoderFolder) -> None:
    made, _ = runtime
    parts = batches(encoder, toy_texts(30), 200)
    np.testing.assert_allclose(vectors(made, parts, 30), vectors(made, parts, 30), atol=1e-6)
    assert list(made.run(iter([]))) == []


def test_an_abandoned_run_leaves_the_runtime_usable(runtime: tuple[Runtime, float], encoder: EncoderFolder) -> None:
    made, _ = runtime
    parts = batches(encoder, toy_texts(30), 100)
    run = made.run(iter(parts))
    next(run)
    run.close()
    assert vectors(made, parts, 30).shape == (30, encoder.spec.dim)


def test_an_error_of_the_source_reaches_the_caller(runtime: tuple[Runtime, float], encoder: EncoderFolder) -> None:
    def source():
        yield from batches(encoder, toy_texts(5), 100)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(runtime[0].run(source()))


def test_vectors_are_those_of_the_reference(runtime: tuple[Runtime, float], encoder: EncoderFolder) -> None:
    made, promised = runtime
    if made.name == "fake":
        assert not measure(made, encoder.probes()).passes("fp32"), "fake vectors must never pass for real ones"
    else:
        assert measure(made, encoder.probes()).cos_min >= promised


def test_names_and_details(runtime: tuple[Runtime, float]) -> None:
    assert runtime[0].name in {"fake", "torch", "onnxruntime", "openvino", "tensorrt"}
    assert runtime[0].detail
