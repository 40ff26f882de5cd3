"""Joins vectors that were computed elsewhere into a store. A text that is stored already keeps its vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np

from loid_infer.encoders.pipeline import ahead
from loid_infer.errors import LoidError
from loid_infer.kernels.unique import first_rows
from loid_infer.store.writer import CHUNK_ROWS, Addition, AlreadyStored, StoreWriter, as_stored
from loid_infer.types import Array, Bools, Digests, Floats, Spec, Task

_COMMIT_BYTES = 128 << 20  # of vectors that are committed at once
_SMALL_INDEX = 1 << 20  # entries: to write most pages of such an index again costs little beside the vectors
_MAX_WAITING = 1 << 23  # rows that wait for their index entries; each takes 48 bytes of memory at most


class _Waiting:
    """The texts of rows that have no index entries yet: their digests as two numbers, ordered by the first one."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """They have entries now, or are about to get them."""
        self._halves: Array = np.zeros((2, 0), np.uint64)

    def __len__(self) -> int:
        return len(self._halves[0])

    def find(self, given: Addition) -> Bools | None:
        """Which of the texts `[n]` wait, in their order in the index; None if two digests have the same first half."""
        halves = _halves(given)
        at = np.searchsorted(self._halves[0], halves[0])
        found = np.zeros(len(at), np.bool_)
        inside = np.flatnonzero(at < len(self))
        inside = inside[self._halves[0, at[inside]] == halves[0, inside]]
        found[inside] = True
        return found if (self._halves[1, at[inside]] == halves[1, inside]).all() else None

    def add(self, given: Addition) -> None:
        """Texts that do not wait yet."""
        halves = _halves(given)
        at = np.searchsorted(self._halves[0], halves[0])
        self._halves = np.insert(self._halves, at, halves, axis=1)


def add_vectors(writer: StoreWriter, pieces: Iterable[tuple[Digests, Floats]], task: Task) -> int:
    """Store `pieces`, digests `[n, 16]` with vectors `[n, dim]`. Returns the number of texts that were not stored.

    The next pieces are read and checked while others are committed.

    Raises ParityError if a vector is not finite, NoSpace if the disk is full, BadStore if the store is damaged;
    committed chunks are kept.
    """
    n_new, waiting = 0, _Waiting()
    try:
        for given in ahead(_additions(pieces, writer.reader.environment.spec), depth=0):
            is_small = given.n_bytes < _COMMIT_BYTES or writer.reader.size().n_index < _SMALL_INDEX
            n_new += _add(writer, given) if is_small and not len(waiting) else _add_rows(writer, given, waiting)
            if len(waiting) >= _MAX_WAITING:
                waiting.clear()
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
    except AlreadyStored:
        once = _each_once(given)
        new = _picked(once, writer.reader.lookup(once.digests) < 0)
        if new is None:
            return 0
        writer.add(new)
        return len(new.digests)
    return len(given.digests)


def _add_rows(writer: StoreWriter, given: Addition, waiting: _Waiting) -> int:
    """Store texts without index entries. Returns the number of those that were not stored."""
    once = _each_once(given)
    known = waiting.find(once)
    if known is None:  # once in a lifetime, and then lookups know
        waiting.clear()
        writer.index()
        known = np.zeros(len(once.digests), np.bool_)
    is_new = np.ones(len(known), np.bool_)
    is_new[once.order[known]] = False
    is_new[is_new] = writer.reader.lookup(once.digests[is_new]) < 0
    new = _picked(once, is_new)
    if new is None:
        return 0
    writer.add_rows(*new.chunks)
    waiting.add(new)
    return len(new.digests)


def _halves(given: Addition) -> Array:
    """The digests as two numbers each, `[2, n]`, in their order in the index."""
    rest = np.ascontiguousarray(given.digests[given.order, 8:]).view(">u8").ravel()
    return np.stack([given.prefixes, rest.astype(np.uint64)])


def _each_once(given: Addition) -> Addition:
    """The texts, each only the first time."""
    if not (given.prefixes[1:] == given.prefixes[:-1]).any():
        return given
    is_first = np.zeros(len(given.digests), np.bool_)
    is_first[first_rows(given.digests)] = True
    return _picked(given, is_first) or given


def _picked(given: Addition, which: Bools) -> Addition | None:
    """Those texts; None if there are none."""
    if which.all():
        return given
    if not which.any():
        return None
    return Addition(*_chunks(given.digests[which], np.concatenate([part for _, part in given.chunks])[which]))
