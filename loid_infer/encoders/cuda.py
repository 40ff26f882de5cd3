"""The torch runtime on a GPU: packs of many texts, computed while the host prepares the next ones.

Batches are collected into packs, which are bounded by tokens: a GPU that runs out of memory gets packs of half the
size from then on, also in the next run. Nothing waits for the GPU but whoever takes a finished pack. The file knows
packs and memory; not the model's steps, which `architectures.packed` has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loid_infer.architectures.packed import Pack, PackedTransformer
from loid_infer.architectures.transformer import Transformer
from loid_infer.encoders.budget import Budget, DeviceFull, is_full, no_memory
from loid_infer.encoders.machine import Answer, recall, remember, shape_key
from loid_infer.encoders.processor import exact_products
from loid_infer.encoders.protocol import GPU_TOKENIZERS
from loid_infer.settings import machine_memory
from loid_infer.types import Floats, Ints, Spec, TokenBatch

MAX_PACK_TOKENS = 65_536  # of a pack, while the GPU has memory for it
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_UNDER_WAY = 2  # packs queued on the GPU while the next one is prepared


@dataclass(frozen=True, slots=True)
class _Texts:
    """Texts one after another, in main memory."""

    slots: Ints  # [n]
    ids: Ints  # [tokens]
    positions: Ints  # [tokens]
    lengths: Ints  # [n]
    pads: bool  # whether padding counts

    @property
    def n_texts(self) -> int:
        return len(self.slots)

    @property
    def n_tokens(self) -> int:
        return self.n_texts * int(self.lengths.max()) if self.pads else len(self.ids)

    def halves(self) -> tuple[_Texts, _Texts]:
        ends = np.cumsum(self.lengths)
        n = int(np.clip(np.searchsorted(ends, ends[-1] // 2, side="right"), 1, len(ends) - 1))
        at = int(ends[n - 1])
        return (
            _Texts(self.slots[:n], self.ids[:at], self.positions[:at], self.lengths[:n], self.pads),
            _Texts(self.slots[n:], self.ids[at:], self.positions[at:], self.lengths[n:], self.pads),
        )


class PackedRuntime:
    """The module with several packs under way; LayerNorm and softmax compute in float32.

    It runs on any device of torch; what it is for is CUDA.
    """

    name = "torch"
    max_batch_tokens, n_tokenizers = 8192, GPU_TOKENIZERS  # batches are put together again

    def __init__(
        self, module: Transformer, precision: str, device: str, budget: Budget, *, half: bool, compiled: bool = False
    ) -> None:
        """Bring `module` to `device`.

        Args:
            precision: one of DTYPES.
            budget: of a pack.
            half: whether vectors come back in float16, as a store of that dtype takes them; else in float32.
            compiled: whether torch.compile fuses what it can, which takes it a minute when the first packs come.
        """
        self._device = torch.device(device)
        try:
            brought = PackedTransformer(module, self._device, DTYPES[precision])
        except RuntimeError as error:
            if is_full(error):
                raise no_memory("the encoder's weights") from error
            raise
        self._module = torch.compile(brought, dynamic=True) if compiled else brought
        self.pads = brought.pads
        self._given = torch.float16 if half else torch.float32
        self._is_cuda = self._device.type == "cuda"
        self._budget = budget
        name = torch.cuda.get_device_name(self._device) if self._is_cuda else device
        self.detail = f"{name}, {precision}, packs of {budget.max_tokens:,} tokens" + (
            ", padded for attention" if self.pads else ", flash attention"
        )

    def run(self, batches: Iterable[TokenBatch]) -> Generator[tuple[Ints, Floats]]:
        """See `Runtime.run`; several batches come back as one."""
        under_way: deque[_Flight] = deque()
        for texts in self._packs(batches):
            for flight in self._budget.fit(texts, self._launch):
                under_way.append(flight)
                while len(under_way) > _UNDER_WAY:
                    yield under_way.popleft().landed()
        while under_way:
            yield under_way.popleft().landed()

    def _packs(self, batches: Iterable[TokenBatch]) -> Iterator[_Texts]:
        held: list[TokenBatch] = []
        for batch in batches:
            if held and self._size([*held, batch]) > self._budget.max_tokens:
                yield _texts(held, self.pads)
                held = []
            held.append(batch)
        if held:
            yield _texts(held, self.pads)

    def _size(self, batches: Sequence[TokenBatch]) -> int:
        if not self.pads:
            return sum(batch.n_tokens for batch in batches)
        widest = max(int(batch.input_ids.shape[1]) for batch in batches)
        return widest * sum(len(batch.slots) for batch in batches)

    def _launch(self, texts: _Texts) -> _Flight:
        starts = np.concatenate([[0], np.cumsum(texts.lengths)]).astype(np.int32)
        try:
            with torch.inference_mode(), exact_products():
                ids, positions, starts_there = map(self._sent, (texts.ids, texts.positions, starts))
                found = self._module(Pack(ids, positions, starts_there, int(texts.lengths.max()))).to(self._given)
                back = torch.empty(found.shape, dtype=found.dtype, pin_memory=self._is_cuda)
                back.copy_(found, non_blocking=True)
        except RuntimeError as error:
            if is_full(error):
                raise DeviceFull from error
            raise
        event = torch.cuda.Event() if self._is_cuda else None
        if event is not None:
            event.record()
        return _Flight(texts.slots, back, event)

    def _sent(self, array: Ints) -> Tensor:
        there = torch.from_numpy(array)
        return there.pin_memory().to(self._device, non_blocking=True) if self._is_cuda else there


@dataclass(frozen=True, slots=True)
class _Flight:
    """A pack that is being computed, or is by now."""

    slots: Ints
    back: Tensor  # [n, d]
    event: torch.cuda.Event | None

    def landed(self) -> tuple[Ints, Floats]:
        """Its slots and vectors, when it is finished."""
        if self.event is not None:
            self.event.synchronize()
        return self.slots, self.back.numpy()


def _texts(batches: Sequence[TokenBatch], pads: bool) -> _Texts:
    masks = [batch.attention_mask.astype(np.bool_) for batch in batches]
    return _Texts(
        np.concatenate([batch.slots for batch in batches]),
        np.concatenate([batch.input_ids[mask] for batch, mask in zip(batches, masks, strict=True)]).astype(np.int32),
        np.concatenate([np.nonzero(mask)[1] for mask in masks]).astype(np.int32),
        np.concatenate([mask.sum(axis=1) for mask in masks]),
        pads,
    )


def gpu_budget(runtime: str, spec: Spec, max_tokens: int) -> Budget:
    """`max_tokens`, or what this GPU had memory for when it was tried before."""
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    memory = f"{gpu.total_memory / 2**30:.0f} GiB"
    key = f"{gpu.name}, {memory}, {runtime}, {spec.precision}, {shape_key(spec)}"
    known = recall(key, machine_memory()).max_tokens
    fits = known if known and 0 < known < max_tokens else max_tokens
    return Budget(fits, lambda smaller: remember(key, Answer(max_tokens=smaller), machine_memory()))
