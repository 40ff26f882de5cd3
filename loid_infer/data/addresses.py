"""Files and folders by path or by address: s3://bucket/name, gs://bucket/name, or another that `pyarrow.fs` reads.

What is read from an address is copied to a temporary folder first; what is written is made there, and sent once it is
complete, so a file appears at an address completely or not at all. Credentials are those that the environment has.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import wraps
from pathlib import Path, PurePosixPath
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from loid_infer.artifact import new_file, scratch_folder, writing
from loid_infer.errors import BadSetting, LoidError, NoSpace, Unreachable
from loid_infer.settings import is_address, make_folder

Where = str | os.PathLike[str]
P = ParamSpec("P")
R = TypeVar("R")
_SECRET = re.compile(r"(secret|key|token|password)[^&]*=", re.IGNORECASE)
_CHECK = "Check the address, and that the environment has the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...)."


def check_address(where: Where) -> None:
    """Raise BadSetting if `where` is an address with a secret in it, or of an unknown kind."""
    if is_address(where):
        _resolved(os.fspath(where))


@contextmanager
def fetched(*places: Where) -> Iterator[list[Path]]:
    """Paths of the files or folders `places`; what is at an address is copied to a temporary folder for the block.

    Raises Unreachable if an address cannot be read, BadSetting if it contains a secret.
    """
    with ExitStack() as stack:
        found = [Path(where) for where in places]
        for number, where in enumerate(places):
            if is_address(where):
                address = os.fspath(where)
                found[number] = stack.enter_context(_copied(*_resolved(address), address))
        yield found


@contextmanager
def delivered(where: Where, but: Where = "") -> Iterator[Path]:
    """A path to write the file `where` at; if that is an address, the file is sent there after the block.

    Raises Unreachable if it cannot be sent, BadSetting if the address contains a secret, or is that of `but`.
    """
    if not is_address(where):
        yield Path(where)
        return
    address = os.fspath(where)
    system, path = _resolved(address)
    if address == os.fspath(but):
        fix = "Name another file with --out."
        raise BadSetting("the output would replace the input", where=address, fix=fix)
    with _sent(system, path, address) as local:
        yield local


def from_addresses(verb: Callable[Concatenate[Sequence[Path], P], R]) -> Callable[Concatenate[Sequence[Where], P], R]:
    """A decorator: the first argument, files or folders to read, may contain addresses."""

    @wraps(verb)
    def _reads(sources: Sequence[Where], *args: P.args, **options: P.kwargs) -> R:
        with fetched(*sources) as paths:
            return verb(paths, *args, **options)

    return _reads  # type: ignore[return-value] # it has names for its arguments


def inside(where: Where, name: str) -> str:
    """The path or address of `name` in the folder `where`."""
    if not is_address(where):
        return str(Path(where, name))
    address, mark, options = os.fspath(where).partition("?")
    return f"{address.rstrip('/')}/{name}{mark}{options}"


def beside(where: Where, name: str) -> str:
    """The path or address of `name` in the folder of the file `where`."""
    if not is_address(where):
        return str(Path(where).with_name(name))
    address, mark, options = os.fspath(where).partition("?")
    return f"{address.rpartition('/')[0]}/{name}{mark}{options}"


class Folder:
    """A folder of files, by path or by address. A file in it is complete, or not there."""

    def __init__(self, where: Where) -> None:
        """`where` need not exist. Raises BadSetting if it is an address with a secret or of an unknown kind."""
        self.where = os.fspath(where) if is_address(where) else str(Path(where).absolute())
        self._system: Any = None
        self._root = self.where
        if is_address(where):
            self._system, self._root = _resolved(self.where)

    @property
    def is_remote(self) -> bool:
        """Whether it is at an address."""
        return self._system is not None

    def sizes(self, part: str) -> dict[str, int]:
        """The bytes of each file in the subfolder `part`, by name, in the order of names."""
        if self._system is None:
            folder = Path(self._root, part)
            found_here: dict[str, int] = {}
            for path in sorted(folder.glob("[!.]*")) if folder.is_dir() else []:
                with suppress(FileNotFoundError):  # another process may remove it
                    found_here |= {path.name: path.stat().st_size} if path.is_file() else {}
            return found_here
        with _faults(self.path(part)):
            base = f"{self._root}/{part}".rstrip("/")
            found = self._system.get_file_info(pafs.FileSelector(base, allow_not_found=True))
        files = sorted((info for info in found if info.type == pafs.FileType.File), key=lambda info: info.base_name)
        return {info.base_name: info.size for info in files}

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        if self._system is None:
            return Path(self._root, name).is_file()
        with _faults(self.path(name)):
            return bool(self._system.get_file_info(f"{self._root}/{name}").type == pafs.FileType.File)

    def path(self, name: str) -> str:
        """Path or address of a file in it."""
        return inside(self.where, name)

    def read(self, name: str) -> bytes:
        """The content of a file. Raises Unreachable if it cannot be read."""
        with self.open(name) as path:
            return path.read_bytes()

    @contextmanager
    def open(self, name: str) -> Iterator[Path]:
        """A path at which a file can be read. Raises Unreachable if it cannot be."""
        address, path = self.path(name), f"{self._root}/{name}"
        with nullcontext(Path(path)) if self._system is None else _copied(self._system, path, address) as local:
            if not local.is_file():
                raise Unreachable("there is no such file", where=address, fix="Run the same command again.")
            yield local

    @contextmanager
    def new(self, name: str) -> Iterator[Path]:
        """A path to write; after the block it is the file `name`. Raises NoSpace or Unreachable if that fails."""
        if self._system is None:
            with new_file(Path(self._root, name)) as path:
                yield path
        else:
            with _sent(self._system, f"{self._root}/{name}", self.path(name)) as path:
                yield path

    def remove(self, *names: str) -> None:
        """Remove files, if they exist."""
        for name in names:
            if self._system is None:
                with writing(Path(self._root, name)):
                    Path(self._root, name).unlink(missing_ok=True)
            elif self.has(name):
                with _faults(self.path(name)):
                    self._system.delete_file(f"{self._root}/{name}")

    def clear(self) -> None:
        """Remove it with all files."""
        if self._system is None:
            with writing(Path(self._root)), suppress(FileNotFoundError):
                shutil.rmtree(self._root)
        else:
            with _faults(self.where):
                self._system.delete_dir_contents(self._root, missing_dir_ok=True)

    def copy_to(self, folder: Path) -> None:
        """Copy its files, without subfolders, to the new `folder`."""
        make_folder(folder)
        for name in self.sizes(""):
            with self.open(name) as path:
                shutil.copyfile(path, folder / name)


def _resolved(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    scheme, _, rest = address.partition("://")
    main, _, query = rest.partition("?")
    user = main.rpartition("@")[0]
    if ":" in user or (user and scheme == "s3") or _SECRET.search(query):
        fix = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, in the environment instead."
        raise BadSetting("an address with a password", where=f"{scheme}://...", fix=fix)
    if scheme == "file":
        raise BadSetting("an address of a local file", where=address, expected="a path", fix="Give the path alone.")
    try:
        system, path = pafs.FileSystem.from_uri(address)
    except (ValueError, OSError, pa.ArrowException) as error:
        what, expected = f"this address cannot be opened: {_first_line(error)}", "one like s3://bucket/name"
        raise BadSetting(what, where=address, expected=expected, fix=_CHECK) from error
    return system, path.rstrip("/")


@contextmanager
def _sent(system: Any, path: str, address: str) -> Iterator[Path]:
    """A path to write; what is there after the block is sent to the address."""
    with scratch_folder() as folder, _named(folder, address):
        local = folder / PurePosixPath(path).name
        yield local
        _send(system, local, path, address)


@contextmanager
def _copied(system: Any, path: str, address: str) -> Iterator[Path]:
    """A copy of the file or folder at the address."""
    with scratch_folder() as folder, _named(folder, address):
        local = folder / PurePosixPath(path).name
        with _faults(address):
            found = [system.get_file_info(path)]
            if found[0].type == pafs.FileType.NotFound:
                raise Unreachable("there is no such file", where=address, fix=_CHECK)
            if found[0].type == pafs.FileType.Directory:
                found = system.get_file_info(pafs.FileSelector(path, recursive=True))
            for info in found:
                if info.type == pafs.FileType.File:
                    copy = folder / PurePosixPath(info.path).relative_to(PurePosixPath(path).parent)
                    make_folder(copy.parent)
                    pafs.copy_files(
                        info.path, str(copy), source_filesystem=system, destination_filesystem=pafs.LocalFileSystem()
                    )
        yield local


@contextmanager
def _named(folder: Path, address: str) -> Iterator[None]:
    """Errors about files in `folder` name the address instead."""
    parent = address.partition("?")[0].rpartition("/")[0]
    try:
        yield
    except LoidError as error:
        for name in ("where", "got", "fix"):
            setattr(error, name, getattr(error, name).replace(str(folder), parent))
        raise


def _send(system: Any, local: Path, path: str, address: str) -> None:
    n_bytes = local.stat().st_size
    with _faults(address):
        before = system.get_file_info(path)
        try:
            pafs.copy_files(str(local), path, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=system)
            complete = system.get_file_info(path).size == n_bytes
        except BaseException:  # pyarrow completes an upload that fails in the middle, with what it has
            _delete_unless(before, system, path)
            raise
    if not complete:
        _delete_unless(before, system, path)
        raise Unreachable("the file was not sent completely", where=address, fix="Run the same command again.")


def _delete_unless(before: Any, system: Any, path: str) -> None:
    """Delete what a failed upload left; what was there before it stays."""
    with suppress(OSError, pa.ArrowException):
        now = system.get_file_info(path)
        if now.type == pafs.FileType.File and (now.size, now.mtime) != (before.size, before.mtime):
            system.delete_file(path)


@contextmanager
def _faults(address: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            fix = "Name a folder with more room in the variable TMPDIR, as in: TMPDIR=DIR loid-infer ..."
            raise NoSpace("the temporary folder is full", where=tempfile.gettempdir(), fix=fix) from error
        what = f"this address cannot be reached: {_first_line(error)}"
        raise Unreachable(what, where=address, fix=_CHECK) from error


def _first_line(error: Exception) -> str:
    return re.split(r"[\n]|\. Detail", str(error))[0][:200].rstrip(".") or type(error).__name__
