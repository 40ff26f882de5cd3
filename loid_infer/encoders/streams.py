"""How many batches should be under way at once on this machine? Measured once, and remembered for the machine.

The answer changes no vector, so it is in no spec. This file knows a runtime only as something that can be made with a
number of streams and run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from loid_infer.encoders.machine import Answer, recall, remember
from loid_infer.encoders.protocol import Runtime
from loid_infer.types import TokenBatch

_ROWS, _WIDTH = 16, 128  # of a batch to measure with: a usual length, unless the encoder admits less
_BATCHES_A_THREAD = 4


def choices(n_threads: int) -> list[int]:
    """Numbers of streams worth a try: one a thread first, then threads that share a batch by 2, 4 and 8."""
    return sorted({max(1, n_threads // share) for share in (1, 2, 4, 8)}, reverse=True)


def fastest_streams(key: str, n_threads: int, max_tokens: int, make: Callable[[int], Runtime], memory: Path) -> int:
    """The number of streams with which `make(n_streams)` computes most tokens a second.

    Args:
        key: what the answer holds for: processor, threads, precision, shape of the encoder.
        memory: a JSON file of answers; one that cannot be read is measured anew, one that cannot be written is not.
    """
    if n_threads == 1:
        return 1
    known = recall(key, memory).n_streams
    if known in choices(n_threads):
        return known
    width = min(_WIDTH, max_tokens)
    found = {n: _tokens_per_s(make(n), n_threads, width) for n in choices(n_threads)}
    best = max(found, key=lambda n: found[n])
    rates = {str(n): round(rate) for n, rate in found.items()}
    remember(key, Answer(n_streams=best, tokens_per_s=rates), memory)
    return best


def _tokens_per_s(runtime: Runtime, n_threads: int, width: int) -> float:
    ids = np.ones((_ROWS, width), np.int64)
    batches = [TokenBatch(np.arange(_ROWS), ids, ids, ids.size)] * (_BATCHES_A_THREAD * n_threads)
    seconds = []
    for _ in range(3):  # the first one warms up
        start = time.perf_counter()
        for _ in runtime.run(iter(batches)):
            pass
        seconds.append(time.perf_counter() - start)
    return len(batches) * ids.size / min(seconds)
