"""Checking a whole store: every chunk's checksum, every index entry against the digest beside its row, and whether a
reader who asks for that digest gets there."""

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
    """What a check found. `n_bad` counts damaged chunks, wrong index entries and rows that no entry finds."""

    n_chunks: int
    n_rows: int  # of sound chunks
    n_bad: int
    problems: tuple[str, ...]  # the first of them, in words


def verify(store: StoreReader, progress: Progress) -> StoreCheck:
    """Read the whole store once. Takes 30 bytes of memory a row."""
    problems: list[str] = []
    beside, sound, n_chunks = _digests_beside(store, problems, progress)
    n_bad, whole = len(problems), not problems  # behind a damaged last chunk nobody knows where the rows end
    behind: list[tuple[Digests, Ints]] = []  # entries of rows that were not there when the check began
    strangers: list[Digests] = []
    for digests, rows in store.index_entries():
        inside = (rows >= 0) & (rows < len(beside))
        behind.append((digests[rows >= len(beside)], rows[rows >= len(beside)]))
        wrong = rows < 0
        wrong[inside] = (beside[rows[inside]] != digests[inside]).any(axis=1) & sound[rows[inside]]
        strangers.append(digests[wrong])
    end = _end(store)  # by now there may be more rows
    strangers += [digests[rows >= end] for digests, rows in behind if whole]
    for digests in strangers:
        n_bad += len(digests)
        problems += [f"the index entry {bytes(digest).hex()} points to another text" for digest in digests[:_MAX_NAMED]]
    there = np.flatnonzero(sound)
    parts = np.array_split(there, len(there) // _STEP + 1)
    n_lost = sum(int((store.lookup(beside[part]) != part).sum()) for part in parts)
    if n_lost:
        problems.append(f"{n_lost} rows have no index entry that is found where it belongs")
    return StoreCheck(n_chunks, len(there), n_bad + n_lost, tuple(problems[:_MAX_NAMED]))


def _digests_beside(store: StoreReader, problems: list[str], progress: Progress) -> tuple[Digests, Bools, int]:
    """The digest beside every row `[n, 16]`, whether that row's chunk is sound `[n]`, and the number of chunks."""
    n_chunks, end = 0, _end(store)
    beside, sound = np.zeros((end, DIGEST_BYTES), np.uint8), np.zeros(end, np.bool_)
    expected: int | None = 0  # where the next chunk must begin; unknown behind a damaged one
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
            beside[chunk.first_row : expected] = chunk.digests
            sound[chunk.first_row : expected] = True
    return beside, sound, n_chunks


def _end(store: StoreReader) -> int:
    """One past the last row, or the first row of a last chunk that cannot be read."""
    try:
        return store.size().n_rows
    except BadStore:
        return store.chunk_keys()[-1]
