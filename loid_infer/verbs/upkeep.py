"""`cache salvage | compact | gc`: recovers, compacts and cleans stores."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from loid_infer.artifact import abandoned, remove, writing
from loid_infer.data.reviews import open_table, review_domains
from loid_infer.encoders.folder import open_folder
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import BadSetting, BadStore
from loid_infer.kernels.unique import first_rows, within
from loid_infer.settings import Workspace, WorkspaceLike
from loid_infer.store.environment import SPEC_FILE, read_spec
from loid_infer.store.lock import writer_lock
from loid_infer.store.reader import open_store
from loid_infer.store.rewrite import Rewritten, compact, salvage
from loid_infer.store.shared import DATA_FILE
from loid_infer.types import SILENT, Digests, Progress, Spec
from loid_infer.verbs.cache import encoders_by_fingerprint, manifests, referred, store_folders, used_digests
from loid_infer.verbs.encoder import encode_command


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A domain with texts that are missing in a store."""

    domain: str
    n_texts: int
    n_missing: int
    command: str


@dataclass(frozen=True, slots=True)
class StoreChange:
    """A store before and after the command."""

    fingerprint: str
    n_rows: int
    n_dropped: int
    bytes_before: int
    bytes_after: int
    unfinished: tuple[Unfinished, ...] = ()


@dataclass(frozen=True, slots=True)
class CacheChange:
    """The changes to all stores."""

    n_stores: int
    n_dropped: int
    bytes_freed: int
    stores: tuple[StoreChange, ...]


@dataclass(frozen=True, slots=True)
class CacheSweep:
    """What `cache_gc` removed, or would remove."""

    dry_run: bool
    n_stores: int  # removed stores: no encoder or head has their fingerprint
    n_rows: int  # removed from other stores: no table, corpus or head has their texts
    n_leftovers: int  # temporary folders of killed runs, at least a day old
    bytes_freed: int  # in a dry run without the bytes of removed rows, which are unknown
    stores: tuple[StoreChange, ...]


def cache_salvage(
    *, encoder: str | None = None, workspace: WorkspaceLike = None, progress: Progress = SILENT
) -> CacheChange:
    """Recover the intact chunks of all stores, or of one encoder's, and list the domains to encode again.

    Raises:
        BadStore: a store has no spec, and no encoder has its fingerprint.
        BadArtifact, NotEncoded: there is no such encoder, or it has no store.
        StoreBusy, NoSpace: see `store.rewrite`; nothing is changed.
    """
    workspace, changes = Workspace.of(workspace), []
    for folder in store_folders(workspace, encoder):
        spec = _spec(workspace, folder)
        with writer_lock(folder):
            done = salvage(folder, spec, folder.name, progress)
        lost = tuple(_unfinished(workspace, folder, spec, done.n_dropped > 0, progress))
        changes.append(StoreChange(folder.name, **asdict(done), unfinished=lost))
    return _changed(changes)


def cache_compact(
    *, encoder: str | None = None, workspace: WorkspaceLike = None, progress: Progress = SILENT
) -> CacheChange:
    """Rewrite all stores, or one encoder's, with full chunks and pages.

    Raises:
        BadStore: a store is damaged.
        BadArtifact, NotEncoded: there is no such encoder, or it has no store.
        StoreBusy, NoSpace: see `store.rewrite`; nothing is changed.
    """
    workspace, changes = Workspace.of(workspace), []
    for folder in store_folders(workspace, encoder):
        with writer_lock(folder):
            done = compact(folder, read_spec(folder), folder.name, None, progress)
        changes.append(StoreChange(folder.name, **asdict(done)))
    return _changed(changes)


