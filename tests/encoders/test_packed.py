"""The packed module compared with the padded one, and a device that runs out of memory, on the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from loid_infer.architectures import packed
from loid_infer.architectures.layer import Plan
from loid_infer.architectures.packed import Pack, PackedTransformer, Padded, Texts, attention_for
from loid_infer.architectures.positions import Positions, Relation
from loid_infer.encoders import cuda
from loid_infer.encoders.budget import Budget, is_full
from loid_infer.encoders.cuda import PackedRuntime
from loid_infer.encoders.folder import EncoderFolder, open_folder
from loid_infer.encoders.machine import Answer, recall, remember
from loid_infer.encoders.schedule import token_batches
from loid_infer.encoders.torch import module_of
from loid_infer.errors import NoMemory
from loid_infer.types import TokenBatch
from tests.conftest import toy_texts


@pytest.fixture(scope="module")
def encoder(exported: Path) -> EncoderFolder:
    return open_folder(exported / "exports/encoders/base", "base")


def pack(lengths: list[int], seed: int = 0) -> Pack:
    ids = torch.randint(5, 80, (sum(lengths),), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    positions = torch.cat([torch.arange(length, dtype=torch.int32) for length in lengths])
    starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    return Pack(ids, positions, starts, max(lengths))


@pytest.mark.parametrize("lengths", [[1], [9], [3, 1, 12, 7], [32] * 5, [1] * 20])
def test_the_packed_module_equals_the_padded_one(encoder: EncoderFolder, lengths: list[int]) -> None:
    module, packed_texts = module_of(encoder), pack(lengths)
    ids, mask = (torch.zeros(len(lengths), max(lengths), dtype=torch.int64) for _ in range(2))
    for i, (start, length) in enumerate(zip(packed_texts.starts.tolist(), lengths, strict=False)):
        ids[i, :length], mask[i, :length] = packed_texts.ids[start : start + length], 1
    expected = module(ids, mask)
    packed_module = PackedTransformer(module, torch.device("cpu"), torch.float32)
    np.testing.assert_allclose(packed_module(packed_texts), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("relation", "visible"),
    [
        (Relation(), lambda distance: distance == distance),
        (Relation(causal=True), lambda distance: distance <= 0),
        (Relation(window=2), lambda distance: abs(distance) <= 2),
    ],
)
def test_attention_equals_the_formula_within_each_text(relation: Relation, visible) -> None:
    noise = torch.Generator().manual_seed(0)
    lengths, starts = [4, 1, 6], torch.tensor([0, 4, 5, 11], dtype=torch.int32)
    query, key, value = (torch.randn(11, 2, 8, generator=noise) for _ in range(3))
    attention = Padded(Positions(relation, 32, None), 8**-0.5)
    result = attention(query, key, value, Texts(starts, starts, 6, 6, None))
    rows, last = torch.arange(4, dtype=torch.int32), starts[1:] - 1
    for_last = attention(query[last], key, value, Texts(rows, starts, 1, 6, last - starts[:-1]))
    for i, (start, length) in enumerate(zip(starts.tolist(), lengths, strict=False)):
        part, index = slice(start, start + length), torch.arange(length)
        for head in range(2):
            scores = query[part, head] @ key[part, head].T / 8**0.5
            scores[~visible(index[None, :] - index[:, None])] = -torch.inf
            expected = torch.softmax(scores, dim=1) @ value[part, head]
            np.testing.assert_allclose(result[part, head], expected, atol=1e-5)
            np.testing.assert_allclose(for_last[i, head], expected[-1], atol=1e-5)


def test_with_bf16_only_linear_maps_are_bf16(encoder: EncoderFolder) -> None:
    packed_module = PackedTransformer(module_of(encoder), torch.device("cpu"), torch.bfloat16)
    kinds = {name: part.dtype for name, part in packed_module.named_parameters()}
    narrow = {name.rsplit(".", 2)[-2] for name, dtype in kinds.items() if dtype == torch.bfloat16}
    assert narrow == {"qkv", "query", "key", "value", "output", "expand", "contract"}
    wide = {name for name, dtype in kinds.items() if dtype == torch.float32}
    assert {"module.words.weight", "module.positions", "module.norm.weight"} < wide
    assert all(name.rsplit(".", 2)[-2].endswith("norm") for name in wide if ".layers." in name)


def test_flash_attention_is_used_for_16_bits_on_a_gpu_and_supported_heads_and_relations(monkeypatch) -> None:
    pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))

    def pads(device: str, dtype: torch.dtype, head_dim: int, relation: Relation, *, one: bool = False) -> bool:
        plan = Plan(n_heads=1, n_kv_heads=1, head_dim=head_dim, eps=1e-5, activation="gelu", scale=head_dim**-0.5)
        bias = torch.zeros(32, 1) if relation.buckets else None
        attention = attention_for(torch.device(device), dtype, plan, Positions(relation, 16, bias), one=one)
        return isinstance(attention, Padded)

    plain, causal, window = Relation(), Relation(causal=True), Relation(window=4)
    assert not pads("cuda", torch.float16, 64, plain)
    assert not pads("cuda", torch.bfloat16, 64, causal)
    assert not pads("cuda", torch.float16, 64, causal, one=True), "the last token attends to all others"
    assert not pads("cuda", torch.float16, 64, window)
    assert pads("cuda", torch.float16, 64, window, one=True), "the window would be relative to the end of the text"
    assert pads("cuda", torch.float16, 64, Relation(buckets=(32, 128)))
    assert pads("cpu", torch.float16, 64, plain)
    assert pads("cuda", torch.float32, 64, plain)
    assert pads("cuda", torch.float16, 20, plain)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert pads("cuda", torch.float16, 64, plain)


def batches(encoder: EncoderFolder, n: int) -> list[TokenBatch]:
    tokens = encoder.tokenizer()(toy_texts(n))
    return list(token_batches(np.arange(n), tokens.flat_ids, tokens.lengths, 200, encoder.spec.max_tokens))


def in_order(runtime: PackedRuntime, parts: list[TokenBatch]) -> np.ndarray:
    slots, vectors = zip(*runtime.run(parts), strict=True)
    order = np.argsort(np.concatenate(slots))
    assert np.concatenate(slots)[order].tolist() == list(range(len(order)))
    return np.concatenate(vectors)[order]


@pytest.mark.parametrize("half", [False, True])
def test_batches_become_packs_within_the_budget(encoder: EncoderFolder, half: bool, monkeypatch) -> None:
    sizes = []
    original, attention = PackedTransformer, Padded(Positions(Relation(), 32, None), 8**-0.5)
    monkeypatch.setattr(packed, "attention_for", lambda *_, **__: attention.__call__)  # not a `Padded`

    def recording_transformer(*arguments):
        packed_module = original(*arguments)
        packed_module.register_forward_hook(lambda _, args, __: sizes.append(len(args[0].ids)))
        return packed_module

    monkeypatch.setattr(cuda, "PackedTransformer", recording_transformer)
    parts = batches(encoder, 200)
    n_tokens = sum(part.n_tokens for part in parts)
    runtime = PackedRuntime(module_of(encoder), "fp32", "cpu", Budget(700), half=half)
    vectors = in_order(runtime, parts)
    assert vectors.dtype == (np.float16 if half else np.float32)
    assert sum(sizes) == n_tokens, "tokens were computed twice, or padding was computed"
    assert max(sizes) <= 700
    assert not runtime.pads
    assert len(sizes) <= n_tokens // 500 + 1, "packs are not full to within a batch"


def test_out_of_memory_halves_the_packs_and_is_stored(encoder: EncoderFolder, monkeypatch) -> None:
    parts = batches(encoder, 120)
    expected = in_order(PackedRuntime(module_of(encoder), "fp32", "cpu", Budget(100_000), half=False), parts)
    remembered: list[int] = []
    budget = Budget(100_000, remembered.append)
    runtime = PackedRuntime(module_of(encoder), "fp32", "cpu", budget, half=False)
    tried = with_memory_for(300, runtime, monkeypatch)
    np.testing.assert_allclose(in_order(runtime, parts), expected, atol=1e-5)
    assert 150 <= budget.max_tokens <= 300
    assert min(remembered) == remembered[0] == budget.max_tokens, "the size that worked is stored first"
    assert sum(n > 300 for n in tried) == np.ceil(np.log2(tried[0] / 300)), "a size was tried twice"


def test_padding_counts_if_the_attention_pads(encoder: EncoderFolder, monkeypatch) -> None:
    shapes: list[tuple[int, int]] = []
    runtime = PackedRuntime(module_of(encoder), "fp32", "cpu", Budget(300), half=False)
    original = runtime._module

    def module(texts: Pack) -> torch.Tensor:
        shapes.append((len(texts.starts) - 1, texts.longest))
        return original(texts)

    monkeypatch.setattr(runtime, "_module", module)
    in_order(runtime, batches(encoder, 120))
    assert runtime.pads
    assert max(n * longest for n, longest in shapes) <= 300


@pytest.mark.parametrize(
    ("message", "full"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: out of memory", True),
        ("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 1", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_out_of_memory_messages_are_recognized(message: str, full: bool) -> None:
    assert is_full(RuntimeError(message)) == full


def test_weights_that_do_not_fit_are_an_error(encoder: EncoderFolder, monkeypatch) -> None:
    def full(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cuda, "PackedTransformer", full)
    with pytest.raises(NoMemory, match="not enough memory for the encoder's weights"):
        PackedRuntime(module_of(encoder), "fp32", "cpu", Budget(100), half=False)


def with_memory_for(n_tokens: int, runtime: PackedRuntime, monkeypatch) -> list[int]:
    """Make `runtime` run out of memory above `n_tokens`; returns the list of sizes it tries."""
    original, tried = runtime._module, []

    def module(texts: Pack) -> torch.Tensor:
        tried.append(len(texts.ids))
        if len(texts.ids) > n_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(texts)

    monkeypatch.setattr(runtime, "_module", module)
    return tried


def test_a_single_text_that_does_not_fit_is_an_error_and_nothing_is_stored(encoder: EncoderFolder, monkeypatch) -> None:
    remembered: list[int] = []
    runtime = PackedRuntime(module_of(encoder), "fp32", "cpu", Budget(1000, remembered.append), half=False)
    with_memory_for(2, runtime, monkeypatch)
    with pytest.raises(NoMemory, match="not enough memory for a single text"):
        list(runtime.run(batches(encoder, 20)))
    assert remembered == []


def test_other_errors_are_not_retried() -> None:
    class Piece:
        slots = np.arange(4)

    def halves(piece: Piece):
        raise AssertionError("must not be divided")

    tried = []

    def broken(piece: Piece) -> None:
        tried.append(piece)
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(Budget(100).fit(Piece(), broken, lambda _: 40, halves))
    assert len(tried) == 1


def test_measurements_under_other_keys_are_kept(tmp_path: Path) -> None:
    memory = tmp_path / "machine.json"
    remember("a", Answer(max_tokens=4), memory)
    remember("b", Answer(n_streams=2), memory)
    answers = [recall(key, memory) for key in "abc"]
    assert answers == [Answer(max_tokens=4), Answer(n_streams=2), Answer()]
