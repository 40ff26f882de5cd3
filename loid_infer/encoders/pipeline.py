"""The encoding pipeline: a thread reads and tokenizes ahead, while the runtime computes batches of one width."""

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
    forward_s: float = 0.0
    n_tokens: int = 0
    n_computed: int = 0  # tokens, with padding if the runtime computes it
    n_truncated: int = 0

    @property
    def padding(self) -> float:
        """Share of computed tokens that are padding, 0 to 1."""
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
        pieces: (slots, texts), read in a separate thread.
        stages: filled in during the run.
    """
    waited = 0.0  # seconds that the runtime waited for windows

    def counted(batches: Iterator[TokenBatch]) -> Iterator[TokenBatch]:
        for batch in batches:
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
    parts: list[_Window] = []
    for part in _tokenized(_timed(pieces, stages), tokenizer, stages, n_tokenizers):
        parts.append(part)
        n_tokens = sum(len(part.flat_ids) for part in parts)
        if sum(len(part.slots) for part in parts) >= size or n_tokens >= _WINDOW_TOKENS:
            yield _joined(parts)
            parts = []
            size = min(size * 2, _LAST_WINDOW)
    if parts:
        yield _joined(parts)


def _tokenized(
    pieces: Iterable[tuple[Ints, Sequence[str]]], tokenizer: Tokenizer, stages: Stages, n_tokenizers: int
) -> Iterator[_Window]:
    """Windows of up to `_PIECE` texts, tokenized by several threads, in order."""
    idle: queue.SimpleQueue[Tokenizer] = queue.SimpleQueue()
    for _ in range(n_tokenizers):
        idle.put(tokenizer if n_tokenizers == 1 else tokenizer.copy())

    def work(slots: Ints, texts: Sequence[str]) -> tuple[_Window, int, float]:
        own, start = idle.get(), time.perf_counter()
        try:
            tokens = own(texts)
        finally:
            idle.put(own)
        window = _Window(slots, tokens.flat_ids, tokens.lengths)
        return window, tokens.n_truncated, time.perf_counter() - start

    with ThreadPoolExecutor(n_tokenizers, "tokenize") as pool:
        pending: deque[Future[tuple[_Window, int, float]]] = deque()
        try:
            for slots, texts in pieces:
                for start in range(0, len(texts), _PIECE):
                    part = slice(start, start + _PIECE)
                    pending.append(pool.submit(work, slots[part], texts[part]))
                    if len(pending) > n_tokenizers:
                        yield _counted(*pending.popleft().result(), stages)
            while pending:
                yield _counted(*pending.popleft().result(), stages)
        finally:
            for future in pending:
                future.cancel()


def _counted(window: _Window, n_truncated: int, seconds: float, stages: Stages) -> _Window:
    stages.tokenize_s += seconds
    stages.n_tokens += len(window.flat_ids)
    stages.n_truncated += n_truncated
    return window


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
    """`items`, produced by a thread up to `depth` ahead of the consumer; errors of the thread are raised here."""
    end = object()
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
        ready.put((end, failure))

    thread = threading.Thread(target=work, name="tokenize", daemon=True)
    thread.start()
    try:
        while True:
            item, failure = ready.get()
            if failure is not None:
                raise failure
            if item is end:
                return
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        while thread.is_alive():  # make room for a blocked put
            try:
                ready.get(timeout=0.05)
            except queue.Empty:
                continue
