"""Writing a store anew, smaller or out of what is left of a damaged one; it then takes the old one's place at once.

The new store has full chunks and an index written in order, so its pages are full too. Readers of the old one keep what
they have open. This file knows digests and rows; which of them are worth keeping is its callers' business.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from loid_infer.artifact import replacing
from loid_infer.errors import BadStore
from loid_infer.kernels.unique import first_rows
from loid_infer.store.environment import DATA_FILE, Environment
from loid_infer.store.reader import StoreReader
from loid_infer.store.records import MAGIC, Chunk, unpack_at
from loid_infer.store.writer import CHUNK_ROWS, put_chunks
from loid_infer.types import DIGEST_BYTES, Array, Bools, Digests, Floats, Progress, Spec

_CHUNKS_A_COMMIT = 64
_KEYS_A_COMMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A store before and after."""

    n_rows: int
    n_dropped: int  # rows that were there and are no more
    bytes_before: int
    bytes_after: int


def compact(
    folder: Path, spec: Spec, fingerprint: str, keep: Callable[[Digests], Bools] | None, progress: Progress
) -> Rewritten:
    """Write the store anew with full pages and full chunks. The caller holds its lock.

    Args:
        keep: which of some digests `[n, 16]` stay, `[n]`; all if None.

    Raises:
        BadStore: a chunk is damaged; nothing is changed. `salvage` is for that.
        NoSpace: the disk has no room for both; nothing is changed.
    """
    with ExitStack() as held:
        store = held.enter_context(StoreReader(Environment(folder, spec, fingerprint, write=False)))
        n_before = store.size().n_rows
        task = held.enter_context(progress.task("compact", n_before, "rows"))

        def kept() -> Iterator[tuple[Digests, Floats]]:
            for chunk in store.chunks():
                rows = slice(None) if keep is None else keep(chunk.digests)
                task.advance(len(chunk.digests))
                yield chunk.digests[rows], chunk.vectors[rows]

        return _replaced(folder, spec, fingerprint, kept(), n_before)


def salvage(folder: Path, spec: Spec, fingerprint: str, progress: Progress) -> Rewritten:
    """Write the store anew from every chunk in its file whose checksum is right, wherever it lies. The caller holds its
    lock.

    LMDB is not asked: a chunk is found by its magic and tells its own length, so nothing that happened to the tree
    above can hide or falsify it. `n_dropped` does not count rows behind the last sound chunk.

    Raises:
        NoSpace: the disk has no room for both; nothing is changed.
    """
    chunks = _sound_chunks(folder / DATA_FILE, fingerprint, progress)
    # A text may lie there twice: in a page that is no longer used, or in a commit that was killed before its end.
    every = np.concatenate([np.zeros((0, DIGEST_BYTES), np.uint8), *(chunk.digests for chunk in chunks)])
    first: Array = np.zeros(len(every), np.bool_)
    first[first_rows(every)] = True
    ends = np.cumsum([len(chunk.digests) for chunk in chunks]).tolist()
    good = ((chunk.digests[rows], chunk.vectors[rows]) for chunk, end in zip(chunks, ends, strict=True)
            for rows in [first[end - len(chunk.digests) : end]])  # fmt: skip
    n_before = max((chunk.first_row + len(chunk.digests) for chunk in chunks), default=0)
    return _replaced(folder, spec, fingerprint, good, n_before)


def _sound_chunks(data: Path, fingerprint: str, progress: Progress) -> Sequence[Chunk]:
    """Every chunk in the file whose checksum is right; their arrays are views of the file."""
    size, found, at = data.stat().st_size, [], 0
    if not size:
        return []
    with data.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # unmapped with the last view of it
    whole = memoryview(content)
    with progress.task("salvage", size, "bytes") as task:
        while (start := content.find(MAGIC, at)) >= 0:
            end = start + len(MAGIC)
            with suppress(BadStore):
                chunk = unpack_at(whole, start, fingerprint, f"{data}, byte {start}")
                found.append(chunk)
                end = start + chunk.n_bytes
            task.advance(end - at)
            at = end
    return found


def _replaced(
    folder: Path, spec: Spec, fingerprint: str, parts: Iterator[tuple[Digests, Floats]], n_before: int
) -> Rewritten:
    before = (folder / DATA_FILE).stat().st_size
    with replacing(folder) as new:
        environment = Environment(new, spec, fingerprint, write=True)
        try:
            digests = _write_chunks(environment, parts)
            _write_index(environment, digests)
        finally:
            environment.close()
        new.chmod(folder.stat().st_mode & 0o777)
    after = (folder / DATA_FILE).stat().st_size
    return Rewritten(len(digests), n_before - len(digests), before, after)


def _write_chunks(environment: Environment, parts: Iterator[tuple[Digests, Floats]]) -> Digests:
    """Write the rows in full chunks; their digests `[n, 16]` in order."""
    written: list[Digests] = [np.zeros((0, DIGEST_BYTES), np.uint8)]
    chunks, first = _full_chunks(parts), 0
    while batch := list(islice(chunks, _CHUNKS_A_COMMIT)):
        environment.write(partial(put_chunks, environment=environment, first=first, chunks=batch))
        written += [digests for digests, _ in batch]
        first += sum(len(digests) for digests, _ in batch)
    return np.concatenate(written)


def _full_chunks(parts: Iterator[tuple[Digests, Floats]]) -> Iterator[tuple[Digests, Floats]]:
    """The same rows, CHUNK_ROWS at a time; copies."""
    held: list[tuple[Digests, Floats]] = []
    n = 0
    for part in parts:
        held.append((part[0].copy(), part[1].copy()))
        n += len(part[0])
        if n >= CHUNK_ROWS:
            digests, vectors = (np.concatenate(halves) for halves in zip(*held, strict=True))
            whole = n - n % CHUNK_ROWS
            for at in range(0, whole, CHUNK_ROWS):
                yield digests[at : at + CHUNK_ROWS], vectors[at : at + CHUNK_ROWS]
            held, n = [(digests[whole:], vectors[whole:])], n - whole
    if n:
        digests, vectors = (np.concatenate(halves) for halves in zip(*held, strict=True))
        yield digests, vectors


def _write_index(environment: Environment, digests: Digests) -> None:
    halves = np.ascontiguousarray(digests).view(">u8")
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # as LMDB compares keys: then pages are filled one after the other
    for start in range(0, len(order), _KEYS_A_COMMIT):
        part = order[start : start + _KEYS_A_COMMIT]
        keys = np.ascontiguousarray(digests[part]).view(f"V{DIGEST_BYTES}").ravel().tolist()
        rows = part.astype("<i8").view("V8").tolist()

        def change(txn: Any, keys: list[bytes] = keys, rows: list[bytes] = rows) -> None:
            with txn.cursor(db=environment.index) as cursor:
                cursor.putmulti(zip(keys, rows, strict=True), append=True)

        environment.write(change)
