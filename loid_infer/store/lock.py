"""The writer's lock of a store: an advisory lock that the system releases with the process."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from loid_infer.artifact import writing
from loid_infer.errors import NoSpace, NotEncoded, StoreBusy

LOCK_FILE = "writer.lock"
LOCAL = "Use a workspace on a local disk (-w DIR), and join stores with `loid-infer cache import`."
_WAIT = "Wait for it to finish, then run the same command again"


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the writer lock of the store in `folder` for the block.

    Raises NotEncoded if there is no such folder, StoreBusy if another process holds it, NoSpace if it is not writable
    or its file system has no locks.
    """
    if not folder.is_dir():
        raise NotEncoded("there is no store", where=str(folder), fix="Run: loid-infer encode --domain D")
    with _locked(folder, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) as descriptor:
        with writing(folder):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield


@contextmanager
def no_writer(folder: Path) -> Iterator[None]:
    """Keep writers out of the store in `folder` for the block. This needs no permission to write.

    A folder without the writer's lock file, as of a copy, is taken for one that nobody writes to. Raises StoreBusy if
    there is a writer, and NoSpace if the file system has no locks.
    """
    exists = (folder / LOCK_FILE).exists()
    with _locked(folder, os.O_RDONLY, fcntl.LOCK_SH) if exists else nullcontext():
        yield


@contextmanager
def _locked(folder: Path, flags: int, kind: int) -> Iterator[int]:
    path, pid = folder / LOCK_FILE, os.getpid()
    while True:
        with writing(path) if kind == fcntl.LOCK_EX else _reading(path):
            descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
        try:
            _lock(descriptor, kind, folder)
            # Otherwise the store was replaced meanwhile, and this is the lock of the old one.
            if _is_at(descriptor, path):
                yield descriptor
                return
        finally:
            if os.getpid() == pid:  # a process forked meanwhile has the descriptor too, and may live longer
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        fix = "Make the folder of the store readable for this user."
        raise NoSpace(f"cannot read: {error.strerror}", where=str(path), fix=fix) from error
    except FileNotFoundError as error:  # the store was removed
        raise NotEncoded(
            "there is no store", where=str(path.parent), fix="Run: loid-infer encode --domain D"
        ) from error


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int, kind: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        if kind == fcntl.LOCK_EX:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                what = "a process that may not write here is reading this store"
                raise StoreBusy(what, where=str(folder), fix=f"{_WAIT}.") from None
        owner = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
        fix = f"{_WAIT}: stored texts are not encoded twice."
        raise StoreBusy(f"{owner} is writing to this store", where=str(folder), fix=fix) from None
    except OSError as error:
        what = f"the file system cannot lock files: {error.strerror}"
        raise NoSpace(what, where=str(folder), fix=LOCAL) from error
