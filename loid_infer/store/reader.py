"""Reads a store: looks up digests and returns vectors.

The checksum of a chunk is compared once per process, and the digest of a row at every read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from loid_infer.errors import BadStore, NotEncoded
from loid_infer.kernels.unique import prefixes
from loid_infer.store.environment import Environment
from loid_infer.store.records import DTYPES, SALVAGE, Chunk, StoredVectors, unpack
from loid_infer.store.shared import DATA_FILE
from loid_infer.types import DIGEST_BYTES, Array, Digests, Floats, Ints, Progress, Spec

_ENCODE = "Run `loid-infer encode --domain D` first."
UNINDEXED = b"unindexed"  # in `meta`: the first row whose index entry may be missing, 8 bytes big-endian
_ABSENT = b"\xff" * 8  # reads as row -1
_LOOKUP_STEP = 1 << 17  # digests looked up per transaction; bounds the number of live Python objects


@dataclass(frozen=True, slots=True)
class StoreSize:
    """Size of a store."""

    n_chunks: int
    n_rows: int
    n_index: int
    file_bytes: int


class StoreReader:
    """Reads one store. No transaction stays open between calls, so writers in other processes are not blocked."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._checked: set[int] = set()  # first rows of chunks whose checksums have been compared

    def __enter__(self) -> StoreReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store."""
        self.environment.close()

    def lookup(self, digests: Digests) -> Ints:
        """The row of each of `digests [n, 16]`, int64 `[n]`; -1 if not stored."""
        order = np.argsort(prefixes(digests), kind="stable")  # neighbors share B-tree pages
        rows: Array = np.empty(len(digests), np.int64)
        for start in range(0, len(order), _LOOKUP_STEP):
            part = order[start : start + _LOOKUP_STEP]
            keys: list[bytes] = digests[part].view(f"V{DIGEST_BYTES}").ravel().tolist()
            with self.environment.read() as txn, txn.cursor(db=self.environment.index) as cursor:
                get, values = cursor.get, bytearray()
                for key in keys:  # joining memory views would take five times as long
                    values += get(key, _ABSENT)
                rows[part] = np.frombuffer(values, "<i8")
        return rows

    def rows_of(self, digests: Digests, fix: str) -> Ints:
        """The row of each of `digests [n, 16]`, int64 `[n]`. Raises NotEncoded if some are not stored."""
        rows = self.lookup(digests)
        n_missing = int(np.count_nonzero(rows < 0))
        if n_missing:
            what = f"{n_missing:,} of {len(digests):,} texts have no vector yet"
            raise NotEncoded(what, where=str(self.environment.folder), fix=fix)
        return rows

    def gather(self, rows: Ints, digests: Digests) -> Floats:
        """The vectors `[n, dim]` of `rows [n]` in memory; see `view`."""
        with self.view(rows, digests) as vectors:
            return vectors[:]

    @contextmanager
    def view(self, rows: Ints, digests: Digests) -> Iterator[StoredVectors]:
        """The vectors `[n, dim]` of `rows [n]`, in the stored dtype, valid only inside the block.

        The store may grow meanwhile; a read transaction keeps the pages in place. Raises BadStore if a chunk is
        damaged, a row does not exist, or its text has another digest than `digests [n, 16]` say.
        """
        spec, addresses = self.environment.spec, np.empty(len(rows), np.int64)
        with self.environment.read() as txn:
            for chunk, local, positions in self._chunks_of(txn, rows, digests):
                addresses[positions] = chunk.addresses[local]
            vectors = StoredVectors(addresses, spec.dim, DTYPES[spec.store_dtype])
            try:
                yield vectors
            finally:
                vectors.close()

    def _chunks_of(self, txn: Any, rows: Ints, digests: Digests) -> Iterator[tuple[Chunk, Ints, Ints]]:
        """The chunks that contain `rows [n]`, each with the rows within it and their positions in `rows`."""
        order = np.argsort(rows, kind="stable")
        wanted, at = rows[order], 0
        with txn.cursor(db=self.environment.chunks) as cursor:
            while at < len(wanted):
                row = end = int(wanted[at])
                # Move to the last chunk that does not begin after the row.
                if cursor.prev() if cursor.set_range(max(row + 1, 0).to_bytes(8, "big")) else cursor.last():
                    chunk = _chunk_at(self.environment, cursor, check=_first_row(cursor) not in self._checked)
                    self._checked.add(chunk.first_row)
                    end = chunk.first_row + len(chunk.digests)
                where = f"{self.environment.folder}, row {row}"
                if end <= row:
                    raise BadStore("no chunk contains it", where=where, fix=SALVAGE)
                stop = int(np.searchsorted(wanted, end))
                local, positions = wanted[at:stop] - chunk.first_row, order[at:stop]
                if not np.array_equal(chunk.digests[local], digests[positions]):
                    raise BadStore("the index points to another text", where=where, fix=SALVAGE)
                yield chunk, local, positions
                at = stop

    def every_row(self, progress: Progress, *, check: bool = True) -> tuple[Ints, Digests]:
        """All rows `[n]` and digests of their texts `[n, 16]`. Raises BadStore if a chunk is damaged (see `scan`)."""
        n, at = self.size().n_rows, 0
        rows, digests = np.empty(n, np.int64), np.empty((n, DIGEST_BYTES), np.uint8)
        with progress.task("read", n, "rows") as task:
            for chunk in self.scan(check=check):
                if isinstance(chunk, BadStore):
                    raise chunk
                end = at + len(chunk.digests)
                if end > n:  # stored meanwhile
                    break
                rows[at:end], digests[at:end] = chunk.first_row + np.arange(end - at), chunk.digests
                at = end
                if check:
                    self._checked.add(chunk.first_row)
                task.advance(len(chunk.digests))
        return rows[:at], digests[:at]

    def scan(self, first: int = 0, *, check: bool = True) -> Iterator[Chunk | BadStore]:
        """Every chunk, valid until the next one, or the error for a damaged one. `check` compares the checksums.

        With `first`, those that begin at that row or later.
        """
        with self.environment.read() as txn, txn.cursor(db=self.environment.chunks) as cursor:
            for _ in cursor.iternext() if cursor.set_range(first.to_bytes(8, "big")) else ():
                try:
                    yield _chunk_at(self.environment, cursor, check=check)
                except BadStore as error:
                    yield error

    def chunk_keys(self) -> list[int]:
        """First rows of all chunks, ascending."""
        with self.environment.read() as txn, txn.cursor(db=self.environment.chunks) as cursor:
            return [_first_row(cursor) for _ in cursor.iternext(values=False)]

    def first_unindexed(self) -> int | None:
        """The first row whose index entry may be missing, because its writer is still adding rows, or was killed.

        Raises BadStore if no chunk begins there.
        """
        with self.environment.read() as txn, txn.cursor(db=self.environment.chunks) as cursor:
            view = txn.get(UNINDEXED, db=self.environment.meta)
            if view is None:
                return None
            row = bytes(view)
            if not cursor.set_key(row) if row else True:
                what = "rows without index entries do not begin where the store says"
                raise BadStore(what, where=str(self.environment.folder), got=f"row {row[:20].hex()}", fix=SALVAGE)
        return int.from_bytes(row, "big")

    def index_entries(self) -> Iterator[tuple[Digests, Ints]]:
        """The index in batches: digests `[n, 16]` and rows `[n]`."""
        with self.environment.read() as txn, txn.cursor(db=self.environment.index) as cursor:
            entries = iter(cursor)
            while True:
                keys, rows = bytearray(), bytearray()
                for key, row in islice(entries, _LOOKUP_STEP):
                    keys += key
                    rows += row
                if not rows:
                    return
                yield np.frombuffer(keys, np.uint8).reshape(-1, DIGEST_BYTES), np.frombuffer(rows, "<i8")

    def size(self) -> StoreSize:
        """Chunks, rows, index entries and bytes on disk."""
        environment = self.environment
        with environment.read() as txn:
            n_chunks = txn.stat(environment.chunks)["entries"]
            n_index = txn.stat(environment.index)["entries"]
            n_rows = next_row(txn, environment)
        return StoreSize(n_chunks, n_rows, n_index, (environment.folder / DATA_FILE).stat().st_size)


def open_store(folder: Path, spec: Spec, fingerprint: str, fix: str = _ENCODE) -> StoreReader:
    """Open a store for reading. Raises NotEncoded (with `fix`) if there is none, and the errors of `Environment`."""
    try:
        return StoreReader(Environment(folder, spec, fingerprint, write=False))
    except NotEncoded as error:
        raise NotEncoded(error.what, where=error.where, fix=fix) from None


def stored_vectors(folder: Path, spec: Spec, fingerprint: str, digests: Digests, fix: str) -> Floats:
    """The vectors `[n, dim]` of the texts with `digests [n, 16]` as an array; see `view_of`."""
    with view_of(folder, spec, fingerprint, digests, fix) as vectors:
        return vectors[:]


@contextmanager
def view_of(folder: Path, spec: Spec, fingerprint: str, digests: Digests, fix: str) -> Iterator[StoredVectors]:
    """The vectors `[n, dim]` of the texts with `digests [n, 16]`, as a view of the file; errors as in `StoreReader`."""
    with (
        open_store(folder, spec, fingerprint, fix) as store,
        store.view(store.rows_of(digests, fix), digests) as vectors,
    ):
        yield vectors


def next_row(txn: Any, environment: Environment) -> int:
    """The number of the next appended row."""
    with txn.cursor(db=environment.chunks) as cursor:
        if not cursor.last():
            return 0
        chunk = _chunk_at(environment, cursor, check=False)
        return chunk.first_row + len(chunk.digests)


def _chunk_at(environment: Environment, cursor: Any, *, check: bool) -> Chunk:
    record, row, spec = memoryview(cursor.value()), _first_row(cursor), environment.spec
    where = f"{environment.folder}, chunk at row {row}"
    return unpack(record, spec, environment.fingerprint, first_row=row, where=where, check=check)


def _first_row(cursor: Any) -> int:
    return int.from_bytes(cursor.key(), "big")
