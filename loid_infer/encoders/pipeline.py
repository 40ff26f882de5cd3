"""The encoding pipeline: a thread reads and tokenizes ahead, while the runtime computes batches of one width."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np

from loid_infer.encoders.protocol import Runtime
from loid_infer.encoders.schedule import Schedule
from loid_infer.encoders.tokens import Tokenizer, Tokens
from loid_infer.types import Floats, Ints, TokenBatch

T = TypeVar("T")
_Window: TypeAlias = tuple[Ints, Ints, Ints]  # slots [n], concatenated ids, lengths [n]

# Texts per window. The first is small, so that the runtime starts at once; each next one doubles, for less padding.
_FIRST_WINDOW = 512
_LAST_WINDOW = 16_384
_PIECE = 512  # texts that a thread tokenizes at once
_WINDOW_TOKENS = 2_000_000  # limit of a window


@dataclass(slots=True)
class Stages:
    """Seconds that each stage was busy, and token counts. Stages overlap, so their sum may exceed the wall time."""

    read_s: float = 0.0
    tokenize_s: float = 0.0
    run_s: float = 0.0  # in the runtime, including `wait_s`
    wait_s: float = 0.0  # in which the runtime waited for texts
    n_tokens: int = 0
    n_computed: int = 0  # tokens, with padding if the runtime computes it
    n_truncated: int = 0
    n_unknown: int = 0  # tokens that the vocabulary lacks
    n_mostly_unknown: int = 0  # texts of which more than half of the tokens are unknown

    @property
    def forward_s(self) -> float:
        """Seconds that the runtime computed."""
        return self.run_s - self.wait_s

    @property
    def padding(self) -> float:
        """Share of computed tokens that are padding, 0 to 1."""
        return 1 - self.n_tokens / self.n_computed if self.n_computed else 0.0


def encode_stream(
    pieces: Iterator[tuple[Ints, Sequence[str]]], tokenizer: Tokenizer, runtime: Runtime, stages: Stages
) -> Generator[tuple[Ints, Floats]]:
    """The slots `[n]` and vectors `[n, d]` of every text, in no particular order and in the runtime's dtype.

    Args:
        pieces: (slots, texts), read in a separate thread.
        stages: filled in during the run.
    """

    def counted(batches: Iterator[TokenBatch]) -> Iterator[TokenBatch]:
        for batch in batches:
            stages.n_computed += batch.input_ids.size if runtime.pads else batch.n_tokens
            yield batch

    def batches() -> Generator[TokenBatch]:
        schedule = Schedule(runtime.max_batch_tokens, tokenizer.max_tokens, runtime.tile)
        with closing(ahead(_windows(pieces, tokenizer, stages, runtime.n_tokenizers), depth=1)) as windows:
            for window in _timed(windows, stages, "wait_s"):
                yield from counted(schedule.add(*window))
            yield from counted(schedule.rest())

    with closing(batches()) as source, closing(runtime.run(source)) as results:
        yield from _timed(results, stages, "run_s")


def _windows(
    pieces: Iterator[tuple[Ints, Sequence[str]]], tokenizer: Tokenizer, stages: Stages, n_tokenizers: int
) -> Iterator[_Window]:
    size = _FIRST_WINDOW
    parts: list[_Window] = []
    for slots, tokens, seconds in _tokenized(_timed(pieces, stages, "read_s"), tokenizer, n_tokenizers):
        stages.tokenize_s += seconds
        stages.n_tokens += len(tokens.flat_ids)
        stages.n_truncated += tokens.n_truncated
        if n_unknown := int(np.count_nonzero(tokens.flat_ids == tokenizer.unknown_id)):
            stages.n_unknown += n_unknown
            stages.n_mostly_unknown += int(tokenizer.mostly_unknown(tokens).sum())
        parts.append((slots, tokens.flat_ids, tokens.lengths))
        n_tokens = sum(len(flat_ids) for _, flat_ids, _ in parts)
        if sum(len(part[0]) for part in parts) >= size or n_tokens >= _WINDOW_TOKENS:
            yield _joined(parts)
            parts = []
            size = min(size * 2, _LAST_WINDOW)
    if parts:
        yield _joined(parts)


def _joined(parts: list[_Window]) -> _Window:
    slots, flat_ids, lengths = map(np.concatenate, zip(*parts, strict=True))
    return slots, flat_ids, lengths


def _tokenized(
    pieces: Iterable[tuple[Ints, Sequence[str]]], tokenizer: Tokenizer, n_tokenizers: int
) -> Iterator[tuple[Ints, Tokens, float]]:
    """Slots and tokens of up to `_PIECE` texts, and the seconds they took, by several threads, in order."""
    idle: queue.SimpleQueue[Tokenizer] = queue.SimpleQueue()
    for _ in range(n_tokenizers):
        idle.put(tokenizer if n_tokenizers == 1 else tokenizer.copy())

    def work(slots: Ints, texts: Sequence[str]) -> tuple[Ints, Tokens, float]:
        own, start = idle.get(), time.perf_counter()
        try:
            return slots, own(texts), time.perf_counter() - start
        finally:
            idle.put(own)

    pool = ThreadPoolExecutor(n_tokenizers, "tokenize")
    pending: deque[Future[tuple[Ints, Tokens, float]]] = deque()
    try:
        for slots, texts in pieces:
            for start in range(0, len(texts), _PIECE):
                part = slice(start, start + _PIECE)
                pending.append(pool.submit(work, slots[part], texts[part]))
                if len(pending) > n_tokenizers:
                    yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _timed(items: Iterator[T], stages: Stages, stage: str) -> Iterator[T]:
    """`items`; the seconds that each takes are added to the field `stage`."""
    while True:
        start = time.perf_counter()
        item = next(items, None)
        setattr(stages, stage, getattr(stages, stage) + time.perf_counter() - start)
        if item is None:
            return
        yield item


def ahead(items: Iterator[T], depth: int) -> Generator[T]:
    """`items`, produced by a thread with up to `depth` waiting for the consumer; its errors are raised here."""
    end = object()
    pool = ThreadPoolExecutor(1, "tokenize")
    try:
        pending = deque(pool.submit(next, items, end) for _ in range(depth + 1))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(cancel_futures=True)
