"""Collects the vectors of a shard into sealed files, each complete with digests, spec and checksum."""

from __future__ import annotations

import time
from collections.abc import Iterable

from loid_infer.cluster.run import Run, new_name
from loid_infer.store.records import DTYPES
from loid_infer.store.writer import Collector
from loid_infer.types import Digests, Floats, Ints, Task

_FILE_BYTES = 32 << 20
_MAX_FILE_ROWS = 32_768
_MAX_FILE_S = 120.0


class Sealer:
    """Seals a file when it is full or old, and the rest on exit, also after an error: little work is ever lost."""

    def __init__(self, run: Run, shard: int) -> None:
        spec = run.file.card
        n = min(_MAX_FILE_ROWS, max(_FILE_BYTES // (spec.dim * DTYPES[spec.store_dtype].itemsize), 1))
        self._run, self._prefix, self._n_files = run, new_name(shard), 0
        self._collector = Collector(spec, n, _MAX_FILE_S, self._seal)
        self.add, self.n_sealed, self.seconds = self._collector.add, 0, 0.0

    def _seal(self, digests: Digests, vectors: Floats) -> None:
        start = time.perf_counter()
        self._run.seal(digests, vectors, f"{self._prefix}-{self._n_files:04d}.safetensors")
        self._n_files, self.n_sealed = self._n_files + 1, self.n_sealed + len(digests)
        self.seconds += time.perf_counter() - start

    def __enter__(self) -> Sealer:
        return self

    def __exit__(self, *exc: object) -> None:
        self._collector.flush()


def seal_all(
    run: Run, shard: int, batches: Iterable[tuple[Ints, Floats]], digests: Digests, task: Task
) -> tuple[int, float]:
    """Seal the vectors of `batches`, whose slots are rows of `digests [n, 16]`. Returns their number, and seconds."""
    with Sealer(run, shard) as sealer:
        for slots, vectors in batches:
            sealer.add(digests[slots], vectors)
            task.advance(len(slots))
    return sealer.n_sealed, sealer.seconds
