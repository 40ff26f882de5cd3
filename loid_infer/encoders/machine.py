"""Measurements of this machine, kept for later runs in a JSON file: one object per key. No vector depends on them."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

from msgspec import Struct, field

from loid_infer.artifact import new_file
from loid_infer.encoders.protocol import Runtime
from loid_infer.errors import BadArtifact, BadSetting, NoSpace
from loid_infer.records import decode, to_json
from loid_infer.types import Floats, Ints, Spec, TokenBatch

_WARM_S, _TURN_S = 20.0, 2.0  # of a run before the choices take turns, and of each turn
_SLOW = 0.6  # of the remembered rate, from which on a choice is tried anew


def shape_key(spec: Spec) -> str:
    """The part of a key that describes the encoder's shape; encoders of one shape share measurements."""
    sizes = f"{spec.n_layers} x {spec.hidden_dim} x {spec.feed_forward_dim}"
    return sizes if spec.architecture == "bert" else f"{spec.architecture} {sizes}"


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The measurements under one key."""

    n_streams: int | None = None  # the fastest number of streams
    tokens_per_s: dict[str, int] = field(default_factory=dict)  # by number of streams
    max_tokens: int | None = None  # of a batch that fits into a GPU's memory
    proven: bool = False  # a runtime has passed in every width


def recall(key: str, memory: Path | None) -> Answer:
    """The measurements under `key`; empty if there are none or the file `memory` cannot be read or is None."""
    return _read(memory).get(key, Answer())


def remembered(memory: Path | None) -> list[str]:
    """All measurements, one a line."""
    lines = []
    for key, answer in _read(memory).items():
        rates = ", ".join(f"{rate:,} tokens/s with {n}" for n, rate in answer.tokens_per_s.items())
        lines += [f"{key}: {answer.n_streams} ({rates})"] if answer.n_streams else []
        lines += [f"{key}: batches of {answer.max_tokens:,} tokens"] if answer.max_tokens else []
    return lines


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


class Streams:
    """A runtime with the fastest number of streams, which is chosen on the batches that it computes.

    The first long run of a machine starts with the first choice. After some seconds all choices take turns, forwards
    and backwards, since the batches of a run get shorter; the fastest is remembered. No batch is computed twice. A
    later run that is much slower than remembered makes the next one choose anew.
    """

    def __init__(
        self, key: str, n_threads: int, make: Callable[[int], Runtime], memory: Path | None, n_streams: int | None
    ) -> None:
        """Open the runtime.

        Args:
            key: processor, threads, precision and shape of the encoder.
            make: opens the runtime with a number of streams.
            memory: the file of measurements.
            n_streams: use this number, and measure nothing.
        """
        self._key, self._make, self._memory = key, make, memory
        known = recall(key, memory)
        options = choices(n_threads)
        self._choices = options if n_streams is None and known.n_streams not in options else []
        self.n = n_streams or (options[0] if self._choices else known.n_streams or 1)
        self._expected = known.tokens_per_s.get(str(self.n), 0) if n_streams is None else 0
        self._opened = {self.n: (opened := make(self.n))}
        self.name, self.max_batch_tokens = opened.name, opened.max_batch_tokens
        self.pads, self.tile = opened.pads, opened.tile
        self.n_tokenizers, self.detail = opened.n_tokenizers, opened.detail

    def run(self, batches: Iterable[TokenBatch]) -> Generator[tuple[Ints, Floats]]:
        """See `Runtime.run`."""
        source, (first, *others) = iter(batches), self._choices or [self.n]
        if not others:
            rate, seconds = yield from self._turn(self.n, source, math.inf)
            if seconds > _WARM_S and rate < _SLOW * self._expected:
                remember(self._key, Answer(), self._memory)
            return
        limit_s, rates, order = _WARM_S, dict[int, float](), [*others, first]
        _, seconds = yield from self._turn(first, source, limit_s)
        for n in [*order, *order[::-1]]:
            if seconds < limit_s:  # the batches are used up
                return
            limit_s = _TURN_S
            rate, seconds = yield from self._turn(n, source, limit_s)
            rates[n] = max(rate, rates.get(n, 0.0))
        self.n, self._choices = max(rates, key=lambda n: rates[n]), []
        self._opened = {self.n: self._opened[self.n]}
        self.detail = self._opened[self.n].detail
        told = {str(n): round(rate) for n, rate in rates.items()}
        remember(self._key, Answer(n_streams=self.n, tokens_per_s=told), self._memory)
        yield from self._turn(self.n, source, math.inf)

    def _turn(
        self, n: int, source: Iterator[TokenBatch], limit_s: float
    ) -> Generator[tuple[Ints, Floats], None, tuple[float, float]]:
        """Compute batches for `limit_s` seconds with `n` streams; tokens a second, and seconds."""
        if n not in self._opened:
            self._opened[n] = self._make(n)
        start, n_tokens = time.perf_counter(), 0

        def part() -> Iterator[TokenBatch]:
            nonlocal n_tokens
            while time.perf_counter() - start < limit_s and (batch := next(source, None)) is not None:
                n_tokens += batch.input_ids.size
                yield batch

        yield from self._opened[n].run(part())
        seconds = time.perf_counter() - start
        return n_tokens / max(seconds, 1e-9), seconds
