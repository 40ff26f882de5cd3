"""The LMDB environment of a store: opening, comparison of the spec, and a memory map that grows on demand.

chunks   first row, 8 bytes big-endian -> record (see `records`)
index    digest of a text, 16 bytes    -> row, 8 bytes little-endian
meta     "card"                        -> the spec as canonical JSON
         "unindexed"                   -> first row that may have no index entry yet, 8 bytes big-endian; else absent
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import lmdb

from loid_infer.artifact import new_file
from loid_infer.errors import BadStore, NoMemory, NoSpace, NotEncoded, StoreBusy
from loid_infer.records import decode, to_json
from loid_infer.store.pages import Moved, check_tree, is_initialized
from loid_infer.store.records import DTYPES, FORMAT, SALVAGE
from loid_infer.store.shared import DATA_FILE, has_code, opened_here
from loid_infer.types import Spec

SPEC_FILE = "card.json"
Change = Callable[[Any], Any]  # applied to a write transaction

_DATABASES = (b"chunks", b"index", b"meta")
_MAP_STEP = 1 << 30
_SMALLER_STEPS = (1 << 26, 1 << 22)  # where the address space is limited
_DISK = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NEARLY_FULL = 1 << 20


def spec_bytes(spec: Spec) -> bytes:
    """A spec as canonical JSON, as stored and compared."""
    return to_json(spec, sort_keys=True, indent=2).encode() + b"\n"


def read_spec(folder: Path) -> Spec:
    """Read the spec from a store's folder. Raises BadStore if it is missing or invalid."""
    fix = "Run `loid-infer encode` again: it restores the spec."
    return decode(folder / SPEC_FILE, Spec, fix, error=BadStore)


def check_format(spec: Spec, folder: Path) -> None:
    """Raise BadStore if stores of `spec` have a format that this version does not support."""
    if spec.format != FORMAT or spec.store_dtype not in DTYPES:
        what = f"unsupported store format {spec.format} in {spec.store_dtype}"
        expected, fix = f"{FORMAT} in {' or '.join(DTYPES)}", "Export the encoder again with this version."
        raise BadStore(what, where=str(folder), expected=expected, fix=fix)


