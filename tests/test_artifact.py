"""Writing and reading artifacts."""

import json
import os
from pathlib import Path

import pytest
from msgspec import Struct, field

from loid_infer.artifact import abandoned, new_file, new_folder, read_manifest, write_manifest
from loid_infer.errors import BadArtifact


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
