"""Writing and reading artifacts."""

import contextlib
import errno
import json
import os
import shutil
import socket
import stat
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec import Struct, field

from loid_infer import artifact
from loid_infer.artifact import (
    abandoned,
    move_folder,
    new_file,
    new_folder,
    read_manifest,
    scratch_folder,
    write_manifest,
)
from loid_infer.errors import BadArtifact, BadSetting, NoSpace


class ExampleManifest(Struct, frozen=True, tag_field="kind", tag="thing"):
    format: int = 1
    files: dict[str, str] = field(default_factory=dict)


def make(folder: Path, text: str) -> None:
    with new_folder(folder) as temporary:
        (temporary / "data.txt").write_text(text)
        write_manifest(temporary, ExampleManifest())


def test_a_folder_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    make(tmp_path / "a", "one")
    assert read_manifest(tmp_path / "a", ExampleManifest, "run it again").files.keys() == {"data.txt"}
    with pytest.raises(KeyError), new_folder(tmp_path / "a") as temporary:
        (temporary / "data.txt").write_text("half")
        raise KeyError
    assert (tmp_path / "a" / "data.txt").read_text() == "one"
    make(tmp_path / "a", "two")
    assert (tmp_path / "a" / "data.txt").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_file(tmp_path / "f") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with new_file(tmp_path / "f") as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_leftovers_of_killed_runs_are_removed_after_a_day(tmp_path: Path) -> None:
    (tmp_path / ".a.x.partial").mkdir()
    (tmp_path / ".a.x.partial" / "big").touch()
    (tmp_path / ".a.y.partial").touch()
    (tmp_path / ".b.z.partial").touch()
    for name in (".a.x.partial", ".b.z.partial"):
        os.utime(tmp_path / name, (1, 1))
    make(tmp_path / "a", "one")
    assert {path.name for path in tmp_path.iterdir()} == {"a", ".a.y.partial", ".b.z.partial"}


def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    make(tmp_path / "a", "one")
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps({"kind": "thing", "files": {"../../etc/passwd": "0"}}))
    with pytest.raises(BadArtifact, match="outside its folder"):
        read_manifest(tmp_path / "a", ExampleManifest, "run it again")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"kind": "head"}, "wrong kind of artifact"),
        ({"kind": None}, "wrong kind of artifact"),
        ({"format": 2}, "unsupported format"),
        ({"files": ["data.txt"]}, "the field files"),
        ({"files": {"data.txt": 1}}, "the field files"),
        ({"files": {"data.txt": "0"}}, "does not match the digest in the manifest"),
        ({"files": {"data.txt\0": "0"}}, "cannot be read"),
    ],
)
def test_a_changed_manifest_is_refused(tmp_path: Path, change: dict, what: str) -> None:
    make(tmp_path / "a", "one")
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadArtifact, match=f"{what}.* run it again"):
        read_manifest(tmp_path / "a", ExampleManifest, "run it again", form=1)


def test_a_temporary_file_that_disappears_during_cleanup_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".other.x.partial").touch()
    original = Path.lstat

    def gone(path: Path) -> os.stat_result:
        if path.suffix == ".partial":
            path.unlink(missing_ok=True)  # its run has just finished
        return original(path)

    monkeypatch.setattr(Path, "lstat", gone)
    assert abandoned(tmp_path) == []
    with new_file(tmp_path / "mine") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "mine").read_text() == "x"


def write(path: Path, text: str = "new") -> None:
    with new_file(path) as temporary:
        temporary.write_text(text)


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_the_file_it_names_is_written(tmp_path: Path, exists: bool) -> None:
    target, link = tmp_path / "disk" / "file", tmp_path / "link"
    (tmp_path / "second").symlink_to(Path("disk", "file"))
    link.symlink_to("second")
    if exists:
        target.parent.mkdir()
        target.write_text("old")
    write(link)
    assert (link.is_symlink(), target.is_symlink(), target.read_text()) == (True, False, "new")
    assert [path.name for path in target.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "loop", "link to a pipe"])
def test_what_is_not_a_file_is_refused_before_the_work(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        # Within the folder, for a name of at most 107 bytes.
        with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(tmp_path):
            listener.bind("out")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    else:
        path.symlink_to("/dev/null" if kind == "device" else "out")
    before = path.lstat()  # without the time of access, which following a link may change
    with pytest.raises(BadSetting, match=r"out: this is not a file.*Name a file"), new_file(path):
        pytest.fail("the work began")
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_that_cannot_be_renamed_over_gets_the_new_content(tmp_path, monkeypatch, code: int) -> None:
    def refuse(path: Path, to: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "replace", refuse)
    (tmp_path / "file").write_text("longer than the new one")
    for name in ("file", "absent"):
        write(tmp_path / name)
        assert (tmp_path / name).read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "absent"}
    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(NoSpace, match=r"cannot write.*the complete new content in .*mv "):
        write(tmp_path / "file")
    (kept,) = tmp_path.glob(".file.*")
    assert kept.read_text() == "new"


