"""Reading a store: which digests it holds, and their vectors.

A vector is handed out only after its chunk's checksum matched once in this process and the digest beside its row is the
one that was asked for. This file knows digests and rows, not texts.
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
from loid_infer.store.environment import DATA_FILE, Environment
from loid_infer.store.records import DTYPES, MEND, Chunk, unpack
from loid_infer.store.view import StoredVectors
from loid_infer.types import DIGEST_BYTES, Array, Digests, Floats, Ints, Progress, Spec

_ENCODE = "Run `loid-infer encode --domain D` first."
_ABSENT = b"\xff" * 8  # reads as row -1
_LOOKUP_STEP = 1 << 17  # digests looked up in one transaction: bounds the Python objects alive at once


@dataclass(frozen=True, slots=True)
class StoreSize:
    """How much a store holds."""

    n_chunks: int
    n_rows: int
    n_index: int
    file_bytes: int


class StoreReader:
    """A view of one store. Holds no transaction between calls, so a writer in another process is never held up."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._checked: set[int] = set()  # first rows of chunks whose checksum matched in this process

    def __enter__(self) -> StoreReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store."""
        self.environment.close()

    def lookup(self, digests: Digests) -> Ints:
        """The row of each of `digests [n, 16]`, int64 `[n]`, -1 where the store has none."""
        order = np.argsort(digests[:, :8].copy().view(">u8").ravel(), kind="stable")  # neighbors share B-tree pages
        rows: Array = np.empty(len(digests), np.int64)
        for start in range(0, len(order), _LOOKUP_STEP):
            part = order[start : start + _LOOKUP_STEP]
            keys: list[bytes] = digests[part].view(f"V{DIGEST_BYTES}").ravel().tolist()
            with self.environment.read() as txn, txn.cursor(db=self.environment.index) as cursor:
                get, found = cursor.get, bytearray()
                for key in keys:  # joining memory views would take five times as long
                    found += get(key, _ABSENT)
                rows[part] = np.frombuffer(found, "<i8")
        return rows

    def rows_of(self, digests: Digests, fix: str) -> Ints:
        """The row of each of `digests [n, 16]`, int64 `[n]`, all of which must be there.

        Args:
            mend: the command that encodes them, for the message.

        Raises:
            NotEncoded: some are not.
        """
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
        """The vectors `[n, dim]` of `rows [n]`, in the stored dtype, inside the block only.

        Meanwhile the store may grow; what later commits replace is not reused before the block ends.

        Args:
            digests: `[n, 16]`, what the caller believes the rows to be; compared with what is stored beside them.

        Raises:
            BadStore: a chunk is damaged, or a row belongs to another text or to none.
        """
        spec, addresses = self.environment.spec, np.empty(len(rows), np.int64)
        with self.environment.read() as txn:
            for chunk, local, places in self._found(txn, rows, digests):
                addresses[places] = chunk.addresses[local]
            vectors = StoredVectors(addresses, spec.dim, DTYPES[spec.store_dtype])
            try:
                yield vectors
            finally:
                vectors.close()

    def _found(self, txn: Any, rows: Ints, digests: Digests) -> Iterator[tuple[Chunk, Ints, Ints]]:
        """Chunk by chunk what holds `rows [n]`: the chunk, the rows within it, and their places in `rows`."""
        order = np.argsort(rows, kind="stable")
        wanted, at = rows[order], 0
        with txn.cursor(db=self.environment.chunks) as cursor:
            while at < len(wanted):
                row = end = int(wanted[at])
                # At the last chunk that does not begin behind the row.
                if cursor.prev() if cursor.set_range(max(row + 1, 0).to_bytes(8, "big")) else cursor.last():
                    chunk = _chunk_at(self.environment, cursor, check=_first_row(cursor) not in self._checked)
                    self._checked.add(chunk.first_row)
                    end = chunk.first_row + len(chunk.digests)
                if end <= row:
                    raise _row_error(self.environment.folder, row, "no chunk holds it")
                stop = int(np.searchsorted(wanted, end))
                local, places = wanted[at:stop] - chunk.first_row, order[at:stop]
                if not np.array_equal(chunk.digests[local], digests[places]):
                    raise _row_error(self.environment.folder, row, "the index points to another text")
                yield chunk, local, places
                at = stop

    def every_row(self, progress: Progress, *, check: bool = True) -> tuple[Ints, Digests]:
        """All rows `[n]` and the digests of their texts `[n, 16]`.

        Args:
            check: whether to compute the chunks' checksums, for which all of the file is read.

        Raises:
            BadStore: a chunk is damaged.
        """
        n, at = self.size().n_rows, 0
        rows, digests = np.empty(n, np.int64), np.empty((n, DIGEST_BYTES), np.uint8)
        with progress.task("read", n, "rows") as task:
            for chunk in self.scan(check=check):
                if isinstance(chunk, BadStore):
                    raise chunk
                end = at + len(chunk.digests)
                if end > n:  # stored since
                    break
                rows[at:end], digests[at:end] = chunk.first_row + np.arange(end - at), chunk.digests
                at = end
                if check:
                    self._checked.add(chunk.first_row)
                task.advance(len(chunk.digests))
        return rows[:at], digests[:at]

    def scan(self, *, check: bool = True) -> Iterator[Chunk | BadStore]:
        """Every chunk, `check`ed against its checksum, or what is wrong with it. It is valid until the next step."""
        with self.environment.read() as txn, txn.cursor(db=self.environment.chunks) as cursor:
            for _ in cursor:
                try:
                    yield _chunk_at(self.environment, cursor, check=check)
                except BadStore as error:
                    yield error

    def chunk_keys(self) -> list[int]:
        """First rows of all chunks, ascending."""
        with self.environment.read() as txn, txn.cursor(db=self.environment.chunks) as cursor:
            return [_first_row(cursor) for _ in cursor.iternext(values=False)]

    def index_entries(self) -> Iterator[tuple[Digests, Ints]]:
        """The index in pieces: digests `[n, 16]` and rows `[n]`."""
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
    """The store of `spec` in `folder`, for reading.

    Args:
        mend: the command that fills it, for the message.

    Raises:
        NotEncoded: there is none.
        BadStore: it is damaged or another spec's.
    """
    try:
        return StoreReader(Environment(folder, spec, fingerprint, write=False))
    except NotEncoded as error:
        raise NotEncoded(error.what, where=error.where, fix=fix) from None


def stored_vectors(folder: Path, spec: Spec, fingerprint: str, digests: Digests, fix: str) -> Floats:
    """The vectors `[n, dim]` of the texts with `digests [n, 16]`, in memory; see `open_store`, `rows_of`, `view`."""
    with view_of(folder, spec, fingerprint, digests, fix) as vectors:
        return vectors[:]


@contextmanager
def view_of(folder: Path, spec: Spec, fingerprint: str, digests: Digests, fix: str) -> Iterator[StoredVectors]:
    """The vectors `[n, dim]` of the texts with `digests [n, 16]`, in the file; see `open_store`, `rows_of`, `view`."""
    with (
        open_store(folder, spec, fingerprint, fix) as store,
        store.view(store.rows_of(digests, fix), digests) as vectors,
    ):
        yield vectors


def next_row(txn: Any, environment: Environment) -> int:
    """The number the next appended row gets: one past the last chunk's last."""
    with txn.cursor(db=environment.chunks) as cursor:
        if not cursor.last():
            return 0
        chunk = _chunk_at(environment, cursor, check=False)
        return chunk.first_row + len(chunk.digests)


def _chunk_at(environment: Environment, cursor: Any, *, check: bool) -> Chunk:
    where = f"{environment.folder}, chunk at row {_first_row(cursor)}"
    record = memoryview(cursor.value())
    return unpack(
        record, environment.spec, environment.fingerprint, first_row=_first_row(cursor), where=where, check=check
    )


def _first_row(cursor: Any) -> int:
    return int.from_bytes(cursor.key(), "big")


def _row_error(folder: Path, row: int, what: str) -> BadStore:
    return BadStore(what, where=f"{folder}, row {row}", fix=MEND)
