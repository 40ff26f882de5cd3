"""Measures how many batches a runtime should compute at once, once per machine. No vector depends on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from loid_infer.encoders.machine import Answer, recall, remember
from loid_infer.encoders.protocol import Runtime
from loid_infer.types import TokenBatch

_ROWS, _WIDTH = 16, 128  # of the measured batch; narrower if the encoder's maximum length is
_BATCHES_PER_THREAD = 4


def choices(n_threads: int) -> list[int]:
    """The numbers of streams to measure: 1, 2, 4 and 8 threads per stream."""
    return sorted({max(1, n_threads // share) for share in (1, 2, 4, 8)}, reverse=True)


def fastest_streams(key: str, n_threads: int, max_tokens: int, make: Callable[[int], Runtime], memory: Path) -> int:
    """The number of streams with which `make(n_streams)` computes most tokens a second.

    Args:
        key: processor, threads, precision and shape of the encoder.
        memory: the file of measurements; see `machine`.
    """
    if n_threads == 1:
        return 1
    known = recall(key, memory).n_streams
    if known in choices(n_threads):
        return known
    width = min(_WIDTH, max_tokens)
    rates = {n: _tokens_per_s(make(n), n_threads, width) for n in choices(n_threads)}
    best = max(rates, key=lambda n: rates[n])
    remember(key, Answer(n_streams=best, tokens_per_s={str(n): round(rate) for n, rate in rates.items()}), memory)
    return best


def _tokens_per_s(runtime: Runtime, n_threads: int, width: int) -> float:
    ids = np.ones((_ROWS, width), np.int64)
    batches = [TokenBatch(np.arange(_ROWS), ids, ids, ids.size)] * (_BATCHES_PER_THREAD * n_threads)
    seconds = []
    for _ in range(3):  # the first is a warm-up
        start = time.perf_counter()
        for _ in runtime.run(iter(batches)):
            pass
        seconds.append(time.perf_counter() - start)
    return len(batches) * ids.size / min(seconds)
