"""Artifacts are finished or absent: a temporary sibling, a manifest, a rename. Also the digests of what is in them.

This file knows files and bytes; what a manifest says is its writer's business.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from msgspec import Struct, structs

from loid_infer.errors import BadArtifact, NoSpace
from loid_infer.records import decode, to_json, typed
from loid_infer.settings import make_folder

MANIFEST = "manifest.json"
_ABANDONED_S = 86_400.0


class Manifest(Protocol):
    """What every manifest has."""

    __struct_config__: ClassVar[structs.StructConfig]

    @property
    def files(self) -> Mapping[str, str]:
        """sha256 of each file, by its path in the folder."""


M = TypeVar("M", bound=Manifest)


def digest_json(value: object) -> str:
    """sha256 of a JSON value in canonical form (sorted keys, no white space), 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of `packages` that are installed, with Python's and our own."""
    found = {"python": platform.python_version()}
    for name in ("loid-infer", *packages):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full or failing disk or a missing permission into an error that says so.

    Raises:
        NoSpace: the system refused to write under `path`.
    """
    try:
        yield
    except Exception as error:
        code = _refusal(error)
        if code is None:
            raise
        full = code in (errno.ENOSPC, errno.EDQUOT)
        act = "Free some space" if full else "Look after that disk" if code == errno.EIO else "Make the folder writable"
        raise NoSpace(
            f"cannot write: {os.strerror(code)}",
            where=str(path),
            got=f"{free_bytes(path):,} bytes free on that disk" if full else "",
            fix=f"{act}, then run the same command again; nothing is lost.",
        ) from error


def _refusal(error: Exception) -> int | None:
    """Why the system refused to write, if that is what `error` says; libraries in Rust say it in their text only."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
    if isinstance(error, OSError):
        return error.errno if error.errno in codes else None
    return next((code for code in codes if f"(os error {code})" in str(error)), None)


def free_bytes(path: Path) -> int:
    """Bytes free on the disk that `path` is or will be on."""
    existing = next(there for there in (path.absolute(), *path.absolute().parents) if there.exists())
    return shutil.disk_usage(existing).free


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` that takes its place when the block ends well and vanishes when it does not.

    Raises:
        NoSpace: the disk is full or the folder not writable.
    """
    make_folder(path.parent)
    _sweep(path)
    with writing(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary sibling folder that takes the place of `path` when the block ends well and vanishes when it does not.

    Raises:
        NoSpace: the disk is full or the folder not writable.
    """
    make_folder(path.parent)
    path = path.resolve()  # a link to another disk is left in its place
    _sweep(path)
    with writing(path):
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        try:
            yield temporary
            _sync(temporary)
            _replace_folder(temporary, path)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_manifest(folder: Path, manifest: Struct) -> None:
    """Write the manifest of a new folder, with the digest of every file in it: the last step of filling it.

    Args:
        manifest: a record with a tag `kind` and a field `files`, which is filled in here.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    digests = {str(file.relative_to(folder)): digest_file(file) for file in files}
    content = to_json(structs.replace(manifest, files=digests), indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(content + "\n", encoding="utf-8")
    mask = _umask()
    for file in (*files, folder / MANIFEST):
        file.chmod(0o666 & ~mask)
        _sync(file)
    folder.chmod(0o777 & ~mask)


def read_manifest(
    folder: Path, schema: type[M], fix: str, *, form: int = 0, check_files: bool = True, finite: bool = False
) -> M:
    """The manifest of a finished artifact, each of its files compared with the digest recorded for it.

    Args:
        schema: its tag is what the folder should be: encoder, head, ..
        mend: the command that makes it anew.
        form: what its field `format` must be; 0 of kinds that have none.
        check_files: whether to read every file; False trusts them.
        finite: see `records.decode`.

    Raises:
        BadArtifact: no manifest, not JSON, another kind or format, a wrong field, or a file that is missing or altered.
    """
    path, kind = folder / MANIFEST, schema.__struct_config__.tag

    def bad(what: str, where: Path = path, expected: str = "", got: str = "") -> BadArtifact:
        return BadArtifact(what, where=str(where), expected=expected, got=got, fix=fix)

    if not path.exists():
        got = "a folder without manifest.json" if folder.exists() else "nothing"
        raise bad(f"there is no finished {kind} here", folder, got=got)
    content = decode(path, dict[str, Any], fix, finite=finite)
    if content.get("kind") != kind:
        raise bad("another kind of artifact", expected=repr(kind), got=repr(content.get("kind"))[:80])
    if form and content.get("format") != form:
        raise bad(f"the {kind} is of another format", folder, f"format {form}", str(content.get("format"))[:80])
    manifest = typed(content, schema, fix, where=str(path))
    for name, digest in manifest.files.items() if check_files else ():
        file = folder / name
        try:
            inside = file.resolve().is_relative_to(folder.resolve())
            got = digest_file(file) if inside and file.is_file() else "no file"
        except (OSError, ValueError) as error:  # a name that is none
            raise bad(f"a file cannot be read: {error}", got=repr(name)[:80]) from error
        if not inside:
            raise bad("the manifest names a file outside its folder", got=name)
        if got != digest:
            raise bad("a file is not the one the manifest was written for", file, expected=digest[:16], got=got[:16])
    return manifest


def abandoned(folder: Path) -> list[Path]:
    """What runs that were killed at least a day ago left in `folder`: temporary files and folders, by name."""
    lefts = [*folder.glob(".*.partial")]
    # What was moved aside may be all there is of it.
    lefts += [left for left in folder.glob(".*.old") if (folder / _meant(left)).exists()]
    return [left for left in sorted(lefts) if _is_abandoned(left)]


def remove(path: Path) -> None:
    """Remove a file or folder that may be gone already."""
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _is_abandoned(temporary: Path) -> bool:
    try:
        return time.time() - temporary.lstat().st_mtime > _ABANDONED_S
    except FileNotFoundError:  # its own run finished
        return False


def _meant(temporary: Path) -> str:
    return temporary.name[1:].rsplit(".", 2)[0]


def _sweep(path: Path) -> None:
    for left in abandoned(path.parent):
        if _meant(left) == path.name:
            remove(left)


def _replace_folder(new: Path, path: Path) -> None:
    """Let `new` take the place of the folder `path`, if there is one, and remove that.

    Where the system can exchange two names at once (Linux) there is no moment without a folder of that name; elsewhere
    the old one is moved aside first, so that a crash leaves either whole under one of the names.
    """
    if not path.exists():
        new.replace(path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    if _exchange(new, path):
        new.replace(aside)
    else:
        path.replace(aside)
        try:
            new.replace(path)
        except BaseException:
            aside.replace(path)
            raise
    _sync(path.parent)
    shutil.rmtree(aside)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names at once; False where the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
