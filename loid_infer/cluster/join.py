"""Joins vectors that were computed elsewhere into a store. A text that is stored already keeps its vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from loid_infer.encoders.pipeline import ahead
from loid_infer.kernels.unique import first_rows
from loid_infer.store.writer import CHUNK_ROWS, Addition, AlreadyStored, StoreWriter, as_stored
from loid_infer.types import Array, Digests, Floats, Spec, Task

_COMMIT_BYTES = 128 << 20  # of vectors that are committed at once
_SMALL_INDEX = 1 << 20  # entries: to write most pages of such an index again costs little beside the vectors
_MAX_WAITING = 1 << 23  # rows that wait for their index entries; each takes 40 bytes of memory


def add_vectors(writer: StoreWriter, pieces: Iterable[tuple[Digests, Floats]], task: Task) -> int:
    """Store `pieces`, digests `[n, 16]` with vectors `[n, dim]`. Returns the number of texts that were not stored.

    The next pieces are read and checked while others are committed.

    Raises ParityError if a vector is not finite, NoSpace if the disk is full; committed chunks are kept.
    """
    n_new = 0
    waiting: Array = np.zeros(0, np.uint64)  # the prefixes of texts that have no index entry yet, ascending
    for given in ahead(_additions(pieces, writer.reader.environment.spec), depth=0):
        is_small = given.n_bytes < _COMMIT_BYTES or writer.reader.size().n_index < _SMALL_INDEX
        if is_small and not len(waiting):
            n_new += _add(writer, given)
        else:
            if _repeats(given.prefixes, waiting):  # a text again, or one with the same prefix
                writer.index()
                waiting = waiting[:0]
            new = _without_stored(writer, given)
            if new is not None:
                writer.add_rows(*new.chunks)
                waiting = np.sort(np.concatenate([waiting, new.prefixes]), kind="stable")  # merges what is in order
                n_new += len(new.digests)
            if len(waiting) >= _MAX_WAITING:
                writer.index()
                waiting = waiting[:0]
        task.advance(len(given.digests))
    writer.index()
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


def _add(writer: StoreWriter, given: Addition) -> int:
    """Store it with index entries. Returns the number of texts that were not stored."""
    try:  # all are new, as a rule, and a lookup would cost as much as the index
        writer.add(given)
    except AlreadyStored:
        new = _without_stored(writer, given)
        if new is None:
            return 0
        writer.add(new)
        return len(new.digests)
    return len(given.digests)


def _without_stored(writer: StoreWriter, given: Addition) -> Addition | None:
    """What is not stored, each text once; None if there is nothing."""
    rows = first_rows(given.digests) if _repeats(given.prefixes, given.prefixes[:0]) else np.arange(len(given.digests))
    rows = rows[writer.reader.lookup(given.digests[rows]) < 0]
    if len(rows) == len(given.digests):
        return given
    if not len(rows):
        return None
    return Addition(*_chunks(given.digests[rows], np.concatenate([part for _, part in given.chunks])[rows]))


def _repeats(prefixes: Array, waiting: Array) -> bool:
    """Whether two of the ascending `prefixes` are equal, or one is among `waiting`, ascending too."""
    if (prefixes[1:] == prefixes[:-1]).any():
        return True
    at = np.searchsorted(waiting, prefixes)
    return bool((waiting[at[at < len(waiting)]] == prefixes[at < len(waiting)]).any())
