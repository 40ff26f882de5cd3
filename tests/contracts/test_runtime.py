"""What every runtime promises, run for each of them in each precision it computes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loid_infer import export
from loid_infer.encoders import gpu
from loid_infer.encoders.budget import Budget
from loid_infer.encoders.fake import FakeRuntime
from loid_infer.encoders.folder import EncoderFolder, open_folder
from loid_infer.encoders.joint import OneOf, columns
from loid_infer.encoders.loading import PREFERENCE, load, module_of
from loid_infer.encoders.processor import has_bf16, installed
from loid_infer.encoders.proof import measure
from loid_infer.encoders.protocol import Runtime
from loid_infer.encoders.schedule import padded, token_batches
from loid_infer.graphs.joint import join_graphs
from loid_infer.kernels.cosine import row_cosines
from loid_infer.types import TokenBatch
from tests.conftest import make_variant, toy_texts

# The packed module is what a card computes; on the CPU it keeps the same promises.
CASES = [
    ("cpu", "fake", "fp32"),
    *(("cpu", "packed", precision) for precision in ("fp32", "fp16", "bf16")),
    *((place, name, precision) for place in PREFERENCE for precision in PREFERENCE[place]
      for name in PREFERENCE[place][precision]),
]  # fmt: skip
# One encoder's part of a runtime that computes two side by side keeps the same promises.
JOINT = [("joint", *case) for case in CASES if case[2] != "int8"]
LACKS = {"torch": gpu.torch_lacks, "onnxruntime": gpu.onnxruntime_lacks, "tensorrt": gpu.tensorrt_lacks}


def opened(place: str, name: str, parts: list[EncoderFolder]) -> Runtime:
    """A runtime without the proof, or a skip that says what is missing."""
    if place == "cuda" and LACKS[name]():
        pytest.skip(f"{name} computes on no card here: {LACKS[name]()}")
    if name == "packed":
        from loid_infer.encoders.cuda import PackedRuntime

        return PackedRuntime(module_of(parts), parts[0].card.precision, "cpu", Budget(500), half=False)
    if not installed(name):
        pytest.skip(f"{name} is not installed")
    if (place, parts[0].card.precision) == ("cpu", "bf16") and not has_bf16():
        pytest.skip("this processor has no native bf16")
    return load(name, parts, place, 2, join_graphs if parts[1:] else None)


@pytest.fixture(scope="module")
def encoder(exported: Path) -> EncoderFolder:
    return open_folder(exported / "exports/encoders/base", "base")


@pytest.fixture(scope="module")
def encoder_int8(exported_int8) -> EncoderFolder:
    workspace, _ = exported_int8
    return open_folder(workspace.encoder("small"), "small")


@pytest.fixture(scope="module")
def other(toy_base: Path, tmp_path_factory: pytest.TempPathFactory) -> EncoderFolder:
    """An encoder whose last layer alone is another one."""
    root = tmp_path_factory.mktemp("other")
    made = make_variant(toy_base, root / "top", {1}, seed=1)
    export("top", base=str(made), precision="fp32", max_tokens=32, workspace=root)
    return open_folder(root / "exports/encoders/top", "top")


@pytest.fixture(scope="module", params=[*CASES, *JOINT], ids="-".join)
def runtime(request: pytest.FixtureRequest, encoder: EncoderFolder) -> tuple[Runtime, float]:
    """A runtime, and the cosine that its precision promises."""
    *joint, place, name, precision = request.param
    dim = encoder.card.hidden_dim
    if name == "fake":
        return OneOf(FakeRuntime(dim, dim), columns(1, dim)) if joint else FakeRuntime(dim), 1.0
    if precision == "int8":
        return opened(place, name, [request.getfixturevalue("encoder_int8")]), 0.99
    both = [request.getfixturevalue("other"), encoder] if joint else [encoder]
    made = opened(place, name, [replace(part, card=replace(part.card, precision=precision)) for part in both])
    made = OneOf(made, columns(1, dim)) if joint else made
    # The toy's random weights are far larger than a trained BERT's, so bf16 rounds more than the gate allows it there.
    return made, {"fp32": 0.99999, "bf16": 0.995, "fp16": 0.9999}[precision]


def batches(encoder: EncoderFolder, texts: list[str], budget: int) -> list[TokenBatch]:
    tokens = encoder.tokenizer()(texts)
    return list(token_batches(np.arange(len(texts)), tokens.flat_ids, tokens.lengths, budget, encoder.card.max_tokens))


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
    # On a card the rows of a product decide how it is summed; of the toy in bf16 that shows as much as bf16 does.
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
    assert vectors(made, parts, 30).shape == (30, encoder.card.hidden_dim)


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


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "torch", "packed"])
def test_side_by_side_gives_what_each_gives_alone(
    name: str, precision: str, encoder: EncoderFolder, other: EncoderFolder
) -> None:
    if name != "packed" and name not in PREFERENCE["cpu"][precision]:
        pytest.skip(f"{name} does not compute {precision}")
    parts = [replace(part, card=replace(part.card, precision=precision)) for part in (encoder, other, encoder)]
    texts = ["", "a", *toy_texts(60), "👍"]
    asked = batches(encoder, texts, 400)
    joint = vectors(opened("cpu", name, parts), asked, len(texts))
    assert joint.shape == (len(texts), 3 * encoder.card.hidden_dim)
    for i, part in enumerate(parts):
        alone = vectors(opened("cpu", name, [part]), asked, len(texts))
        found = joint[:, columns(i, encoder.card.hidden_dim)]
        assert row_cosines(found, alone).min() >= {"fp32": 0.99999, "bf16": 0.9999, "fp16": 0.9999}[precision]
