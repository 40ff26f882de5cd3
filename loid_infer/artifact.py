"""Artifacts: folders with a manifest that lists the digest of each file, and atomic writing of files and folders.

Everything is written to a temporary sibling and renamed when finished.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct, structs

from loid_infer.errors import BadArtifact, BadSetting, NoSpace
from loid_infer.records import decode, to_json, typed
from loid_infer.settings import is_mount_point, make_folder

MANIFEST = "manifest.json"
_ABANDONED_S = 86_400.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_RENAME = (errno.EXDEV, errno.EBUSY, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_ADVICE = {
    code: advice
    for advice, codes in (
        ("Free some space", _FULL),
        ("Check the disk", (errno.EIO, errno.ESTALE)),
        ("Make the folder writable", (errno.EACCES, errno.EPERM, errno.EROFS)),
        ("Use another folder", (errno.ENOTDIR, *_NO_RENAME)),
        ("Use a disk and a `ulimit -f` that allow a file of that size", (errno.EFBIG,)),
        ("Use a shorter name", (errno.ENAMETOOLONG,)),
    )
    for code in codes
}
M = TypeVar("M", bound=Struct)


def digest_json(value: object) -> str:
    """sha256 of a JSON value in canonical form (sorted keys, no white space), 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, loid-infer and those of `packages` that are installed."""
    installed = {"python": platform.python_version()}
    for name in ("loid-infer", *packages):
        with suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert errors of a full or failing disk, or of missing permissions, to NoSpace."""
    try:
        yield
    except Exception as error:
        code = _write_error_code(error)
        if code is None:
            raise
        raise NoSpace(
            f"cannot write: {os.strerror(code)}",
            where=str(path),
            got=f"{free_bytes(path):,} bytes free on that disk" if code in _FULL else "",
            fix=f"{_ADVICE[code]}, then run the same command again; nothing is lost.",
        ) from error


def _write_error_code(error: Exception) -> int | None:
    """The errno of a refused write, or None. Libraries written in Rust give it in the message only."""
    if isinstance(error, OSError):
        return error.errno if error.errno in _ADVICE else None
    return next((code for code in _ADVICE if f"(os error {code})" in str(error)), None)


