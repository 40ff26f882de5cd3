"""One LMDB environment a spec: opening, the spec's check, and a map that grows by itself.

    chunks   first row, 8 bytes big-endian -> record (see `records`)
    index    digest of a text, 16 bytes    -> row, 8 bytes little-endian
    meta     "card"                        -> the spec as canonical JSON

This file knows nothing of texts, encoders or rows; `reader` and `writer` do.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import lmdb

from loid_infer.artifact import new_file
from loid_infer.errors import BadStore, NoSpace, NotEncoded, StoreBusy
from loid_infer.records import decode, to_json
from loid_infer.store.metas import is_made
from loid_infer.store.pages import Moved, check_tree
from loid_infer.store.records import DTYPES, FORMAT, MEND
from loid_infer.types import Spec

SPEC_FILE = "card.json"
DATA_FILE = "data.mdb"
Change = Callable[[Any], Any]  # what is done in a write transaction

_DATABASES = (b"chunks", b"index", b"meta")
_MAP_STEP = 1 << 30
_MAX_READERS = 1024
_DISK = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
_NEARLY_FULL = 1 << 20


def spec_bytes(spec: Spec) -> bytes:
    """A spec as canonical JSON, the form that is stored and compared."""
    return to_json(spec, sort_keys=True, indent=2).encode() + b"\n"


def read_spec(folder: Path) -> Spec:
    """The spec that lies beside a store.

    Raises:
        BadStore: it is not there or cannot be read.
    """
    fix = "Run `loid-infer encode` again: it writes the spec from the store."
    return decode(folder / SPEC_FILE, Spec, fix, error=BadStore)


def check_format(spec: Spec, folder: Path) -> None:
    """See that stores of `spec` are of this version's format.

    Raises:
        BadStore: they are not.
    """
    if spec.format != FORMAT or spec.store_dtype not in DTYPES:
        raise BadStore(
            "a spec of another store format",
            where=str(folder),
            expected=f"{FORMAT} in {' or '.join(DTYPES)}",
            got=f"{spec.format} in {spec.store_dtype}",
            fix="Export the encoder again with this version.",
        )


class Environment:
    """An open LMDB environment that belongs to the process that opened it."""

    def __init__(self, folder: Path, spec: Spec, fingerprint: str, *, write: bool) -> None:
        """Open the store in `folder`; a writer creates what is not there.

        Raises:
            NotEncoded: there is no store and `write` is false.
            StoreBusy: it is open in this process already.
            BadStore: the folder holds another spec's store, or LMDB cannot read it.
            NoSpace: the folder cannot be written to.
        """
        self.folder, self.spec, self.fingerprint, self._pid = folder, spec, fingerprint, os.getpid()
        self._n_reading = 0  # transactions open now
        check_format(spec, folder)
        data = folder / DATA_FILE
        if not is_made(data):
            if not write:
                raise _nothing_stored(folder)
            data.unlink(missing_ok=True)
        n_bytes = data.stat().st_size if data.is_file() else 0
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
            self._check_tree()
            try:
                self.chunks, self.index, self.meta = (self.lmdb.open_db(name, create=write) for name in _DATABASES)
            except lmdb.NotFoundError as error:  # the writer died before its first commit
                raise _nothing_stored(self.folder) from error
            self._check_spec(write)
            undo.pop_all()

    def _check_tree(self) -> None:
        data, before = self.folder / DATA_FILE, -1
        while True:
            with self.read() as txn:  # what it reads is not reused before it ends
                commit = txn.id()
                try:
                    return check_tree(data, commit)
                except Moved:  # a writer made two commits meanwhile
                    if commit == before:
                        what = "the file was replaced while another process has it open"
                        raise BadStore(what, where=str(data), fix=f"Stop that process. {MEND}") from None
            before = commit

    def _check_spec(self, write: bool) -> None:
        expected = spec_bytes(self.spec)
        with self.read() as txn:
            view = txn.get(b"card", db=self.meta)
            found = None if view is None else bytes(view)
        if found is None:
            if not write:
                raise _nothing_stored(self.folder)  # the writer died between two commits, before that of the spec
            self.write(lambda txn: txn.put(b"card", expected, db=self.meta))
        elif found != expected:
            raise BadStore(
                "the store belongs to another encoder",
                where=str(self.folder),
                expected=f"the spec of {self.fingerprint}",
                got=_differing(expected, found),
                fix="Move that folder away and run `loid-infer encode` again.",
            )
        path = self.folder / SPEC_FILE
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
                self._resize(0)
                txn = self.lmdb.begin(buffers=True)
            self._n_reading += 1
            try:
                with txn:
                    yield txn
            finally:
                self._n_reading -= 1

    def write(self, change: Change) -> None:
        """Run `change(txn)` in one synced transaction; when the map is full, grow it and run it again.

        Raises:
            NoSpace: the disk is full. What was committed before stays.
        """
        with suppress(_Committed), self._faults(change):
            while True:
                try:
                    with self.lmdb.begin(write=True) as txn:
                        change(txn)
                    return
                except lmdb.MapFullError:
                    self._resize(_grown(self.lmdb.info()["map_size"]))
                except lmdb.MapResizedError:
                    self._resize(0)

    def _resize(self, n_bytes: int) -> None:
        if self._n_reading:
            raise RuntimeError("the map cannot move under an open view; a bug of the caller")
        self.lmdb.set_mapsize(n_bytes)

    def close(self) -> None:
        """Close the environment; views into it become invalid."""
        self.lmdb.close()

    @contextmanager
    def _faults(self, change: Change | None = None) -> Iterator[None]:
        """LMDB's errors as ours. Where `change` did not fit on the disk, the error says how much is missing."""
        try:
            yield
        except (lmdb.DiskError, lmdb.ReadonlyError, lmdb.LockError, PermissionError) as error:
            raise self._refused(error, change) from error
        except (
            lmdb.CorruptedError,
            lmdb.IncompatibleError,
            lmdb.InvalidError,
            lmdb.PageNotFoundError,
            lmdb.PanicError,
            lmdb.VersionMismatchError,
        ) as error:
            raise BadStore(f"LMDB cannot read the store: {error}", where=str(self.folder), fix=MEND) from error
        except lmdb.Error as error:
            if "already open in this process" in str(error):
                raise StoreBusy(
                    "this process has the store open already",
                    where=str(self.folder),
                    fix="Use it where it is open, or from another process.",
                ) from error
            if not _says(error, *_DISK):
                raise
            raise self._refused(error, change) from error

    def _refused(self, error: Exception, change: Change | None) -> NoSpace:
        free, missing = shutil.disk_usage(self.folder).free, 0
        # A write that the disk took only in part is an input/output error to LMDB, as is a disk that fails.
        full = isinstance(error, lmdb.DiskError) or (_says(error, errno.EIO) and free < _NEARLY_FULL)
        if full and change is not None and not self._n_reading:
            with suppress(lmdb.Error):  # after a failing disk LMDB may refuse to go on
                held = (self.folder / DATA_FILE).stat().st_blocks * 512
                missing = self._file_bytes_for(change) - held - free
        act = "Free some space" if full or _says(error, errno.EDQUOT) else "Make the folder writable"
        act = "Look after that disk" if _says(error, errno.EIO) and not full else act
        return NoSpace(
            "the disk is full" if full else f"the store cannot be written: {error}",
            where=str(self.folder),
            expected=f"{missing:,} bytes more for the next chunks" if missing > 0 else "",
            got=f"{free:,} bytes free on that disk",
            fix=f"{act}, then run the same command again: it goes on after the last committed chunk.",
        )

    def _file_bytes_for(self, change: Change) -> int:
        """How long the file must be for `change`: a page less than the smallest map it fits into, of which LMDB leaves
        the last page free.

        Raises:
            _Committed: there is room by now, and it was used.
        """
        page = self.lmdb.stat()["psize"]
        least = most = self.lmdb.info()["last_pgno"] + 1  # pages
        while not self._fits(change, most * page):
            least, most = most + 1, 2 * most
        found = bisect_left(range(most), True, lo=least, key=lambda n: self._fits(change, n * page))
        self._resize(_grown(found * page))
        return (found - 1) * page

    def _fits(self, change: Change, n_bytes: int) -> bool:
        self._resize(n_bytes)
        try:
            with self.lmdb.begin(write=True) as txn:
                change(txn)
        except lmdb.MapFullError:
            return False
        except lmdb.Error as error:
            if not _says(error, *_DISK):
                raise
            return True  # it was the disk that refused it
        raise _Committed


def _nothing_stored(folder: Path) -> NotEncoded:
    return NotEncoded("no vectors of this encoder are stored yet", where=str(folder))


class _Committed(Exception):
    pass


def _says(error: Exception, *codes: int) -> bool:
    # Most errors of the system have no class of their own in LMDB.
    return str(error).endswith(tuple(map(os.strerror, codes)))


def _grown(size: int) -> int:
    # By at least a step, by a half once large: address space, not disk.
    grown = max(size + _MAP_STEP, size + size // 2)
    return -(-grown // _MAP_STEP) * _MAP_STEP


def _differing(expected: bytes, found: bytes) -> str:
    try:
        here, there = json.loads(expected), json.loads(found)
        return ", ".join(f"{name}={there.get(name)!r}" for name in here if here[name] != there.get(name))[:300]
    except (ValueError, AttributeError):
        return "a spec that cannot be read"
