"""Writing a store anew, smaller or out of what is left of a damaged one; it then takes the old one's place at once.

The new store has full chunks and an index written in order, so its pages are full too. Readers of the old one keep what
they have open. This file knows digests and rows; which of them are worth keeping is its callers' business.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from loid_infer.artifact import new_folder
from loid_infer.errors import BadStore
from loid_infer.kernels.unique import first_rows
from loid_infer.store.environment import DATA_FILE, Environment, check_format
from loid_infer.store.reader import open_store
from loid_infer.store.records import DTYPES, MAGIC, Chunk, unpack
from loid_infer.store.view import StoredVectors
from loid_infer.store.writer import CHUNK_ROWS, put_chunks
from loid_infer.types import DIGEST_BYTES, Bools, Digests, Floats, Progress, Spec

_Vectors: TypeAlias = Callable[[slice], Floats]  # of a part of all rows

_ROWS_A_COMMIT = 64 * CHUNK_ROWS
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
    with open_store(folder, spec, fingerprint) as store:
        rows, digests = store.every_row(progress, check=keep is not None)  # what is kept is checked below
        if keep is not None:
            kept = keep(digests)
            rows, digests = rows[kept], digests[kept]

        def vectors(part: slice) -> Floats:
            return store.gather(rows[part], digests[part])

        return _replaced(folder, spec, fingerprint, digests, vectors, store.size().n_rows, progress)


def salvage(folder: Path, spec: Spec, fingerprint: str, progress: Progress) -> Rewritten:
    """Write the store anew from every chunk in its file whose checksum is right, wherever it lies. The caller holds its
    lock.

    LMDB is not asked: a chunk is found by its magic and tells its own length, so nothing that happened to the tree
    above can hide or falsify it. `n_dropped` does not count rows behind the last sound chunk.

    Raises:
        BadStore: the store is of another version's format; nothing is changed.
        NoSpace: the disk has no room for both; nothing is changed.
    """
    check_format(spec, folder)
    chunks = _sound_chunks(folder / DATA_FILE, spec, fingerprint, progress)  # as long as they live the file is mapped
    every = np.concatenate([np.zeros((0, DIGEST_BYTES), np.uint8), *(chunk.digests for chunk in chunks)])
    addresses = np.concatenate([np.zeros(0, np.int64), *(chunk.addresses for chunk in chunks)])
    # A text may lie there twice: in a page that is no longer used, or in a commit that was killed before its end.
    first = first_rows(every)
    vectors = StoredVectors(addresses[first], spec.dim, DTYPES[spec.store_dtype])
    n_before = max((chunk.first_row + len(chunk.digests) for chunk in chunks), default=0)
    return _replaced(folder, spec, fingerprint, every[first], vectors.__getitem__, n_before, progress)


def _sound_chunks(data: Path, spec: Spec, fingerprint: str, progress: Progress) -> list[Chunk]:
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
                found.append(unpack(whole[start:], spec, fingerprint, first_row=None, where=f"{data}, byte {start}"))
                end = start + found[-1].n_bytes
            task.advance(end - at)
            at = end
    return found


def _replaced(
    folder: Path, spec: Spec, fingerprint: str, digests: Digests, vectors: _Vectors, n_before: int, progress: Progress
) -> Rewritten:
    before = (folder / DATA_FILE).stat().st_size
    with new_folder(folder) as new:
        with (
            closing(Environment(new, spec, fingerprint, write=True)) as environment,
            progress.task("write", len(digests), "rows") as task,
        ):
            for first in range(0, len(digests), _ROWS_A_COMMIT):
                part = slice(first, first + _ROWS_A_COMMIT)
                some, found = digests[part], vectors(part)
                starts = range(0, len(some), CHUNK_ROWS)
                chunks = [(some[at : at + CHUNK_ROWS], found[at : at + CHUNK_ROWS]) for at in starts]
                environment.write(partial(put_chunks, environment=environment, first=first, chunks=chunks))
                task.advance(len(some))
            _write_index(environment, digests)
        new.chmod(folder.stat().st_mode & 0o777)
    after = (folder / DATA_FILE).stat().st_size
    return Rewritten(len(digests), n_before - len(digests), before, after)


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
