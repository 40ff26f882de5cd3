"""Joins bundles of vectors into a store. A text that is stored already keeps its vector."""

from __future__ import annotations

from collections.abc import Callable

from loid_infer.kernels.unique import first_rows
from loid_infer.store.writer import CHUNK_ROWS, AlreadyStored, StoreWriter, as_stored
from loid_infer.types import Digests, Floats, Task

_STEP = 32 * CHUNK_ROWS  # rows that are read and committed at once
_STEP_BYTES = 64 << 20


def add_vectors(
    writer: StoreWriter, digests: Digests, vectors: Callable[[int, int], Floats], task: Task
) -> tuple[int, int]:
    """Store what `vectors`, a function (start, end) -> `[m, dim]`, returns for the texts with `digests [n, 16]`.

    Returns the numbers of different texts, and of those that were not stored before.

    Raises ParityError if a vector is not finite, NoSpace if the disk is full; committed chunks are kept.
    """
    dim, n_texts, n_new = writer.reader.environment.spec.dim, len(digests), 0
    step = min(_STEP, max(_STEP_BYTES // (4 * dim), CHUNK_ROWS))
    for start in range(0, len(digests), step):
        part, values = digests[start : start + step], vectors(start, min(start + step, len(digests)))
        try:  # all are new, as a rule, and a lookup would cost as much as the index
            _append(writer, part, values)
            n_new += len(part)
        except AlreadyStored:
            unique = first_rows(part)
            new = unique[writer.reader.lookup(part[unique]) < 0]
            if len(new):
                _append(writer, part[new], values[new])
            n_new += len(new)
            n_texts = -1
        task.advance(len(part))
    return n_texts if n_texts >= 0 else len(first_rows(digests)), n_new


def _append(writer: StoreWriter, digests: Digests, vectors: Floats) -> None:
    stored = as_stored(vectors, len(digests), writer.reader.environment.spec)
    cuts = range(0, len(digests), CHUNK_ROWS)
    writer.append(*((digests[at : at + CHUNK_ROWS], stored[at : at + CHUNK_ROWS]) for at in cuts))