def cache_gc(*, dry_run: bool = False, workspace: WorkspaceLike = None, progress: Progress = SILENT) -> CacheSweep:
    """Remove stores that no encoder or head refers to, rows of texts that no table, corpus or head has, and leftovers
    of killed runs. Finished exports are never removed.

    All stores are locked first, so rows written by a concurrent run are safe. Everything is read before anything is
    removed.

    Raises:
        BadSetting: there is no table, so nearly every row would be removed.
        BadArtifact: a manifest or a head cannot be read.
        BadStore: a store is damaged.
        StoreBusy, NoSpace: see `store.rewrite`.
    """
    workspace = Workspace.of(workspace)
    with ExitStack() as stack:
        folders = store_folders(workspace)
        for folder in folders:
            stack.enter_context(writer_lock(folder))
        used_stores = {referred(path) for kind in ("encoders", "heads") for path in manifests(workspace, kind)}
        used = used_digests(workspace, progress, {})
        unused_stores = [folder for folder in folders if folder.name not in used_stores]
        specs = {folder: read_spec(folder) for folder in folders if folder.name in used_stores}
        counts = {folder: _count_unused(folder, spec, used, progress) for folder, spec in specs.items()}
        if not (workspace.domains() or workspace.click_domains()) and any(n_unused for _, n_unused in counts.values()):
            what, where = "no domain has a table, and rows of no corpus would be removed", str(workspace.root / "data")
            fix = "Create the tables again with `loid-infer ingest`, or remove the folder of the store manually."
            raise BadSetting(what, where=where, fix=fix)
        freed, changes = 0, []
        for folder, (n_rows, n_unused) in counts.items():
            if n_unused:
                size = (folder / DATA_FILE).stat().st_size
                done = Rewritten(n_rows - n_unused, n_unused, size, size)
                if not dry_run:
                    done = compact(folder, specs[folder], folder.name, lambda digests: within(digests, used), progress)
                changes.append(StoreChange(folder.name, **asdict(done)))
        for folder in unused_stores:
            freed += sum(file.stat().st_size for file in folder.iterdir())
            if not dry_run:
                with writing(folder):
                    shutil.rmtree(folder.resolve())
                    folder.unlink(missing_ok=True)  # if it is a symbolic link
        folders = [workspace.cache, *(workspace.root / "exports" / kind for kind in ("encoders", "heads", "plugins"))]
        leftovers = [path for folder in folders for path in abandoned(folder)]
        for path in leftovers:
            freed += sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
            if not dry_run:
                remove(path)
    freed += sum(change.bytes_before - change.bytes_after for change in changes)
    n_dropped = sum(change.n_dropped for change in changes)
    return CacheSweep(dry_run, len(unused_stores), n_dropped, len(leftovers), freed, tuple(changes))


def _changed(changes: Sequence[StoreChange]) -> CacheChange:
    freed = sum(change.bytes_before - change.bytes_after for change in changes)
    return CacheChange(len(changes), sum(change.n_dropped for change in changes), freed, tuple(changes))


def _spec(workspace: Workspace, folder: Path) -> Spec:
    """The spec in the store's folder or, if it is lost, of an encoder with the store's fingerprint."""
    with suppress(BadStore):
        spec = read_spec(folder)
        if fingerprint(spec) == folder.name:
            return spec
    for name in encoders_by_fingerprint(workspace).get(folder.name, ()):
        return open_folder(workspace.encoder(name), name).spec
    what = (
        f"the encoder of these vectors is unknown: neither this spec nor an encoder has the fingerprint {folder.name}"
    )
    fix = "Export that encoder again, then run the same command."
    raise BadStore(what, where=str(folder / SPEC_FILE), fix=fix)


def _unfinished(
    workspace: Workspace, folder: Path, spec: Spec, dropped: bool, progress: Progress
) -> Iterator[Unfinished]:
    """Domains that are partly stored; if rows were `dropped`, also those of which nothing is stored."""
    names = encoders_by_fingerprint(workspace).get(folder.name, ["ENCODER"])
    with open_store(folder, spec, folder.name) as store:
        for domain in review_domains(workspace):
            digests = open_table(workspace.table(domain), domain).digests(progress)
            rows = store.lookup(digests[first_rows(digests)])
            n_missing = int((rows < 0).sum())
            if n_missing and (dropped or n_missing < len(rows)):
                yield Unfinished(domain, len(rows), n_missing, encode_command(names[0], domain))


def _count_unused(folder: Path, spec: Spec, used: Digests, progress: Progress) -> tuple[int, int]:
    with open_store(folder, spec, folder.name) as store:
        _, digests = store.every_row(progress)
    return len(digests), int((~within(digests, used)).sum())
