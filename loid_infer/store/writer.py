"""Writes a store: one writer at a time, chunks in synced transactions.

`append` commits vectors, digests and index entries of chunks together, so a text is stored completely or not at all.
`add_rows` leaves the entries to `index`, which writes those of many chunks in key order: a transaction copies every
page of the index in which it puts one of its keys, so entries of few chunks at a time would cost more than the vectors.
A text counts as stored when it has its entry; those of a killed process are added when the next writer opens.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from loid_infer.errors import BadStore, ParityError
from loid_infer.kernels.unique import prefixes
from loid_infer.settings import make_folder
from loid_infer.store.environment import Environment
from loid_infer.store.lock import writer_lock
from loid_infer.store.reader import UNINDEXED, StoreReader, next_row
from loid_infer.store.records import DTYPES, SALVAGE, pack
from loid_infer.types import DIGEST_BYTES, Array, Digests, Floats, Ints, Spec

CHUNK_ROWS = 1024
_INDEX_BYTES = 60  # per text; random keys fill pages to two thirds
_COPIES = 1.1  # pages copied by a commit are free only after the next one
_MAX_CHUNK_S = 5.0
# Maximum number of chunks in the queue. They are committed in one transaction, which copies the index pages it changes:
# a longer queue is faster but leaves a larger file.
_MAX_WAITING = 8
# Index entries that `index` commits at once: in a large index each changes a page, and LMDB keeps 131,071 in memory.
_KEYS_A_COMMIT = 1 << 16


class AlreadyStored(ValueError):
    """A digest is stored already, or given twice."""


class Addition:
    """Chunks to commit at once, with the keys of their texts in order. A thread can prepare it beside a commit."""

    def __init__(self, *chunks: tuple[Digests, Floats]) -> None:
        """Of `digests [rows, 16]` and `vectors [rows, dim]` in the stored dtype."""
        self.chunks = chunks
        self.digests: Digests = np.concatenate([part for part, _ in chunks])
        numbers = prefixes(self.digests)
        self.order = np.argsort(numbers, kind="stable")  # neighbors share B-tree pages
        self.prefixes: Array = numbers[self.order]
        self.keys = as_keys(self.digests[self.order])
        self.n_bytes = sum(vectors.nbytes for _, vectors in chunks)


class StoreWriter:
    """Writes a store and holds its lock until closed. `reader` reads the same environment."""

    def __init__(self, folder: Path, spec: Spec, fingerprint: str) -> None:
        """Open or create the store of `spec` in `folder`, and index what a killed writer left.

        Raises the errors of `writer_lock`, `Environment` and `index`.
        """
        with ExitStack() as opened:
            opened.enter_context(writer_lock(make_folder(folder)))
            self._environment = opened.enter_context(closing(Environment(folder, spec, fingerprint, write=True)))
            self.reader = StoreReader(self._environment)
            self.index()
            self._opened = opened.pop_all()

    def append(self, *chunks: tuple[Digests, Floats]) -> None:
        """Commit chunks in one transaction: new `digests [rows, 16]` and `vectors [rows, dim]` in the stored dtype.

        Raises the errors of `add`.
        """
        self.add(Addition(*chunks))

    def add(self, new: Addition) -> None:
        """Commit chunks and their index entries in one transaction.

        Raises NoSpace if the disk is full (then none of these chunks is stored), BadStore if the index contains a text
        that a lookup does not find, and AlreadyStored if a digest is stored or occurs twice.
        """
        self.index()
        environment = self._environment

        def change(txn: Any) -> None:
            first = next_row(txn, environment)
            rows = as_values(first + new.order)
            with txn.cursor(db=environment.index) as cursor:
                _, added = cursor.putmulti(zip(new.keys, rows, strict=True), overwrite=False)
            if added != len(new.keys):
                raise AlreadyStored(f"{len(new.keys) - added} of {len(new.keys)} texts are already stored")
            put_chunks(txn, environment, first, new.chunks)

        try:
            environment.write(change)
        except AlreadyStored as error:
            if (self.reader.lookup(new.digests) >= 0).any() or len(set(new.keys)) < len(new.keys):
                raise
            raise BadStore(f"the index is out of order: {error}", where=str(environment.folder), fix=SALVAGE) from error

    def add_rows(self, *chunks: tuple[Digests, Floats]) -> None:
        """Commit chunks without index entries, which `index` adds. None of their texts may be stored, or occur twice.

        Raises NoSpace if the disk is full (then none of these chunks is stored).
        """
        environment = self._environment

        def change(txn: Any) -> None:
            first = next_row(txn, environment)
            txn.put(UNINDEXED, first.to_bytes(8, "big"), db=environment.meta, overwrite=False)
            put_chunks(txn, environment, first, chunks)

        environment.write(change)

    def index(self) -> None:
        """Add the index entries of all rows that lack them, in key order.

        Raises BadStore if these rows are damaged or are of texts that are stored already, NoSpace if the disk is full.
        """
        environment, first = self._environment, self.reader.first_unindexed()
        if first is None:
            return
        digests = self._digests_from(first)
        order = np.argsort(prefixes(digests))
        for start in range(0, len(order), _KEYS_A_COMMIT):
            part = order[start : start + _KEYS_A_COMMIT]
            keys, rows, is_last = as_keys(digests[part]), as_values(first + part), start + len(part) == len(order)

            def change(txn: Any, keys: list[bytes] = keys, rows: list[bytes] = rows, is_last: bool = is_last) -> None:
                with txn.cursor(db=environment.index) as cursor:
                    _, added = cursor.putmulti(zip(keys, rows, strict=True), overwrite=False)
                    # A process that was killed may have added some of them.
                    if added < len(keys) and any(cursor.get(key) != row for key, row in zip(keys, rows, strict=True)):
                        raise BadStore("two rows have the same text", where=str(environment.folder), fix=SALVAGE)
                if is_last:
                    txn.delete(UNINDEXED, db=environment.meta)

            environment.write(change)

    def _digests_from(self, first: int) -> Digests:
        """The digests of the rows from `first` on, `[n, 16]`."""
        parts, end = [], first
        for chunk in self.reader.scan(first, check=False):  # compared when a vector is first read
            if isinstance(chunk, BadStore):
                raise chunk
            if chunk.first_row != end:
                what, where = f"rows {end} to {chunk.first_row - 1} are missing", str(self._environment.folder)
                raise BadStore(what, where=where, fix=SALVAGE)
            parts.append(chunk.digests.copy())
            end += len(chunk.digests)
        return np.concatenate(parts)

    def close(self) -> None:
        """Close the store and release its lock."""
        self._opened.close()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Collector:
    """Collects vectors into pieces of `n` rows, or of what there is after some seconds."""

    def __init__(self, spec: Spec, n: int, max_s: float, take: Callable[[Digests, Floats], None]) -> None:
        """`take` gets digests `[m, 16]` and vectors `[m, dim]` in the stored dtype, valid until it returns."""
        self._spec, self._max_s, self._take = spec, max_s, take
        self._digests: Array = np.empty((n, DIGEST_BYTES), np.uint8)
        self._vectors: Array = np.empty((n, spec.dim), DTYPES[spec.store_dtype])
        self._n, self._opened = 0, time.monotonic()

    def add(self, digests: Digests, vectors: Floats) -> None:
        """Add `vectors [n, dim]` of the texts with `digests [n, 16]`. Raises ParityError, see `as_stored`."""
        stored, at = as_stored(vectors, len(digests), self._spec), 0
        while at < len(stored):
            n = min(len(stored) - at, len(self._digests) - self._n)
            self._digests[self._n : self._n + n] = digests[at : at + n]
            self._vectors[self._n : self._n + n] = stored[at : at + n]
            self._n, at = self._n + n, at + n
            if self._n == len(self._digests) or time.monotonic() - self._opened > self._max_s:
                self.flush()

    def flush(self) -> None:
        """Hand over what there is."""
        n, self._n, self._opened = self._n, 0, time.monotonic()
        if n:
            self._take(self._digests[:n], self._vectors[:n])


class Committer:
    """Collects vectors into chunks and commits them in a thread. On exit all are committed, also after an error."""

    def __init__(self, writer: StoreWriter) -> None:
        self.commit_s = 0.0
        self._writer = writer
        self._collector = Collector(writer.reader.environment.spec, CHUNK_ROWS, _MAX_CHUNK_S, self._enqueue)
        self._queue: queue.Queue[tuple[Digests, Floats] | None] = queue.Queue(_MAX_WAITING)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="commit", daemon=True)

    def add(self, digests: Digests, vectors: Floats) -> None:
        """Add `vectors [n, dim]`, float32 or float16, of the texts with `digests [n, 16]`.

        Raises ParityError if the vectors have another width or are not finite in the stored dtype; none is committed.
        Raises NoSpace if an earlier chunk could not be committed.
        """
        if self._failure is not None:
            raise self._failure
        self._collector.add(digests, vectors)

    def _enqueue(self, digests: Digests, vectors: Floats) -> None:
        self._queue.put((digests.copy(), vectors.copy()))

    def _work(self) -> None:
        ended = False
        while not ended:
            # Commit all waiting chunks in one transaction: the slower the disk, the fewer and larger the syncs.
            waiting = [self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get())
            chunks = [chunk for chunk in waiting if chunk is not None]
            ended = len(chunks) < len(waiting)
            if self._failure is None and chunks:
                start = time.perf_counter()
                try:
                    self._writer.append(*chunks)
                except BaseException as error:  # noqa: BLE001 - raised again by `add`
                    self._failure = error
                self.commit_s += time.perf_counter() - start

    def __enter__(self) -> Committer:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._collector.flush()
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure


def as_stored(vectors: Floats, n: int, spec: Spec) -> Floats:
    """`vectors [n, dim]` in the stored dtype. Raises ParityError for another shape, or numbers that are not finite."""
    with np.errstate(over="ignore"):
        stored = vectors.astype(DTYPES[spec.store_dtype], copy=False)
    if stored.shape != (n, spec.dim):
        what = f"the runtime returned vectors of the wrong shape {stored.shape}"
        raise ParityError(what, expected=str((n, spec.dim)), fix="Choose another --runtime.")
    if not _finite(stored):
        what = f"the runtime returned a vector that is not finite in {stored.dtype}"
        fix = "Choose another --runtime" + (", or export with --store fp32." if stored.dtype == np.float16 else ".")
        raise ParityError(what, fix=fix)
    return stored


def _finite(stored: Floats) -> bool:
    if stored.dtype != np.float16:
        return bool(np.isfinite(stored).all())
    # All bits of the exponent set: not finite. Four times as fast as isfinite in float16.
    exponents = np.ascontiguousarray(stored).view(np.uint16) & np.uint16(0x7C00)
    return not len(exponents) or int(exponents.max(initial=0)) < 0x7C00


def stored_bytes(spec: Spec) -> int:
    """Estimated bytes per text in the file."""
    return int(_COPIES * (spec.dim * DTYPES[spec.store_dtype].itemsize + DIGEST_BYTES + _INDEX_BYTES))


def as_keys(digests: Digests) -> list[bytes]:
    """Keys of the index."""
    keys: list[bytes] = np.ascontiguousarray(digests).view(f"V{DIGEST_BYTES}").ravel().tolist()
    return keys


def as_values(rows: Ints) -> list[bytes]:
    """Values of the index."""
    values: list[bytes] = rows.astype("<i8").view("V8").tolist()
    return values


def put_chunks(txn: Any, environment: Environment, first: int, chunks: Sequence[tuple[Digests, Floats]]) -> None:
    """Append the records of `chunks`; their rows are numbered from `first`."""
    for digests, vectors in chunks:
        record = pack(first, digests, vectors, environment.fingerprint)
        txn.put(first.to_bytes(8, "big"), record, db=environment.chunks, append=True)
        first += len(digests)
