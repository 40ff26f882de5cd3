"""One LMDB environment a card: opening, the card's check, and a map that grows by itself.

    chunks   first row, 8 bytes big-endian -> record (see `records`)
    index    digest of a text, 16 bytes    -> row, 8 bytes little-endian
    meta     "card"                        -> the card as canonical JSON

This file knows nothing of texts, encoders or rows; `reader` and `writer` do.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lmdb

from loid_infer.artifact import new_file
from loid_infer.errors import BadStore, NoSpace, NotEncoded
from loid_infer.store.pages import check_length
from loid_infer.store.records import FORMAT, MEND
from loid_infer.types import Card

CARD_FILE = "card.json"
DATA_FILE = "data.mdb"
_MAP_STEP = 1 << 30
_MAX_READERS = 1024


def card_bytes(card: Card) -> bytes:
    """A card as canonical JSON, the form that is stored and compared."""
    return json.dumps(asdict(card), sort_keys=True, indent=2).encode() + b"\n"


def read_card(folder: Path) -> Card:
    """The card that lies beside a store.

    Raises:
        BadStore: it is not there or cannot be read.
    """
    path = folder / CARD_FILE
    try:
        return Card(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise BadStore(
            f"the store's card cannot be read: {error}",
            where=str(path),
            mend="Run `loid-infer encode` again: it writes the card from the store.",
        ) from error


class Environment:
    """An open LMDB environment that belongs to the process that opened it."""

    def __init__(self, folder: Path, card: Card, fingerprint: str, *, write: bool) -> None:
        """Open the store in `folder`; a writer creates what is not there.

        Raises:
            NotEncoded: there is no store and `write` is false.
            BadStore: the folder holds another card's store, or LMDB cannot read it.
            NoSpace: the folder cannot be written to.
        """
        self.folder, self.card, self.fingerprint, self._pid = folder, card, fingerprint, os.getpid()
        self._n_reading = 0  # transactions open now
        if card.format != FORMAT:
            raise BadStore(
                "a card of another store format",
                where=str(folder),
                expected=str(FORMAT),
                got=str(card.format),
                mend="Export the encoder again with this version.",
            )
        data = folder / DATA_FILE
        n_bytes = data.stat().st_size if data.is_file() else 0
        if not write and not n_bytes:
            raise NotEncoded("no vectors of this encoder are stored yet", where=str(folder))
        if n_bytes:
            check_length(data)
        with ExitStack() as undo, self._faults():
            # Default durability: each commit is synced, so a committed chunk survives a crash of the system.
            self.lmdb = lmdb.open(
                str(folder),
                map_size=_grown(n_bytes),
                max_dbs=3,
                max_readers=_MAX_READERS,
                readonly=not write,
                create=write,
                mode=0o644,
            )
            undo.callback(self.lmdb.close)
            self.lmdb.reader_check()
            self.chunks, self.index, self.meta = self._databases(write)
            self._check_card(write)
            undo.pop_all()

    def _databases(self, write: bool) -> tuple[Any, Any, Any]:
        try:
            chunks, index, meta = (self.lmdb.open_db(name, create=write) for name in (b"chunks", b"index", b"meta"))
        except lmdb.NotFoundError as error:
            # The writer died between creating the file and its first commit: nothing was ever stored.
            raise NotEncoded("the store is empty", where=str(self.folder)) from error
        return chunks, index, meta

    def _check_card(self, write: bool) -> None:
        expected = card_bytes(self.card)
        with self.read() as txn:
            view = txn.get(b"card", db=self.meta)
            found = None if view is None else bytes(view)
        if found is None and write:
            self.write(lambda txn: txn.put(b"card", expected, db=self.meta))
        elif found != expected:
            raise BadStore(
                "the store belongs to another encoder",
                where=str(self.folder),
                expected=f"the card of {self.fingerprint}",
                got=_differing(expected, found or b"{}"),
                mend="Move that folder away and run `loid-infer encode` again.",
            )
        path = self.folder / CARD_FILE
        if write and not (path.is_file() and path.read_bytes() == expected):
            with new_file(path) as temporary:
                temporary.write_bytes(expected)

    @contextmanager
    def read(self) -> Iterator[lmdb.Transaction]:
        """A read transaction whose values are memory views, valid inside the block only.

        Raises:
            RuntimeError: the process is a fork of the one that opened the store; a bug of the caller.
        """
        if os.getpid() != self._pid:
            raise RuntimeError("a store must be opened in the process that uses it, not before a fork")
        with self._faults():
            try:
                txn = self.lmdb.begin(buffers=True)
            except lmdb.MapResizedError:  # another process grew the map
                if self._n_reading:
                    raise RuntimeError("the map cannot move under an open view; a bug of the caller") from None
                self.lmdb.set_mapsize(0)
                txn = self.lmdb.begin(buffers=True)
            self._n_reading += 1
            try:
                with txn:
                    yield txn
            finally:
                self._n_reading -= 1

    def write(self, change: Any) -> None:
        """Run `change(txn)` in one synced transaction; when the map is full, grow it and run it again.

        Raises:
            NoSpace: the disk is full. What was committed before stays.
        """
        while True:
            with self._faults():
                try:
                    with self.lmdb.begin(write=True) as txn:
                        change(txn)
                    return
                except lmdb.MapFullError:
                    self.lmdb.set_mapsize(_grown(self.lmdb.info()["map_size"]))
                except lmdb.MapResizedError:
                    self.lmdb.set_mapsize(0)

    def close(self) -> None:
        """Close the environment; views into it become invalid."""
        self.lmdb.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """LMDB's errors as ours."""
        try:
            yield
        except (lmdb.DiskError, lmdb.ReadonlyError, lmdb.LockError, PermissionError) as error:
            raise self._refused(error) from error
        except (
            lmdb.CorruptedError,
            lmdb.InvalidError,
            lmdb.PageNotFoundError,
            lmdb.PanicError,
            lmdb.VersionMismatchError,
        ) as error:
            raise BadStore(f"LMDB cannot read the store: {error}", where=str(self.folder), mend=MEND) from error
        except lmdb.Error as error:
            # A write that the disk took only in part is reported as an input/output error, without a class of its own.
            if not str(error).endswith((os.strerror(errno.EIO), os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))):
                raise
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> NoSpace:
        free = shutil.disk_usage(self.folder).free
        return NoSpace(
            f"the store cannot be written: {error}",
            where=str(self.folder),
            got=f"{free:,} bytes free on that disk",
            mend="Free some space or make the folder writable, then run the same command again: it goes on after "
            "the last committed chunk.",
        )


def _grown(size: int) -> int:
    # By at least a step, by a half once large: address space, not disk.
    grown = max(size + _MAP_STEP, size + size // 2)
    return -(-grown // _MAP_STEP) * _MAP_STEP


def _differing(expected: bytes, found: bytes) -> str:
    try:
        here, there = json.loads(expected), json.loads(found)
        return ", ".join(f"{name}={there.get(name)!r}" for name in here if here[name] != there.get(name))[:300]
    except (ValueError, AttributeError):
        return "a card that cannot be read"
