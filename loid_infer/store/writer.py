"""Writes a store: one writer at a time, chunks in synced transactions.

Vectors, digests and index entries of a chunk are committed together, so a text is stored completely or not at all.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from loid_infer.artifact import writing
from loid_infer.errors import BadStore, NotEncoded, StoreBusy
from loid_infer.settings import make_folder
from loid_infer.store.environment import Environment
from loid_infer.store.reader import StoreReader, next_row
from loid_infer.store.records import DTYPES, SALVAGE, pack
from loid_infer.types import DIGEST_BYTES, Digests, Floats, Spec

CHUNK_ROWS = 1024
_INDEX_BYTES = 60  # per text; random keys fill pages to two thirds
_COPIES = 1.1  # pages copied by a commit are free only after the next one
_LOCK_FILE = "writer.lock"


class _AlreadyStored(ValueError):
    pass


class StoreWriter:
    """Writes a store and holds its lock until closed. `reader` reads the same environment."""

    def __init__(self, folder: Path, spec: Spec, fingerprint: str) -> None:
        """Open or create the store of `spec` in `folder`. Raises the errors of `writer_lock` and `Environment`."""
        with ExitStack() as opened:
            opened.enter_context(writer_lock(make_folder(folder)))
            self._environment = opened.enter_context(closing(Environment(folder, spec, fingerprint, write=True)))
            self._opened = opened.pop_all()
        self.reader = StoreReader(self._environment)

    def append(self, *chunks: tuple[Digests, Floats]) -> None:
        """Commit chunks in one transaction: new `digests [rows, 16]` and `vectors [rows, dim]` in the stored dtype.

        Raises:
            NoSpace: the disk is full; none of these chunks is stored.
            BadStore: the index contains a text that a lookup does not find.
            ValueError: a digest is already stored or occurs twice.
        """
        environment = self._environment
        digests = np.concatenate([part for part, _ in chunks])
        order = np.argsort(digests[:, :8].copy().view(">u8").ravel(), kind="stable")  # neighbors share B-tree pages
        keys: list[bytes] = digests[order].view(f"V{DIGEST_BYTES}").ravel().tolist()

        def change(txn: Any) -> None:
            first = next_row(txn, environment)
            rows: list[bytes] = (first + order).astype("<i8").view("V8").tolist()
            with txn.cursor(db=environment.index) as cursor:
                _, added = cursor.putmulti(zip(keys, rows, strict=True), overwrite=False)
            if added != len(keys):
                raise _AlreadyStored(f"{len(keys) - added} of {len(keys)} texts are already stored")
            put_chunks(txn, environment, first, chunks)

        try:
            environment.write(change)
        except _AlreadyStored as error:
            if (self.reader.lookup(digests) >= 0).any() or len(set(keys)) < len(keys):
                raise
            raise BadStore(f"the index is out of order: {error}", where=str(environment.folder), fix=SALVAGE) from error

    def close(self) -> None:
        """Close the store and release its lock."""
        self._opened.close()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def stored_bytes(spec: Spec) -> int:
    """Estimated bytes per text in the file."""
    return int(_COPIES * (spec.dim * DTYPES[spec.store_dtype].itemsize + DIGEST_BYTES + _INDEX_BYTES))


def put_chunks(txn: Any, environment: Environment, first: int, chunks: Sequence[tuple[Digests, Floats]]) -> None:
    """Append the records of `chunks`; their rows are numbered from `first`."""
    for digests, vectors in chunks:
        record = pack(first, digests, vectors, environment.fingerprint)
        txn.put(first.to_bytes(8, "big"), record, db=environment.chunks, append=True)
        first += len(digests)


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the writer lock of the store in `folder` for the block.

    Raises:
        NotEncoded: there is no such folder.
        StoreBusy: another process is writing to it.
        NoSpace: the folder is not writable.
    """
    if not folder.is_dir():
        raise NotEncoded("there is no store", where=str(folder), fix="Run: loid-infer encode --domain D")
    path = folder / _LOCK_FILE
    while True:
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:  # the system releases the lock when the descriptor is closed or the process ends
            _lock(descriptor, folder)
            # Otherwise the store was replaced meanwhile, and this is the lock of the old one.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                with writing(path):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                yield
                return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
        fix = "Wait for it to finish, then run the same command again: stored texts are not encoded twice."
        raise StoreBusy(f"{owner} is writing to this store", where=str(folder), fix=fix) from None
