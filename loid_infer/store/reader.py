"""Reading a store: which digests it holds, and their vectors.

A vector is handed out only after its chunk's checksum matched once in this process and the digest beside its row is the
one that was asked for. This file knows digests and rows, not texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loid_infer.errors import BadStore, NotEncoded
from loid_infer.store.environment import DATA_FILE, Environment
from loid_infer.store.records import DTYPES, MEND, Chunk, unpack
from loid_infer.store.view import StoredVectors
from loid_infer.types import DIGEST_BYTES, Array, Digests, Floats, Ints, Spec

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
        self._starts: Array = np.zeros(0, np.int64)

    def __enter__(self) -> StoreReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store."""
        self.environment.close()

    @property
    def dtype(self) -> Array:
        """An empty array of the stored dtype."""
        return np.zeros(0, DTYPES[self.environment.spec.store_dtype])

    def lookup(self, digests: Digests) -> Ints:
        """The row of each of `digests [n, 16]`, int64 `[n]`, -1 where the store has none."""
        order = np.argsort(digests[:, :8].copy().view(">u8").ravel(), kind="stable")  # neighbors share B-tree pages
        rows: Array = np.empty(len(digests), np.int64)
        for start in range(0, len(order), _LOOKUP_STEP):
            part = order[start : start + _LOOKUP_STEP]
            keys: list[bytes] = digests[part].view(f"V{DIGEST_BYTES}").ravel().tolist()
            with self.environment.read() as txn, txn.cursor(db=self.environment.index) as cursor:
                get = cursor.get
                rows[part] = np.frombuffer(b"".join([get(key, _ABSENT) for key in keys]), "<i8")
        return rows

    def rows_of(self, digests: Digests, mend: str) -> Ints:
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
            raise NotEncoded(what, where=str(self.environment.folder), mend=mend)
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
        dim, dtype = self.environment.spec.dim, self.dtype.dtype
        addresses: Ints = np.empty(len(rows), np.int64)
        with self.environment.read() as txn:
            for chunk, local, places in self._found(txn, rows, digests):
                start = chunk.vectors.__array_interface__["data"][0]
                addresses[places] = start + local * (dim * dtype.itemsize)
            vectors = StoredVectors(addresses, dim, dtype)
            try:
                yield vectors
            finally:
                vectors.close()

    def _found(self, txn: object, rows: Ints, digests: Digests) -> Iterator[tuple[Chunk, Ints, Ints]]:
        """Chunk by chunk what holds `rows [n]`: the chunk, the rows within it, and their places in `rows`."""
        order = np.argsort(rows, kind="stable")
        wanted = rows[order]
        if len(wanted) and wanted[0] < 0:
            raise _row_error(self.environment.folder, int(wanted[0]), "no chunk holds it")
        starts = self._chunk_starts(txn, int(wanted[-1])) if len(wanted) else self._starts
        at = 0
        while at < len(wanted):
            before = int(np.searchsorted(starts, wanted[at], side="right")) - 1
            if before < 0:
                raise _row_error(self.environment.folder, int(wanted[at]), "no chunk holds it")
            start = int(starts[before])
            record = memoryview(txn.get(_key(start), b"", db=self.environment.chunks))  # type: ignore[attr-defined]
            chunk = self._chunk(record, start)
            end = int(np.searchsorted(wanted, start + len(chunk.vectors)))
            if end == at:
                raise _row_error(self.environment.folder, int(wanted[at]), "no chunk holds it")
            local, places = wanted[at:end] - start, order[at:end]
            if not np.array_equal(chunk.digests[local], digests[places]):
                raise _row_error(self.environment.folder, int(wanted[at]), "the index points to another text")
            yield chunk, local, places
            at = end

    def chunk_keys(self) -> list[int]:
        """First rows of all chunks, ascending."""
        with self.environment.read() as txn:
            return self._chunk_keys(txn)

    def _chunk_keys(self, txn: object) -> list[int]:
        with txn.cursor(db=self.environment.chunks) as cursor:  # type: ignore[attr-defined]
            return [int.from_bytes(bytes(key), "big") for key in cursor.iternext(keys=True, values=False)]

    def scan(self) -> Iterator[Chunk | BadStore]:
        """Every chunk with its checksum computed, or what is wrong with it. A chunk is valid until the next step."""
        with self.environment.read() as txn, txn.cursor(db=self.environment.chunks) as cursor:
            for key, record in cursor:
                start = int.from_bytes(bytes(key), "big")
                try:
                    where = self._at(start)
                    yield unpack(
                        memoryview(record), self.environment.fingerprint, first_row=start, check=True, where=where
                    )
                except BadStore as error:
                    yield error

    def chunks(self) -> Iterator[Chunk]:
        """What `scan` finds.

        Raises:
            BadStore: at the first chunk that is damaged.
        """
        for chunk in self.scan():
            if isinstance(chunk, BadStore):
                raise chunk
            yield chunk

    def index_entries(self) -> Iterator[tuple[Digests, Ints]]:
        """The index in pieces: digests `[n, 16]` and rows `[n]`."""
        with self.environment.read() as txn, txn.cursor(db=self.environment.index) as cursor:
            keys, rows = bytearray(), bytearray()
            for key, row in cursor:
                keys += key
                rows += row
                if len(rows) >= 8 * _LOOKUP_STEP:
                    yield _entries(keys, rows)
                    keys, rows = bytearray(), bytearray()
            if rows:
                yield _entries(keys, rows)

    def size(self) -> StoreSize:
        """Chunks, rows, index entries and bytes on disk."""
        environment = self.environment
        with environment.read() as txn:
            n_chunks = txn.stat(environment.chunks)["entries"]
            n_index = txn.stat(environment.index)["entries"]
            n_rows = next_row(txn, environment)
        return StoreSize(n_chunks, n_rows, n_index, (environment.folder / DATA_FILE).stat().st_size)

    def _chunk_starts(self, txn: object, last: int) -> Array:
        # Chunks are appended and never move, so the known starts stay right; read anew when a row lies beyond them.
        if not len(self._starts) or last >= self._starts[-1]:
            self._starts = np.array(self._chunk_keys(txn), np.int64)
            if not len(self._starts):
                raise _row_error(self.environment.folder, last, "the store is empty")
        return self._starts

    def _chunk(self, record: memoryview, start: int) -> Chunk:
        check = start not in self._checked
        chunk = unpack(record, self.environment.fingerprint, first_row=start, check=check, where=self._at(start))
        self._checked.add(start)
        return chunk

    def _at(self, start: int) -> str:
        return f"{self.environment.folder}, chunk at row {start}"


