"""The torch runtime on a GPU: packs of many texts, computed while the host prepares the next ones.

Batches are joined into packs of a limited number of tokens. If the GPU runs out of memory, the limit is halved, for
later runs too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loid_infer.architectures.packed import Pack, PackedTransformer
from loid_infer.architectures.transformer import Transformer
from loid_infer.encoders.budget import Budget, is_full, no_memory
from loid_infer.encoders.machine import Answer, recall, remember, shape_key
from loid_infer.encoders.processor import exact_products
from loid_infer.encoders.protocol import GPU_TOKENIZERS
from loid_infer.settings import machine_memory
from loid_infer.types import Floats, Ints, Spec, TokenBatch

MAX_PACK_TOKENS = 65_536  # per pack, if the GPU's memory suffices
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_MAX_PENDING = 2  # packs queued on the GPU while the next one is prepared


@dataclass(frozen=True, slots=True)
class _HostPack:
    """Concatenated texts in main memory."""

    slots: Ints  # [n]
    ids: Ints  # [tokens]
    positions: Ints  # [tokens]
    lengths: Ints  # [n]


class PackedRuntime:
    """The packed module with several packs in flight, for CUDA; it runs on any device of torch."""

    name = "torch"
    max_batch_tokens, tile, n_tokenizers = 8192, 1, GPU_TOKENIZERS  # batches are joined into packs

    def __init__(
        self, module: Transformer, precision: str, device: str, budget: Budget, *, half: bool, compiled: bool = False
    ) -> None:
        """Move `module` to `device`.

        Args:
            precision: one of DTYPES.
            budget: of a pack.
            half: whether to return float16 vectors, for a store of that type; else float32.
            compiled: whether to use torch.compile, which takes about a minute for the first packs.

        Raises:
            NoMemory: the weights do not fit.
        """
        self._device = torch.device(device)
        try:
            packed = PackedTransformer(module, self._device, DTYPES[precision])
        except RuntimeError as error:
            if is_full(error):
                raise no_memory("the encoder's weights") from error
            raise
        self._module = torch.compile(packed, dynamic=True) if compiled else packed
        self.pads = packed.pads
        self._output_dtype = torch.float16 if half else torch.float32
        self._is_cuda, self._budget = self._device.type == "cuda", budget
        name = torch.cuda.get_device_name(self._device) if self._is_cuda else device
        attention = "padded for attention" if self.pads else "flash attention"
        self.detail = f"{name}, {precision}, packs of {budget.max_tokens:,} tokens, {attention}"

    def run(self, batches: Iterable[TokenBatch]) -> Generator[tuple[Ints, Floats]]:
        """See `Runtime.run`; several batches are returned as one."""
        pending: deque[Callable[[], tuple[Ints, Floats]]] = deque()
        for pack in self._packs(batches):
            for launched in self._budget.fit(pack, self._launch, self._pack_size, _halves):
                pending.append(launched)
                while len(pending) > _MAX_PENDING:
                    yield pending.popleft()()
        while pending:
            yield pending.popleft()()

    def _packs(self, batches: Iterable[TokenBatch]) -> Iterator[_HostPack]:
        collected: list[TokenBatch] = []
        for batch in batches:
            if collected and self._size([*collected, batch]) > self._budget.max_tokens:
                yield _pack(collected)
                collected = []
            collected.append(batch)
        if collected:
            yield _pack(collected)

    def _pack_size(self, pack: _HostPack) -> int:
        return len(pack.slots) * int(pack.lengths.max()) if self.pads else len(pack.ids)

    def _size(self, batches: Sequence[TokenBatch]) -> int:
        if not self.pads:
            return sum(batch.n_tokens for batch in batches)
        widest = max(int(batch.input_ids.shape[1]) for batch in batches)
        return widest * sum(len(batch.slots) for batch in batches)

    def _launch(self, pack: _HostPack) -> Callable[[], tuple[Ints, Floats]]:
        """Start the computation; the returned function waits for slots and vectors."""
        starts = np.concatenate([[0], np.cumsum(pack.lengths)]).astype(np.int32)
        with torch.inference_mode(), exact_products():
            ids, positions, starts_there = map(self._to_device, (pack.ids, pack.positions, starts))
            vectors = self._module(Pack(ids, positions, starts_there, int(pack.lengths.max())))
            vectors = vectors.to(self._output_dtype)
            copied = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=self._is_cuda)
            copied.copy_(vectors, non_blocking=True)
        slots, event = pack.slots, torch.cuda.Event() if self._is_cuda else None
        if event is not None:
            event.record()

        def result() -> tuple[Ints, Floats]:
            if event is not None:
                event.synchronize()  # `copied` is valid from here on
            return slots, copied.numpy()

        return result

    def _to_device(self, array: Ints) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._is_cuda else tensor


def _pack(batches: Sequence[TokenBatch]) -> _HostPack:
    masks = [batch.attention_mask.astype(np.bool_) for batch in batches]
    return _HostPack(
        np.concatenate([batch.slots for batch in batches]),
        np.concatenate([batch.input_ids[mask] for batch, mask in zip(batches, masks, strict=True)]).astype(np.int32),
        np.concatenate([np.nonzero(mask)[1] for mask in masks]).astype(np.int32),
        np.concatenate([mask.sum(axis=1) for mask in masks]),
    )


def _halves(pack: _HostPack) -> tuple[_HostPack, _HostPack]:
    ends = np.cumsum(pack.lengths)
    n = int(np.clip(np.searchsorted(ends, ends[-1] // 2, side="right"), 1, len(ends) - 1))
    end = int(ends[n - 1])
    first = _HostPack(pack.slots[:n], pack.ids[:end], pack.positions[:end], pack.lengths[:n])
    return first, _HostPack(pack.slots[n:], pack.ids[end:], pack.positions[end:], pack.lengths[n:])


def gpu_budget(runtime: str, spec: Spec, max_tokens: int) -> Budget:
    """A budget of `max_tokens`, or the smaller number for which this GPU had memory in an earlier run."""
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    memory = f"{gpu.total_memory / 2**30:.0f} GiB"
    key = f"{gpu.name}, {memory}, {runtime}, {spec.precision}, {shape_key(spec)}"
    known = recall(key, machine_memory()).max_tokens
    limit = known if known and 0 < known < max_tokens else max_tokens
    return Budget(limit, lambda smaller: remember(key, Answer(max_tokens=smaller), machine_memory()))
