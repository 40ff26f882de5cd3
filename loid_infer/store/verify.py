"""Verifies a store: checksums of chunks, index entries, and the lookup of every digest that is indexed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loid_infer.errors import BadStore
from loid_infer.store.reader import StoreReader
from loid_infer.types import DIGEST_BYTES, Bools, Digests, Ints, Progress

_MAX_NAMED = 20
_STEP = 1 << 20


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """Result of a verification. `n_bad` counts damaged chunks, wrong index entries, and rows that should have one."""

    n_chunks: int
    n_rows: int  # in intact chunks
    n_bad: int
    problems: tuple[str, ...]  # descriptions of the first ones


def verify(store: StoreReader, progress: Progress) -> StoreCheck:
    """Read the store once and check everything. Needs 30 bytes of memory per row."""
    problems: list[str] = []
    stored, intact, n_chunks = _stored_digests(store, problems, progress)
    n_bad, end_known = len(problems), not problems  # a damaged last chunk hides where the rows end
    later: list[tuple[Digests, Ints]] = []  # entries of rows added since the check began
    wrong_entries: list[Digests] = []
    for digests, rows in store.index_entries():
        inside = (rows >= 0) & (rows < len(stored))
        later.append((digests[rows >= len(stored)], rows[rows >= len(stored)]))
        wrong = rows < 0
        wrong[inside] = (stored[rows[inside]] != digests[inside]).any(axis=1) & intact[rows[inside]]
        wrong_entries.append(digests[wrong])
    end = _end(store)  # there may be more rows now
    wrong_entries += [digests[rows >= end] for digests, rows in later if end_known]
    for digests in wrong_entries:
        n_bad += len(digests)
        problems += [f"the index entry {bytes(digest).hex()} points to another text" for digest in digests[:_MAX_NAMED]]
    rows = np.flatnonzero(intact)
    indexed, is_intact = _indexed(store, rows, problems, progress)
    n_bad += not is_intact
    parts = np.array_split(indexed, len(indexed) // _STEP + 1)
    n_lost = sum(int((store.lookup(stored[part]) != part).sum()) for part in parts)
    if n_lost:
        problems.append(f"{n_lost} rows have no index entry that a lookup finds")
    return StoreCheck(n_chunks, len(rows), n_bad + n_lost, tuple(problems[:_MAX_NAMED]))


def _indexed(store: StoreReader, rows: Ints, problems: list[str], progress: Progress) -> tuple[Ints, bool]:
    """Which of `rows [n]` are indexed, `[m]`, and whether the mark of the first that is not can be read.

    After the rows were read: a writer marks rows before it adds them, and indexes them before it removes the mark.
    """
    try:
        first = store.first_unindexed()
    except BadStore as error:
        problems.append(str(error))
        return rows, False
    if first is None:
        return rows, True
    indexed = rows[rows < first]
    progress.say(
        f"{len(rows) - len(indexed):,} rows wait for their index entries. "
        "The next command that writes to this store adds them"
    )
    return indexed, True


def _stored_digests(store: StoreReader, problems: list[str], progress: Progress) -> tuple[Digests, Bools, int]:
    """The digest of every row `[n, 16]`, whether its chunk is intact `[n]`, and the number of chunks."""
    n_chunks, end = 0, _end(store)
    stored, intact = np.zeros((end, DIGEST_BYTES), np.uint8), np.zeros(end, np.bool_)
    expected: int | None = 0  # first row of the next chunk; None: unknown after a damaged one
    with progress.task("verify", len(store.chunk_keys()), "chunks") as task:
        for chunk in store.scan():
            if not isinstance(chunk, BadStore) and chunk.first_row >= end:
                break  # committed since the check began
            n_chunks += 1
            task.advance(1)
            if isinstance(chunk, BadStore):
                problems.append(str(chunk))
                expected = None
                continue
            if expected is not None and chunk.first_row != expected:
                problems.append(f"rows {expected} to {chunk.first_row - 1} are missing")
            expected = chunk.first_row + len(chunk.digests)
            stored[chunk.first_row : expected] = chunk.digests
            intact[chunk.first_row : expected] = True
    return stored, intact, n_chunks


def _end(store: StoreReader) -> int:
    """The number of rows, without a last chunk that cannot be read."""
    try:
        return store.size().n_rows
    except BadStore:
        return store.chunk_keys()[-1]