class Environment:
    """A store that is open in this process. All that are open on one file share one environment of LMDB."""

    def __init__(self, folder: Path, spec: Spec, fingerprint: str, *, write: bool) -> None:
        """Open the store in `folder`; with `write`, create it if necessary.

        Raises NotEncoded if there is no store and `write` is false, BadStore if it has another spec or is damaged,
        NoSpace if the folder cannot be written to or its file system cannot hold a store, NoMemory if the address space
        is too small, and StoreBusy if this process reads the store and `write` is true, or another one writes to it and
        this one may not write to the folder.
        """
        self.folder, self.spec, self.fingerprint, self._pid = folder, spec, fingerprint, os.getpid()
        check_format(spec, folder)
        data, opened = folder / DATA_FILE, opened_here()
        with ExitStack() as undo, self._lmdb_errors():
            with opened.changing:
                if not is_initialized(data):
                    if not write:
                        raise _nothing_stored(folder)
                    data.unlink(missing_ok=True)
                self._shared, is_new = opened.attach(self, folder, self._map_bytes(), write=write)
                undo.callback(self.close)
                self.lmdb = self._shared.lmdb
                if is_new:
                    self.lmdb.reader_check()
                    self._check_tree()
                    try:
                        self._shared.databases = tuple(self.lmdb.open_db(name, create=write) for name in _DATABASES)
                    except lmdb.NotFoundError as error:  # the writer died before its first commit
                        raise _nothing_stored(self.folder) from error
                self.chunks, self.index, self.meta = self._shared.databases
            self._check_spec(write)  # not while other stores wait for `changing`
            undo.pop_all()

    def _check_tree(self) -> None:
        data, before = self.folder / DATA_FILE, -1
        while True:
            with self.read() as txn:  # its pages are not reused before it ends
                commit = txn.id()
                try:
                    return check_tree(data, commit)
                except Moved:  # a writer made two commits meanwhile
                    if commit == before:
                        what = "the file was replaced while another process has it open"
                        raise BadStore(what, where=str(data), fix=f"Stop that process. {SALVAGE}") from None
            before = commit

    def _check_spec(self, write: bool) -> None:
        expected = spec_bytes(self.spec)
        with self.read() as txn:
            view = txn.get(b"card", db=self.meta)
            stored = None if view is None else bytes(view)
        if stored is None:
            if not write:
                raise _nothing_stored(self.folder)  # the writer died before it committed the spec
            self.write(lambda txn: txn.put(b"card", expected, db=self.meta))
        elif stored != expected:
            what = f"the store belongs to another encoder than {self.fingerprint}"
            fix = "Move that folder away and run `loid-infer encode` again."
            raise BadStore(what, where=str(self.folder), got=_differences(expected, stored), fix=fix)
        path = self.folder / SPEC_FILE
        if write and not (path.is_file() and path.read_bytes() == expected):
            with new_file(path) as temporary:
                temporary.write_bytes(expected)

    @contextmanager
    def read(self) -> Iterator[lmdb.Transaction]:
        """A read transaction. Its values are memory views, valid only inside the block."""
        if os.getpid() != self._pid:
            raise RuntimeError("a store must be opened in the process that uses it, not before a fork")
        with self._lmdb_errors(), self._shared.read(self._map_bytes) as txn:
            yield txn

    def write(self, change: Change) -> None:
        """Run `change(txn)` in one synced transaction, growing the map if needed. Raises NoSpace on a full disk."""
        with suppress(_Committed), self._lmdb_errors(change):
            while True:
                try:
                    with self.lmdb.begin(write=True) as txn:
                        change(txn)
                    return
                except lmdb.MapFullError:
                    self._shared.resize(self._map_bytes(self.lmdb.info()["map_size"]))
                except lmdb.MapResizedError:
                    self._shared.resize(self._map_bytes())

    def _map_bytes(self, n_bytes: int = 0) -> int:
        """The size of a map for the file, or for more than `n_bytes`, with as much room as the address space has."""
        data, mapped = self.folder / DATA_FILE, n_bytes
        needed = n_bytes or (data.stat().st_size if data.is_file() else 0)
        for size in (_grown(needed), *((needed // step + 2) * step for step in _SMALLER_STEPS)):
            with suppress(OSError):
                # LMDB would lose its map if a larger one were refused.
                mmap.mmap(-1, size - mapped, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ).close()
                return size
        raise self._no_memory()

    def _no_memory(self) -> NoMemory:
        what, fix = "the store does not fit into the address space of this process", "Run `ulimit -v unlimited` first."
        return NoMemory(what, where=str(self.folder), fix=fix)

    def close(self) -> None:
        """Close the store. Views of it become invalid."""
        opened_here().detach(self, self._shared)

    @contextmanager
    def _lmdb_errors(self, change: Change | None = None) -> Iterator[None]:
        """Convert errors of LMDB. If `change` did not fit on the disk, the error says how much space is missing."""
        try:
            yield
        except (lmdb.DiskError, lmdb.ReadonlyError, lmdb.LockError, PermissionError) as error:
            raise self._write_error(error, change) from error
        except lmdb.MemoryError as error:
            raise self._no_memory() from error
        except (
            lmdb.CorruptedError,
            lmdb.IncompatibleError,
            lmdb.InvalidError,
            lmdb.PageNotFoundError,
            lmdb.PanicError,
            lmdb.VersionMismatchError,
        ) as error:
            raise BadStore(f"LMDB cannot read the store: {error}", where=str(self.folder), fix=SALVAGE) from error
        except lmdb.Error as error:
            if "already open in this process" in str(error):
                what, fix = "the store is already open in this process", "Use the open one, or another process."
                raise StoreBusy(what, where=str(self.folder), fix=fix) from error
            if not has_code(error, *_DISK):
                raise
            raise self._write_error(error, change) from error

    def _write_error(self, error: Exception, change: Change | None) -> NoSpace:
        free, missing = shutil.disk_usage(self.folder).free, 0
        # LMDB reports EIO for a partial write to a full disk as well as for a failing disk.
        full = isinstance(error, lmdb.DiskError) or (has_code(error, errno.EIO) and free < _NEARLY_FULL)
        if full and change is not None:
            with suppress(lmdb.Error), self._shared.changing:  # LMDB may refuse further writes after a failed one
                if not self._shared.open_reads:
                    allocated = (self.folder / DATA_FILE).stat().st_blocks * 512
                    missing = self._file_bytes_for(change) - allocated - free
        advice = "Free some space" if full or has_code(error, errno.EDQUOT) else "Make the folder writable"
        if has_code(error, errno.EIO, errno.EFBIG) and not full:
            advice = "Check the disk, and how large a file may be (`ulimit -f`; 4 GiB on FAT)"
        return NoSpace(
            "the disk is full" if full else f"the store cannot be written: {error}",
            where=str(self.folder),
            expected=f"{missing:,} more bytes for the next chunks" if missing > 0 else "",
            got=f"{free:,} bytes free on that disk",
            fix=f"{advice}, then run the same command again: it continues after the last committed chunk.",
        )

    def _file_bytes_for(self, change: Change) -> int:
        """The file size that `change` needs: one page less than the smallest map in which it fits (LMDB leaves the last
        page free). If the commit succeeds meanwhile, `_Committed` is raised.
        """
        page = self.lmdb.stat()["psize"]
        low = high = self.lmdb.info()["last_pgno"] + 1  # pages
        while not self._fits(change, high * page):
            low, high = high + 1, 2 * high
        n_pages = bisect_left(range(high), True, lo=low, key=lambda n: self._fits(change, n * page))
        self._shared.resize(_grown(n_pages * page))
        return (n_pages - 1) * page

    def _fits(self, change: Change, n_bytes: int) -> bool:
        self._shared.resize(n_bytes)
        try:
            with self.lmdb.begin(write=True) as txn:
                change(txn)
        except lmdb.MapFullError:
            return False
        except lmdb.Error as error:
            if not has_code(error, *_DISK):
                raise
            return True  # it fits in the map, but not on the disk
        raise _Committed


def _nothing_stored(folder: Path) -> NotEncoded:
    return NotEncoded("no vectors of this encoder are stored yet", where=str(folder))


class _Committed(Exception):
    pass


def _grown(size: int) -> int:
    # This is address space, not disk space.
    grown = max(size + _MAP_STEP, size + size // 2)
    return -(-grown // _MAP_STEP) * _MAP_STEP


def _differences(expected: bytes, stored: bytes) -> str:
    try:
        ours, theirs = json.loads(expected), json.loads(stored)
        return ", ".join(f"{name}={theirs.get(name)!r}" for name in ours if ours[name] != theirs.get(name))[:300]
    except (ValueError, AttributeError):
        return "a spec that cannot be read"