def free_bytes(path: Path) -> int:
    """Free bytes on the disk of `path`, which need not exist yet."""
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder outside of the workspace, removed after the block. Raises NoSpace if there is no place."""
    try:
        scratch = tempfile.TemporaryDirectory()
    except OSError as error:
        fix = "Name a writable folder in the variable TMPDIR, as in: TMPDIR=DIR loid-infer ..."
        raise NoSpace("there is no writable temporary folder", got=str(error), fix=fix) from error
    with scratch as folder:
        yield Path(folder)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` when the block succeeds and is removed when it fails.

    A symbolic link stays, and the file it names is replaced.

    Raises:
        BadSetting: something else than a file has this name.
        NoSpace: the disk is full or the folder not writable.
    """
    with writing(path):
        named, path = path, Path(os.path.realpath(path))
        if path.is_symlink() or (named.exists() and not named.is_file()):
            what, fix = "this is not a file, and cannot be replaced by one", "Name a file, or a new one."
            raise BadSetting(what, where=str(named), expected="no folder, device, pipe, socket or loop", fix=fix)
    make_folder(path.parent)
    _sweep(path)
    with writing(path):
        temporary = _beside(path, "partial")
        temporary.touch(exist_ok=False)
        with ExitStack() as undo:
            undo.callback(temporary.unlink, missing_ok=True)
            mode = temporary.stat().st_mode
            yield temporary
            set_mode(temporary, mode)  # some libraries make a private file
            _sync(temporary)
            try:
                _replace_file(temporary, path)
            except NoSpace:  # the new content is nowhere else
                undo.pop_all()
                raise
            _sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `path` when the block succeeds and is removed when it fails.

    Raises:
        NoSpace: the disk is full, the folder not writable, or `path` a mount point.
    """
    make_folder(path.parent)
    path = path.resolve()  # a symbolic link to another disk is kept
    if is_mount_point(path):
        fix = "Mount the folder above it instead, then run the same command again."
        raise NoSpace("a mount point cannot be replaced", where=str(path), fix=fix)
    _sweep(path)
    with writing(path):
        temporary = _beside(path, "partial")
        temporary.mkdir()
        try:
            yield temporary
            _sync(temporary)
            _replace_folder(temporary, path)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_manifest(folder: Path, manifest: Struct) -> None:
    """Write the manifest of a complete new folder. `manifest` has a tag `kind` and a field `files`, filled in here."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    digests = {str(file.relative_to(folder)): digest_file(file) for file in files}
    content = to_json(structs.replace(manifest, files=digests), indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(content + "\n", encoding="utf-8")
    for file in (*files, folder / MANIFEST):
        set_mode(file, folder.stat().st_mode & 0o666)  # some libraries make private files
        _sync(file)


def read_manifest(
    folder: Path, schema: type[M], fix: str, *, form: int = 0, check_files: bool = True, finite: bool = False
) -> M:
    """Read the manifest of an artifact and compare every file with its digest.

    Args:
        schema: its tag is the expected kind (encoder, head, ...); it has the field `files`, digests by path.
        fix: the command that creates the artifact again.
        form: the expected value of the field `format`; 0 for kinds without one.
        check_files: False skips the comparison of files.
        finite: see `records.decode`.

    Raises:
        BadArtifact: the manifest is missing, not JSON, of another kind or format, or invalid, or a file differs.
    """
    path, kind = folder / MANIFEST, schema.__struct_config__.tag

    def bad(what: str, where: Path = path, expected: str = "", got: str = "") -> BadArtifact:
        return BadArtifact(what, where=str(where), expected=expected, got=got, fix=fix)

    if not path.exists():
        got = "a folder without manifest.json" if folder.exists() else ""
        raise bad(f"no finished {kind} found", folder, got=got)
    content = decode(path, dict[str, Any], fix, finite=finite)
    if content.get("kind") != kind:
        raise bad("wrong kind of artifact", expected=repr(kind), got=repr(content.get("kind"))[:80])
    if form and content.get("format") != form:
        raise bad(f"unsupported format of the {kind}", folder, f"format {form}", str(content.get("format"))[:80])
    manifest = typed(content, schema, fix, where=str(path))
    for name, digest in structs.asdict(manifest)["files"].items() if check_files else ():
        file = folder / name
        try:
            inside = file.resolve().is_relative_to(folder.resolve())
            got = digest_file(file) if inside and file.is_file() else "no file"
        except (OSError, ValueError) as error:  # an invalid file name
            raise bad(f"a file cannot be read: {error}", got=repr(name)[:80]) from error
        if not inside:
            raise bad("the manifest names a file outside its folder", got=name)
        if got != digest:
            raise bad("a file does not match the digest in the manifest", file, expected=digest[:16], got=got[:16])
    return manifest


def abandoned(folder: Path) -> list[Path]:
    """Temporary files and folders in `folder` that are more than a day old, left by killed runs, sorted by name."""
    leftovers = [*folder.glob(".*.partial")]
    # A folder that was moved aside may be the only copy.
    leftovers += [old for old in folder.glob(".*.old") if (folder / _target_name(old)).exists()]
    return [path for path in sorted(leftovers) if _is_abandoned(path)]


def remove(path: Path) -> None:
    """Remove a file or folder if it exists."""
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _is_abandoned(temporary: Path) -> bool:
    try:
        return time.time() - temporary.lstat().st_mtime > _ABANDONED_S
    except FileNotFoundError:  # its run has just finished
        return False


def _target_name(temporary: Path) -> str:
    return temporary.name[1:].rsplit(".", 2)[0]


def _sweep(path: Path) -> None:
    for leftover in abandoned(path.parent):
        if _target_name(leftover) == path.name:
            with suppress(OSError):  # it may belong to another user
                remove(leftover)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{suffix}")


def _replace_file(new: Path, path: Path) -> None:
    try:
        new.replace(path)
    except OSError as error:
        # A file that is a mount point, as in containers, or of another user in a folder like /tmp; object stores.
        if error.errno not in (errno.EPERM, errno.EACCES, *_NO_RENAME):
            raise
        try:
            shutil.copyfile(new, path)
            _sync(path)
        except OSError as failed:
            what, fix = f"cannot write: {failed.strerror}", f"Make room, then run: mv {new} {path}"
            raise NoSpace(what, where=str(path), got=f"the complete new content in {new}", fix=fix) from failed


def _replace_folder(new: Path, path: Path) -> None:
    """Rename `new` to `path`, replacing a folder there.

    On Linux the two names are exchanged atomically. Elsewhere the old folder is moved aside first, so a crash between
    the two steps leaves both folders complete.
    """
    try:
        new.replace(path)  # there is none, or an empty one
        return
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    aside = _beside(path, "old")
    if _exchange(new, path):
        new.replace(aside)
    else:
        aside = move_folder(path, aside)
        try:
            new.replace(path)
        except BaseException:
            aside.replace(path)
            raise
    _sync(path.parent)
    shutil.rmtree(aside)


def move_folder(path: Path, to: Path) -> Path:
    """Rename a folder to the new name `to`. A folder of a lower layer of an overlay file system is copied instead.

    Its copy has another suffix until it is complete and if `path` then cannot be removed. Returns where it is now.
    """
    try:
        return path.replace(to)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    copy = _beside(to, "copy")  # `abandoned` does not list it: after a crash it may be the only complete one
    try:
        shutil.copytree(path, copy, symlinks=True)
        for file in (*copy.rglob("*"), copy, copy.parent):
            _sync(file)
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    shutil.rmtree(path)
    return copy.replace(to)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names atomically; False if the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(cwd, os.fsencode(first), cwd, os.fsencode(second), exchange) == 0


def _sync(path: Path) -> None:
    """Sync a file or folder, as far as its file system can; many cannot sync folders."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in (errno.EIO, *_FULL):
            raise


def set_mode(path: Path, mode: int) -> None:
    """Set the permissions of `path`, if its file system has any."""
    with suppress(OSError):
        path.chmod(mode & 0o777)
