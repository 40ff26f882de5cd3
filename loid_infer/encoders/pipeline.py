"""The encode engine: reading and tokenizing ahead, batches of one width, vectors out as they are finished.

It knows texts by the caller's numbers; not where they come from or where the vectors go.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from loid_infer.encoders.protocol import Runtime
from loid_infer.encoders.schedule import Schedule
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.types import Floats, Ints, TokenBatch

T = TypeVar("T")

# The first window is small so that the runtime starts at once; each next one doubles, for less padding.
_FIRST_WINDOW = 512
_LAST_WINDOW = 16_384
_PIECE = 512  # texts that a thread tokenizes at a time
_WINDOW_TOKENS = 2_000_000


@dataclass(slots=True)
class Stages:
    """Seconds each stage was busy, and what was counted on the way. Stages overlap, so they may add up to more than the
    wall clock."""

    read_s: float = 0.0
    tokenize_s: float = 0.0
    forward_s: float = 0.0
    n_tokens: int = 0
    n_computed: int = 0  # tokens with padding
    n_truncated: int = 0

    @property
    def padding(self) -> float:
        """Share of computed tokens that are padding, 0..1."""
        return 1 - self.n_tokens / self.n_computed if self.n_computed else 0.0


@dataclass(frozen=True, slots=True)
class _Window:
    slots: Ints
    flat_ids: Ints
    lengths: Ints


def encode_stream(
    pieces: Iterator[tuple[Ints, Sequence[str]]], tokenizer: Tokenizer, runtime: Runtime, stages: Stages
) -> Generator[tuple[Ints, Floats]]:
    """The slots `[n]` and vectors `[n, d]` of every text, in no particular order and in the runtime's dtype.

    Args:
        pieces: (slots, texts), read in a thread of its own.
        stages: filled in while this runs.
    """
    waited = 0.0

    def counted(found: Iterator[TokenBatch]) -> Iterator[TokenBatch]:
        for batch in found:
            stages.n_computed += batch.input_ids.size if runtime.pads else batch.n_tokens
            yield batch

    def batches() -> Generator[TokenBatch]:
        nonlocal waited
        schedule = Schedule(runtime.max_batch_tokens, tokenizer.max_tokens)
        windows = ahead(_windows(pieces, tokenizer, stages, runtime.n_tokenizers), depth=1)
        try:
            while True:
                start = time.perf_counter()
                window = next(windows, None)
                waited += time.perf_counter() - start
                if window is None:
                    yield from counted(schedule.rest())
                    return
                yield from counted(schedule.add(window.slots, window.flat_ids, window.lengths))
        finally:
            windows.close()

    source = batches()
    results = runtime.run(source)
    try:
        while True:
            start, waited_before = time.perf_counter(), waited
            result = next(results, None)
            stages.forward_s += time.perf_counter() - start - (waited - waited_before)
            if result is None:
                return
            yield result
    finally:
        results.close()
        source.close()


def _windows(
    pieces: Iterator[tuple[Ints, Sequence[str]]], tokenizer: Tokenizer, stages: Stages, n_tokenizers: int
) -> Iterator[_Window]:
    size = _FIRST_WINDOW
    held: list[_Window] = []
    for window in _tokenized(_timed(pieces, stages), tokenizer, stages, n_tokenizers):
        held.append(window)
        if sum(len(window.slots) for window in held) >= size or _n_tokens(held) >= _WINDOW_TOKENS:
            yield _joined(held)
            held = []
            size = min(size * 2, _LAST_WINDOW)
    if held:
        yield _joined(held)


def _tokenized(
    pieces: Iterable[tuple[Ints, Sequence[str]]], tokenizer: Tokenizer, stages: Stages, n_tokenizers: int
) -> Iterator[_Window]:
    """Pieces of `_PIECE` texts, tokenized by several threads, in order."""
    idle: queue.SimpleQueue[Tokenizer] = queue.SimpleQueue()
    for _ in range(n_tokenizers):
        idle.put(tokenizer if n_tokenizers == 1 else tokenizer.another())

    def work(slots: Ints, texts: Sequence[str]) -> tuple[_Window, int, float]:
        mine, start = idle.get(), time.perf_counter()
        try:
            tokens = mine(texts)
        finally:
            idle.put(mine)
        window = _Window(slots, tokens.flat_ids, tokens.lengths)
        return window, tokens.n_truncated, time.perf_counter() - start

    with ThreadPoolExecutor(n_tokenizers, "tokenize") as pool:
        waiting: deque[Future[tuple[_Window, int, float]]] = deque()
        try:
            for slots, texts in pieces:
                for at in range(0, len(texts), _PIECE):
                    part = slice(at, at + _PIECE)
                    waiting.append(pool.submit(work, slots[part], texts[part]))
                    if len(waiting) > n_tokenizers:
                        yield _counted(waiting.popleft().result(), stages)
            while waiting:
                yield _counted(waiting.popleft().result(), stages)
        finally:
            for rest in waiting:
                rest.cancel()


def _counted(done: tuple[_Window, int, float], stages: Stages) -> _Window:
    window, n_truncated, seconds = done
    stages.tokenize_s += seconds
    stages.n_tokens += len(window.flat_ids)
    stages.n_truncated += n_truncated
    return window


def _n_tokens(windows: list[_Window]) -> int:
    return sum(len(window.flat_ids) for window in windows)


def _joined(windows: list[_Window]) -> _Window:
    return _Window(
        np.concatenate([window.slots for window in windows]),
        np.concatenate([window.flat_ids for window in windows]),
        np.concatenate([window.lengths for window in windows]),
    )


def _timed(pieces: Iterable[T], stages: Stages) -> Iterator[T]:
    source = iter(pieces)
    while True:
        start = time.perf_counter()
        piece = next(source, None)
        stages.read_s += time.perf_counter() - start
        if piece is None:
            return
        yield piece


def ahead(items: Iterator[T], depth: int) -> Generator[T]:
    """`items`, produced by a thread up to `depth` ahead of the consumer; its errors are raised here."""
    done = object()
    ready: queue.Queue[tuple[object, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def work() -> None:
        failure = None
        try:
            for item in items:
                ready.put((item, None))
                if stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - carried to the consumer
            failure = error
        ready.put((done, failure))

    thread = threading.Thread(target=work, name="tokenize", daemon=True)
    thread.start()
    try:
        while True:
            item, failure = ready.get()
            if failure is not None:
                raise failure
            if item is done:
                return
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        while thread.is_alive():  # make room, so that a waiting put ends
            try:
                ready.get(timeout=0.05)
            except queue.Empty:
                continue
