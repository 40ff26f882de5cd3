"""Measurements of this machine, kept for later runs in a JSON file: one object per key. No vector depends on them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from msgspec import Struct, field

from loid_infer.artifact import new_file
from loid_infer.encoders.protocol import Runtime
from loid_infer.errors import BadArtifact, BadSetting, NoSpace
from loid_infer.records import decode, to_json
from loid_infer.types import Spec, TokenBatch

_ROWS, _WIDTH = 16, 128  # of the batch measured for streams; narrower if the encoder's maximum length is
_BATCHES_PER_THREAD = 4


def shape_key(spec: Spec) -> str:
    """The part of a key that describes the encoder's shape; encoders of one shape share measurements."""
    sizes = f"{spec.n_layers} x {spec.hidden_dim} x {spec.feed_forward_dim}"
    return sizes if spec.architecture == "bert" else f"{spec.architecture} {sizes}"


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The measurements under one key."""

    n_streams: int | None = None  # the fastest number of streams
    tokens_per_s: dict[str, int] = field(default_factory=dict)  # by number of streams
    max_tokens: int | None = None  # of a batch that fits into a GPU's memory


def recall(key: str, memory: Path | None) -> Answer:
    """The measurements under `key`; empty if there are none or the file `memory` cannot be read or is None."""
    return _read(memory).get(key, Answer())


def remember(key: str, answer: Answer, memory: Path | None) -> None:
    """Store `answer` under `key`, if the file can be written."""
    if memory is None:
        return
    answers = _read(memory) | {key: answer}
    with contextlib.suppress(BadSetting, NoSpace), new_file(memory) as temporary:
        temporary.write_text(to_json(answers, indent=1, sort_keys=True) + "\n")


def _read(memory: Path | None) -> dict[str, Answer]:
    try:
        return decode(memory, dict[str, Answer], "") if memory else {}
    except BadArtifact:
        return {}


def choices(n_threads: int) -> list[int]:
    """The numbers of streams to measure: 1, 2, 4 and 8 threads per stream."""
    return sorted({max(1, n_threads // share) for share in (1, 2, 4, 8)}, reverse=True)


def fastest_streams(
    key: str, n_threads: int, max_tokens: int, make: Callable[[int], Runtime], memory: Path | None
) -> int:
    """The number of streams with which `make(n_streams)` computes most tokens a second.

    Args:
        key: processor, threads, precision and shape of the encoder.
        memory: the file of measurements; None: measure again each time.
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
