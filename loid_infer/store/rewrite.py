"""Rewrites a store: `compact` makes it smaller, `salvage` recovers the intact chunks of a damaged one.

The new store replaces the old one in one step; open readers keep the old one. Its chunks are full, and its index is
written in key order, so that index pages are full too.
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

from loid_infer.artifact import new_folder, set_mode
from loid_infer.errors import BadStore, NoMemory
from loid_infer.kernels.unique import first_rows
from loid_infer.store.environment import Environment, check_format
from loid_infer.store.lock import LOCK_FILE
from loid_infer.store.reader import open_store
from loid_infer.store.records import DTYPES, MAGIC, Chunk, StoredVectors, unpack
from loid_infer.store.shared import DATA_FILE
from loid_infer.store.writer import CHUNK_ROWS, as_keys, as_values, put_chunks
from loid_infer.types import DIGEST_BYTES, Bools, Digests, Floats, Progress, Spec

_Vectors: TypeAlias = Callable[[slice], Floats]

_ROWS_A_COMMIT = 64 * CHUNK_ROWS
_KEYS_A_COMMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Rewritten:
    """Sizes of a store before and after a rewrite."""

    n_rows: int
    n_dropped: int  # removed rows
    bytes_before: int
    bytes_after: int


def compact(
    folder: Path, spec: Spec, fingerprint: str, keep: Callable[[Digests], Bools] | None, progress: Progress
) -> Rewritten:
    """Rewrite the store with full pages and chunks. The caller holds its lock. After an error nothing is changed.

    `keep` returns which of the digests `[n, 16]` to keep, `[n]`; None keeps all. Raises BadStore if a chunk is damaged,
    and NoSpace if the disk has no room for both stores.
    """
    with open_store(folder, spec, fingerprint) as store:
        rows, digests = store.every_row(progress, check=keep is not None)  # the rest is checked by `gather`
        if keep is not None:
            kept = keep(digests)
            rows, digests = rows[kept], digests[kept]

        def vectors(part: slice) -> Floats:
            return store.gather(rows[part], digests[part])

        return _rewrite(folder, spec, fingerprint, digests, vectors, store.size().n_rows, progress)


def salvage(folder: Path, spec: Spec, fingerprint: str, progress: Progress) -> Rewritten:
    """Rewrite the store from its intact chunks. The caller holds its lock. After an error nothing is changed.

    LMDB is not used: a chunk is found by its magic and contains its length, so damage to the tree does not matter.
    `n_dropped` does not include rows after the last intact chunk. Raises BadStore if the format of the store is not
    supported, and NoSpace if the disk has no room for both stores.
    """
    check_format(spec, folder)
    chunks = _intact_chunks(folder / DATA_FILE, spec, fingerprint, progress)  # keeps the file mapped
    digests = np.concatenate([np.zeros((0, DIGEST_BYTES), np.uint8), *(chunk.digests for chunk in chunks)])
    addresses = np.concatenate([np.zeros(0, np.int64), *(chunk.addresses for chunk in chunks)])
    # A text may occur twice: in a page that is no longer used, or in an unfinished commit.
    first = first_rows(digests)
    vectors = StoredVectors(addresses[first], spec.dim, DTYPES[spec.store_dtype])
    n_before = max((chunk.first_row + len(chunk.digests) for chunk in chunks), default=0)
    return _rewrite(folder, spec, fingerprint, digests[first], vectors.__getitem__, n_before, progress)


def _intact_chunks(data: Path, spec: Spec, fingerprint: str, progress: Progress) -> list[Chunk]:
    """All chunks in the file with a correct checksum, as views of the file."""
    size, chunks, at = data.stat().st_size, [], 0
    if not size:
        return []
    with data.open("rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # unmapped with the last view of it
        except OSError as error:
            fix = "Use a workspace on a local disk, or run `ulimit -v unlimited` first."
            raise NoMemory(f"the file cannot be mapped: {error.strerror}", where=str(data), fix=fix) from error
    view = memoryview(content)
    with progress.task("salvage", size, "bytes") as task:
        while (start := content.find(MAGIC, at)) >= 0:
            end = start + len(MAGIC)
            with suppress(BadStore):
                chunks.append(unpack(view[start:], spec, fingerprint, first_row=None, where=f"{data}, byte {start}"))
                end = start + chunks[-1].n_bytes
            task.advance(end - at)
            at = end
    return chunks


def _rewrite(
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
                keys, values = digests[part], vectors(part)
                starts = range(0, len(keys), CHUNK_ROWS)
                chunks = [(keys[at : at + CHUNK_ROWS], values[at : at + CHUNK_ROWS]) for at in starts]
                environment.write(partial(put_chunks, environment=environment, first=first, chunks=chunks))
                task.advance(len(keys))
            _write_index(environment, digests)
        (new / LOCK_FILE).touch()
        set_mode(new, folder.stat().st_mode)
    after = (folder / DATA_FILE).stat().st_size
    return Rewritten(len(digests), n_before - len(digests), before, after)


def _write_index(environment: Environment, digests: Digests) -> None:
    halves = np.ascontiguousarray(digests).view(">u8")
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # LMDB's order of keys, so that pages are filled one by one
    for start in range(0, len(order), _KEYS_A_COMMIT):
        part = order[start : start + _KEYS_A_COMMIT]
        keys, rows = as_keys(digests[part]), as_values(part)

        def change(txn: Any, keys: list[bytes] = keys, rows: list[bytes] = rows) -> None:
            with txn.cursor(db=environment.index) as cursor:
                cursor.putmulti(zip(keys, rows, strict=True), append=True)

        environment.write(change)
