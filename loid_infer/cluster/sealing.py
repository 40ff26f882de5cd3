"""Collects the vectors of a shard into sealed files, each complete with digests, spec and checksum."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np

from loid_infer.cluster.run import Run, new_name
from loid_infer.store.records import DTYPES
from loid_infer.store.writer import as_stored
from loid_infer.types import DIGEST_BYTES, Array, Digests, Floats, Ints, Task

_FILE_BYTES = 32 << 20
_MAX_FILE_ROWS = 32_768
_MAX_FILE_S = 120.0


class Sealer:
    """Seals a file when it is full or old, and the rest on exit, also after an error: little work is ever lost."""

    def __init__(self, run: Run, shard: int) -> None:
        spec = run.file.card
        dtype = DTYPES[spec.store_dtype]
        n = min(_MAX_FILE_ROWS, max(_FILE_BYTES // (spec.dim * dtype.itemsize), 1))
        self._run, self._prefix, self._n_files = run, new_name(shard), 0
        self._digests: Array = np.empty((n, DIGEST_BYTES), np.uint8)
        self._vectors: Array = np.empty((n, spec.dim), dtype)
        self._n, self._begun = 0, time.monotonic()
        self.n_sealed, self.seconds = 0, 0.0

    def add(self, digests: Digests, vectors: Floats) -> None:
        """Add `vectors [n, dim]` of the texts with `digests [n, 16]`. Raises ParityError, see `as_stored`."""
        stored, at = as_stored(vectors, len(digests), self._run.file.card), 0
        while at < len(stored):
            n = min(len(stored) - at, len(self._digests) - self._n)
            self._digests[self._n : self._n + n] = digests[at : at + n]
            self._vectors[self._n : self._n + n] = stored[at : at + n]
            self._n, at = self._n + n, at + n
            if self._n == len(self._digests) or time.monotonic() - self._begun > _MAX_FILE_S:
                self._seal()

    def _seal(self) -> None:
        start = time.perf_counter()
        if self._n:
            name = f"{self._prefix}-{self._n_files:04d}.safetensors"
            self._run.seal(self._digests[: self._n], self._vectors[: self._n], name)
            self._n_files += 1
        self.n_sealed, self._n, self._begun = self.n_sealed + self._n, 0, time.monotonic()
        self.seconds += time.perf_counter() - start

    def __enter__(self) -> Sealer:
        return self

    def __exit__(self, *exc: object) -> None:
        self._seal()


def seal_all(
    run: Run, shard: int, batches: Iterable[tuple[Ints, Floats]], digests: Digests, task: Task
) -> tuple[int, float]:
    """Seal the vectors of `batches`, whose slots are rows of `digests [n, 16]`. Returns their number, and seconds."""
    with Sealer(run, shard) as sealer:
        for slots, vectors in batches:
            sealer.add(digests[slots], vectors)
            task.advance(len(slots))
    return sealer.n_sealed, sealer.seconds
