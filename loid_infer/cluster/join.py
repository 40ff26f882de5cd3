"""Joins bundles of vectors into a store. A text that is stored already keeps its vector."""

from __future__ import annotations

from collections.abc import Callable

from loid_infer.kernels.unique import first_rows
from loid_infer.store.writer import CHUNK_ROWS, StoreWriter, as_stored
from loid_infer.types import Digests, Floats, Task

_STEP = 32 * CHUNK_ROWS  # rows that are read and committed at once


def add_vectors(
    writer: StoreWriter, digests: Digests, vectors: Callable[[int, int], Floats], task: Task
) -> tuple[int, int]:
    """Store what `vectors`, a function (start, end) -> `[m, dim]`, returns for the texts with `digests [n, 16]`.

    Returns the numbers of different texts, and of those that were not stored before.

    Raises ParityError if a vector is not finite, NoSpace if the disk is full; committed chunks are kept.
    """
    spec, unique = writer.reader.environment.spec, first_rows(digests)
    new = unique[writer.reader.lookup(digests[unique]) < 0]
    step = min(_STEP, max((64 << 20) // (4 * spec.dim), CHUNK_ROWS))
    for start in range(0, len(digests), step):
        rows = new[(new >= start) & (new < start + step)]
        if len(rows):
            part = as_stored(vectors(start, min(start + step, len(digests)))[rows - start], len(rows), spec)
            cuts = range(0, len(rows), CHUNK_ROWS)
            writer.append(*((digests[rows[at : at + CHUNK_ROWS]], part[at : at + CHUNK_ROWS]) for at in cuts))
            task.advance(len(rows))
    return len(unique), len(new)