@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EBADF", "EACCES", "EPERM", "EISDIR"])
@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_folder_that_cannot_be_synced_is_written(tmp_path, monkeypatch, name: str, call: str) -> None:
    monkeypatch.setattr(os, call, failing_for_folders(getattr(os, call), getattr(errno, name)))
    write(tmp_path / "file")
    for text in ("old", "new"):
        make(tmp_path / "folder", text)
    assert (tmp_path / "folder" / "data.txt").read_text() == "new"


def test_a_failing_disk_is_not_taken_for_one_that_cannot_sync(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", failing_for_folders(os.fsync, errno.EIO))
    with pytest.raises(NoSpace, match="Check the disk"):
        write(tmp_path / "file")


def failing_for_folders(original, code: int):
    def call(path, *arguments, **options):
        with suppress(FileNotFoundError):
            if not options and stat.S_ISDIR(os.stat(path).st_mode):  # noqa: PTH116 - or a descriptor
                raise OSError(code, os.strerror(code))
        return original(path, *arguments, **options)

    return call


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EROFS])
def test_a_file_system_without_modes_is_written(tmp_path, monkeypatch, code: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    for module, name in ((os, "chmod"), (os, "fchmod"), (Path, "chmod")):
        monkeypatch.setattr(module, name, refuse)
    write(tmp_path / "file")
    make(tmp_path / "folder", "text")
    assert read_manifest(tmp_path / "folder", ExampleManifest, "").files.keys() == {"data.txt"}


def test_modes_are_those_of_the_umask_which_is_never_changed(tmp_path: Path, monkeypatch) -> None:
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:  # all threads have one umask
            patch.setattr(os, "umask", lambda _: pytest.fail("the umask is changed"))
            with new_file(tmp_path / "file") as temporary, new_folder(tmp_path / "folder") as folder:
                temporary.chmod(0o600)  # as some libraries do
                (folder / "data").touch(0o600)
                write_manifest(folder, ExampleManifest())
    finally:
        os.umask(before)
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in tmp_path.rglob("*")}
    assert modes == {(True, 0o750), (False, 0o640)}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere names are not exchanged in one step")
def test_threads_replace_one_folder(tmp_path, monkeypatch) -> None:
    with ThreadPoolExecutor(8) as pool, monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda _: False)  # another thread makes the folder after the question
        list(pool.map(lambda n: make(tmp_path / "folder", str(n)), range(40)))
    read_manifest(tmp_path / "folder", ExampleManifest, "")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_mount_point_is_not_replaced(tmp_path, monkeypatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(artifact, "is_mount_point", lambda path: path.name == "folder")
    with pytest.raises(NoSpace, match=r"mount point.*Mount the folder above"), new_folder(tmp_path / "folder"):
        pytest.fail("the work began")


@pytest.mark.parametrize(("name", "words"), [("x" * 250, "Use a shorter name"), ("file/x", "Use another folder")])
def test_a_name_that_the_file_system_refuses_is_an_error_with_words(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NoSpace, match=f"{words}|another workspace"):
        write(tmp_path / name)


def test_a_moved_folder_of_a_lower_layer_is_copied(tmp_path, monkeypatch) -> None:
    make(tmp_path / "a", "text")
    plain = Path.replace

    def layered(path: Path, to: Path) -> Path:
        if path.name == "a":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return plain(path, to)

    monkeypatch.setattr(Path, "replace", layered)
    move_folder(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    read_manifest(tmp_path / "b", ExampleManifest, "")


def test_leftovers_of_other_users_are_left(tmp_path, monkeypatch) -> None:
    left = tmp_path / ".f.x.partial"
    left.touch()
    os.utime(left, (1, 1))
    plain = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == left:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        plain(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    write(tmp_path / "f")
    assert (tmp_path / "f").read_text() == "new"


def test_without_a_temporary_folder_the_error_names_the_variable(monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", list)
    with pytest.raises(NoSpace, match=r"No usable temporary directory.*TMPDIR=DIR"), scratch_folder():
        pytest.fail("there is a folder")
