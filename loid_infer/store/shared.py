"""The LMDB environments that are open in this process, each shared by all who use its file.

LMDB cannot open a file twice in one process, so the readers of several threads, and a writer, use one environment.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import lmdb

from loid_infer.errors import NoSpace, StoreBusy
from loid_infer.store.lock import LOCAL, no_writer

DATA_FILE = "data.mdb"
_UNABLE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)
_WAIT_S = 5.0  # for this process's readers to finish, before a writer is refused


class Shared:
    """An LMDB environment, and who uses it."""

    def __init__(self, folder: Path, map_bytes: int, *, write: bool) -> None:
        """Open it. Raises NoSpace if the file system cannot hold a store, and the errors of `no_writer` and LMDB."""
        self.write, self.users = write, WeakSet[Any]()
        self.open_reads: Counter[int] = Counter()  # open read transactions by thread
        self.changing = threading.Condition()  # held to begin or end a read, and while the map changes
        self.databases: tuple[Any, ...] = ()  # opened once: py-lmdb opens one with a write transaction
        self._n_resizing = 0
        self._kept = ExitStack()
        try:
            self.lmdb = self._open(folder, map_bytes)
        except lmdb.Error as error:
            self._kept.close()
            if not has_code(error, *_UNABLE):
                raise
            raise NoSpace(f"this file system cannot hold a store: {error}", where=str(folder), fix=LOCAL) from error

    def _open(self, folder: Path, map_bytes: int) -> lmdb.Environment:
        # LMDB's default: every commit is synced, so a committed chunk survives a system crash.
        options: dict[str, Any] = {"map_size": map_bytes, "max_dbs": 3, "max_readers": 1024, "mode": 0o644}
        if self.write:
            return lmdb.open(str(folder), **options)
        if not os.statvfs(folder).f_flag & os.ST_RDONLY:
            try:
                return lmdb.open(str(folder), readonly=True, **options)
            except lmdb.ReadonlyError:  # the lock file cannot be written
                pass
        # A writer sees no readers that are not in LMDB's lock file, and would overwrite their pages.
        self._kept.enter_context(no_writer(folder))
        return lmdb.open(str(folder), readonly=True, lock=False, **options)

    @contextmanager
    def read(self, map_bytes: Callable[[], int]) -> Iterator[lmdb.Transaction]:
        """A read transaction; if another process has grown the map, it gets `map_bytes()` first."""
        me = threading.get_ident()
        with self.changing:
            while self._n_resizing and not self.open_reads[me]:
                self.changing.wait()
            while True:
                try:
                    txn = self.lmdb.begin(buffers=True)
                    break
                except lmdb.MapResizedError:
                    self.resize(map_bytes())
            self.open_reads[me] += 1
        try:
            with txn:
                yield txn
        finally:
            with self.changing:
                self.open_reads -= Counter([me])  # drops zeros
                self.changing.notify_all()

    def resize(self, map_bytes: int) -> None:
        """Change the size of the map when no thread reads. Raises RuntimeError if this thread does."""
        with self.changing:
            self._n_resizing += 1
            try:
                while self.open_reads:
                    if self.open_reads[threading.get_ident()]:
                        raise RuntimeError("the map cannot be resized while a view of it is open")
                    self.changing.wait()
                self.lmdb.set_mapsize(map_bytes)
            finally:
                self._n_resizing -= 1
                self.changing.notify_all()

    def close(self) -> None:
        """Close it for all users."""
        self.lmdb.close()
        self._kept.close()


class Opened:
    """The environments that are open in a process, by device and inode of the file: a store may be replaced."""

    def __init__(self) -> None:
        self.changing = threading.Condition()
        self._shared: WeakValueDictionary[tuple[int, int], Shared] = WeakValueDictionary()
        self._awaited: set[tuple[int, int]] = set()  # files that a writer waits for

    def attach(self, user: object, folder: Path, map_bytes: int, *, write: bool) -> tuple[Shared, bool]:
        """The environment of the store in `folder`, and whether it was opened now. The caller holds `changing`.

        Raises StoreBusy if `write` and this process is reading the store, and the errors of `Shared`.
        """
        if write:
            self._wait_for_readers(folder)
        else:  # let a waiting writer go first
            self.changing.wait_for(lambda: _file_of(folder) not in self._awaited, _WAIT_S)
        shared = self._shared.get(_file_of(folder))
        is_new = shared is None
        if shared is None:
            shared = Shared(folder, map_bytes, write=write)
            self._shared[_file_of(folder)] = shared
        shared.users.add(user)
        return shared, is_new

    def _wait_for_readers(self, folder: Path) -> None:
        def free() -> bool:
            shared = self._shared.get(_file_of(folder))
            return shared is None or shared.write

        file = _file_of(folder)
        self._awaited.add(file)
        try:
            if not self.changing.wait_for(free, _WAIT_S):
                what, fix = "this process is reading the store", "Run the same command again, or in another process."
                raise StoreBusy(what, where=str(folder), fix=fix)
        finally:
            self._awaited.discard(file)
            self.changing.notify_all()

    def detach(self, user: object, shared: Shared) -> None:
        """Close the environment if nobody else uses it."""
        with self.changing:
            shared.users.discard(user)
            if not shared.users:
                shared.close()
                for file in [file for file, other in self._shared.items() if other is shared]:
                    del self._shared[file]
            self.changing.notify_all()

    def close(self) -> None:
        """Close all environments that were inherited by a fork; those of the parent stay open."""
        for shared in list(self._shared.values()):
            shared.close()


_OPENED: dict[int, Opened] = {}  # by process ID


def opened_here() -> Opened:
    """The open environments of this process."""
    pid = os.getpid()
    for other in set(_OPENED) - {pid}:
        if inherited := _OPENED.pop(other, None):  # another thread may be first
            inherited.close()
    return _OPENED.setdefault(pid, Opened())


def has_code(error: Exception, *codes: int) -> bool:
    """Whether an error of LMDB is one of these system errors; it has no exception classes for most of them."""
    return str(error).endswith(tuple(map(os.strerror, codes)))


def _file_of(folder: Path) -> tuple[int, int]:
    try:
        status = (folder / DATA_FILE).stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_dev, status.st_ino
