"""Joins vectors that were computed elsewhere into a store. A text that is stored already keeps its vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from loid_infer.encoders.pipeline import ahead
from loid_infer.kernels.unique import first_rows
from loid_infer.store.writer import CHUNK_ROWS, Addition, AlreadyStored, StoreWriter, as_stored
from loid_infer.types import Digests, Floats, Spec, Task

# Of vectors that are committed at once. A commit writes most pages of the index again, whatever it adds.
_COMMIT_BYTES = 128 << 20


def add_vectors(writer: StoreWriter, pieces: Iterable[tuple[Digests, Floats]], task: Task) -> int:
    """Store `pieces`, digests `[n, 16]` with vectors `[n, dim]`. Returns the number of texts that were not stored.

    The next pieces are read and checked while others are committed.

    Raises ParityError if a vector is not finite, NoSpace if the disk is full; committed chunks are kept.
    """
    n_new = 0
    for addition in ahead(_additions(pieces, writer.reader.environment.spec), depth=0):
        n = len(addition.digests)
        try:  # all are new, as a rule, and a lookup would cost as much as the index
            writer.commit(addition)
            n_new += n
        except AlreadyStored:
            unique = first_rows(addition.digests)
            new = unique[writer.reader.lookup(addition.digests[unique]) < 0]
            if len(new):
                vectors = np.concatenate([part for _, part in addition.chunks])
                writer.append(*_chunks(addition.digests[new], vectors[new]))
            n_new += len(new)
        task.advance(n)
    return n_new


def _additions(pieces: Iterable[tuple[Digests, Floats]], spec: Spec) -> Iterator[Addition]:
    waiting: list[tuple[Digests, Floats]] = []
    for digests, vectors in pieces:
        waiting += _chunks(digests, as_stored(vectors, len(digests), spec))
        if sum(part.nbytes for _, part in waiting) >= _COMMIT_BYTES:
            yield Addition(*waiting)
            waiting = []
    if waiting:
        yield Addition(*waiting)


def _chunks(digests: Digests, vectors: Floats) -> list[tuple[Digests, Floats]]:
    cuts = range(0, len(digests), CHUNK_ROWS)
    return [(digests[at : at + CHUNK_ROWS], vectors[at : at + CHUNK_ROWS]) for at in cuts]
