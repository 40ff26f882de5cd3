"""Joins vectors that were computed elsewhere into a store. A text that is stored already keeps its vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np

from loid_infer.encoders.pipeline import ahead
from loid_infer.errors import LoidError
from loid_infer.kernels.unique import first_rows, merged, within
from loid_infer.store.writer import CHUNK_ROWS, Addition, AlreadyStored, StoreWriter, as_stored
from loid_infer.types import DIGEST_BYTES, Digests, Floats, Spec, Task

_COMMIT_BYTES = 128 << 20  # of vectors that are committed at once
_SMALL_INDEX = 1 << 20  # entries: to write most pages of such an index again costs little beside the vectors
_MAX_WAITING = 1 << 23  # rows that wait for their index entries; each takes 48 bytes of memory at most


def add_vectors(writer: StoreWriter, pieces: Iterable[tuple[Digests, Floats]], task: Task) -> int:
    """Store `pieces`, digests `[n, 16]` with vectors `[n, dim]`. Returns the number of texts that were not stored.

    The next pieces are read and checked while others are committed.

    Raises ParityError if a vector is not finite, NoSpace if the disk is full, BadStore if the store is damaged;
    committed chunks are kept.
    """
    n_new = 0
    waiting: Digests = np.zeros((0, DIGEST_BYTES), np.uint8)  # of rows without index entries, ascending
    try:
        for given in ahead(_additions(pieces, writer.reader.environment.spec), depth=0):
            is_small = given.n_bytes < _COMMIT_BYTES or writer.reader.size().n_index < _SMALL_INDEX
            if is_small and not len(waiting):
                n_new += _add(writer, given)
            elif (new := _not_stored(writer, given, waiting)) is not None:
                writer.add_rows(*new.chunks)
                n_new, waiting = n_new + len(new.digests), merged(waiting, new.digests)
            if len(waiting) >= _MAX_WAITING:
                waiting = waiting[:0].copy()  # a view would keep the memory
                writer.index()
            task.advance(len(given.digests))
    except BaseException:
        with suppress(LoidError):  # if not now, then when the next writer opens
            writer.index()
        raise
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
    """Store texts with their index entries. Returns the number of those that were not stored."""
    try:  # all are new, as a rule, and a lookup would cost as much as the index
        writer.add(given)
        return len(given.digests)
    except AlreadyStored:
        new = _not_stored(writer, given, given.digests[:0])
    if new is None:
        return 0
    writer.add(new)
    return len(new.digests)


def _not_stored(writer: StoreWriter, given: Addition, waiting: Digests) -> Addition | None:
    """The texts that are neither stored nor `waiting`, each once; None if there are none."""
    is_new = np.ones(len(given.digests), np.bool_)
    if (given.prefixes[1:] == given.prefixes[:-1]).any():  # looking for equal digests would take longer
        is_new[:] = False
        is_new[first_rows(given.digests)] = True
    is_new[is_new] = ~within(given.digests[is_new], waiting)
    is_new[is_new] = writer.reader.lookup(given.digests[is_new]) < 0
    if is_new.all():
        return given
    if not is_new.any():
        return None
    return Addition(*_chunks(given.digests[is_new], np.concatenate([part for _, part in given.chunks])[is_new]))