def open_store(folder: Path, spec: Spec, fingerprint: str, mend: str = _ENCODE) -> StoreReader:
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
        raise NotEncoded(error.what, where=error.where, mend=mend) from None


def stored_vectors(folder: Path, spec: Spec, fingerprint: str, digests: Digests, mend: str) -> Floats:
    """The vectors `[n, dim]` of the texts with `digests [n, 16]`, in memory; see `open_store`, `rows_of`, `view`."""
    with view_of(folder, spec, fingerprint, digests, mend) as vectors:
        return vectors[:]


@contextmanager
def view_of(folder: Path, spec: Spec, fingerprint: str, digests: Digests, mend: str) -> Iterator[StoredVectors]:
    """The vectors `[n, dim]` of the texts with `digests [n, 16]`, in the file; see `open_store`, `rows_of`, `view`."""
    with ExitStack() as opened:
        store = opened.enter_context(open_store(folder, spec, fingerprint, mend))
        yield opened.enter_context(store.view(store.rows_of(digests, mend), digests))


def next_row(txn: object, environment: Environment) -> int:
    """The number the next appended row gets: one past the last chunk's last."""
    with txn.cursor(db=environment.chunks) as cursor:  # type: ignore[attr-defined]
        if not cursor.last():
            return 0
        start = int.from_bytes(bytes(cursor.key()), "big")
        chunk = unpack(
            memoryview(cursor.value()),
            environment.fingerprint,
            first_row=start,
            check=False,
            where=f"{environment.folder}, chunk at row {start}",
        )
        return start + len(chunk.vectors)


def _key(first_row: int) -> bytes:
    return first_row.to_bytes(8, "big")


def _entries(keys: bytearray, rows: bytearray) -> tuple[Digests, Ints]:
    return np.frombuffer(bytes(keys), np.uint8).reshape(-1, DIGEST_BYTES), np.frombuffer(bytes(rows), "<i8")


def _row_error(folder: Path, row: int, what: str) -> BadStore:
    return BadStore(what, where=f"{folder}, row {row}", mend=MEND)
