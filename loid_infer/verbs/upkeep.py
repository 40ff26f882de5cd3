"""`cache salvage | compact | gc`: stores written anew out of what is sound, what is dense, or what is still used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loid_infer.artifact import MANIFEST, abandoned, remove, writing
from loid_infer.data.corpora import recorded
from loid_infer.data.reviews import open_table
from loid_infer.encoders.folder import open_folder
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import BadArtifact, BadSetting, BadStore, NotEncoded
from loid_infer.kernels.unique import first_rows
from loid_infer.settings import Place, Workspace
from loid_infer.store.environment import DATA_FILE, SPEC_FILE, read_spec
from loid_infer.store.reader import open_store
from loid_infer.store.rewrite import Rewritten, compact, salvage
from loid_infer.store.writer import held
from loid_infer.types import DIGEST_BYTES, SILENT, Array, Bools, Digests, Progress, Spec
from loid_infer.verbs.cache import encoders_by_fingerprint, folder_of, store_folders
from loid_infer.verbs.encoder import encode_command


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A domain some of whose texts a store holds, and some not."""

    domain: str
    n_texts: int
    n_missing: int
    command: str


@dataclass(frozen=True, slots=True)
class StoreChange:
    """One store before and after."""

    fingerprint: str
    n_rows: int
    n_dropped: int
    bytes_before: int
    bytes_after: int
    unfinished: tuple[Unfinished, ...] = ()


@dataclass(frozen=True, slots=True)
class CacheChange:
    """What was done to the stores, one by one."""

    n_stores: int
    n_dropped: int
    bytes_freed: int
    stores: tuple[StoreChange, ...]


@dataclass(frozen=True, slots=True)
class CacheSweep:
    """What `cache_gc` removed, or would have."""

    dry_run: bool
    n_stores: int  # removed whole: no encoder and no head has their fingerprint
    n_rows: int  # dropped from the others: no domain's table has their texts
    n_leftovers: int  # unfinished exports and stores of runs that were killed at least a day ago
    bytes_freed: int  # of those and of whole stores; what dropped rows free is known after the store was written anew
    stores: tuple[StoreChange, ...]


def cache_salvage(*, encoder: str | None = None, workspace: Place = None, progress: Progress = SILENT) -> CacheChange:
    """Keep every sound chunk of all stores, or of one encoder's, and tell which domains must be encoded again.

    Raises:
        BadStore: a store has no spec, and no encoder of its fingerprint is there.
        BadArtifact: there is no such encoder.
        StoreBusy, NoSpace: see `store.rewrite`; nothing is changed.
    """
    place, changes = Workspace.of(workspace), []
    for folder in _folders(place, encoder):
        spec = _spec(place, folder)
        with held(folder):
            done = salvage(folder, spec, folder.name, progress)
        lost = tuple(_unfinished(place, folder, spec, done.n_dropped > 0, progress))
        changes.append(_change(folder, done, lost))
    return _changed(changes)


def cache_compact(*, encoder: str | None = None, workspace: Place = None, progress: Progress = SILENT) -> CacheChange:
    """Write all stores, or one encoder's, anew with full chunks and full pages.

    Raises:
        BadStore: a store is damaged.
        BadArtifact: there is no such encoder.
        StoreBusy, NoSpace: see `store.rewrite`; nothing is changed.
    """
    place, changes = Workspace.of(workspace), []
    for folder in _folders(place, encoder):
        with held(folder):
            changes.append(_change(folder, compact(folder, read_spec(folder), folder.name, None, progress)))
    return _changed(changes)


def cache_gc(*, dry_run: bool = False, workspace: Place = None, progress: Progress = SILENT) -> CacheSweep:
    """Remove stores that no encoder and no head refers to, rows of texts that no table, no other corpus and no head
    has, and what killed runs left unfinished. A finished export has a name, by which anybody may ask for it: it is
    never removed.

    Every store is held while that is found out, so nothing is dropped that a run beside this one has just stored. What
    must be read is read before anything is removed.

    Raises:
        BadSetting: there is no table at all, so that nearly every row would go.
        BadArtifact: a manifest or a head cannot be read, so nobody knows what it refers to.
        BadStore: a store is damaged.
        StoreBusy, NoSpace: see `store.rewrite`.
    """
    place = Workspace.of(workspace)
    with ExitStack() as stack:
        folders = store_folders(place)
        for folder in folders:
            stack.enter_context(held(folder))
        referred, used = set(_referred(place)), _used(place, progress)
        gone = [folder for folder in folders if folder.name not in referred]
        specs = {folder: read_spec(folder) for folder in folders if folder.name in referred}
        counts = {folder: _count_unused(folder, spec, used, progress) for folder, spec in specs.items()}
        freed, changes = 0, []
        for folder, (n_rows, n_unused) in counts.items():
            if n_unused:
                size = (folder / DATA_FILE).stat().st_size
                done = Rewritten(n_rows - n_unused, n_unused, size, size)
                if not dry_run:
                    done = compact(folder, specs[folder], folder.name, lambda digests: _within(digests, used), progress)
                changes.append(_change(folder, done))
        for folder in gone:
            freed += sum(file.stat().st_size for file in folder.iterdir())
            if not dry_run:
                with writing(folder):
                    shutil.rmtree(folder.resolve())
                    folder.unlink(missing_ok=True)  # what is left of a link
        folders = [place.cache, *(place.root / "exports" / kind for kind in ("encoders", "heads", "plugins"))]
        leftovers = [left for folder in folders for left in abandoned(folder)]
        for left in leftovers:
            freed += sum(file.stat().st_size for file in (left, *left.rglob("*")) if file.is_file())
            if not dry_run:
                remove(left)
    freed += sum(change.bytes_before - change.bytes_after for change in changes)
    n_dropped = sum(change.n_dropped for change in changes)
    return CacheSweep(dry_run, len(gone), n_dropped, len(leftovers), freed, tuple(changes))


def _folders(place: Workspace, encoder: str | None) -> Sequence[Path]:
    if encoder is None:
        return store_folders(place)
    folder = folder_of(place, encoder)
    if not (folder / DATA_FILE).exists():
        raise NotEncoded("no vectors of this encoder are stored yet", where=str(folder),
                         mend=encode_command(encoder, "D"))  # fmt: skip
    return [folder]


def _change(folder: Path, done: Rewritten, unfinished: tuple[Unfinished, ...] = ()) -> StoreChange:
    return StoreChange(folder.name, done.n_rows, done.n_dropped, done.bytes_before, done.bytes_after, unfinished)


def _changed(changes: Sequence[StoreChange]) -> CacheChange:
    freed = sum(change.bytes_before - change.bytes_after for change in changes)
    return CacheChange(len(changes), sum(change.n_dropped for change in changes), freed, tuple(changes))


def _spec(place: Workspace, folder: Path) -> Spec:
    """The spec beside the store or, if that is lost too, the one of an encoder with the store's fingerprint."""
    try:
        spec = read_spec(folder)
        if fingerprint(spec) == folder.name:
            return spec
    except BadStore:
        pass
    for name in encoders_by_fingerprint(place).get(folder.name, ()):
        return open_folder(place.encoder(name), name).spec
    raise BadStore("nobody knows which encoder's vectors these are", where=str(folder / SPEC_FILE),
                   expected=f"the spec of {folder.name}, or an encoder of that fingerprint", got="neither",
                   mend="Export that encoder again, then run the same command.")  # fmt: skip


def _unfinished(place: Workspace, folder: Path, spec: Spec, dropped: bool, progress: Progress) -> Iterator[Unfinished]:
    """Domains of which the store has a part; and those of which it has nothing, where it has lost something."""
    names = encoders_by_fingerprint(place).get(folder.name, ["ENCODER"])
    with open_store(folder, spec, folder.name) as store:
        for domain in place.domains():
            digests = open_table(place.table(domain), domain).digests(progress)
            rows = store.lookup(digests[first_rows(digests)])
            n_missing = int((rows < 0).sum())
            if n_missing and (dropped or n_missing < len(rows)):
                yield Unfinished(domain, len(rows), n_missing, encode_command(names[0], domain))


def _referred(place: Workspace) -> Iterator[str]:
    for kind in ("encoders", "heads"):
        for path in sorted((place.root / "exports" / kind).glob(f"[!.]*/{MANIFEST}")):
            try:
                yield str(json.loads(path.read_text())["fingerprint"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise BadArtifact(f"a manifest cannot be read, so nothing is removed: {error}", where=str(path),
                                  mend=f"Make {path.parent.name!r} anew or move it away.") from error  # fmt: skip


def _used(place: Workspace, progress: Progress) -> Array:
    """The digests of all texts that a table or another corpus has or a head looks at, `[n]`, sorted."""
    domains, corpora = place.domains(), sorted(place.corpora.glob("[!.]*.digests"))
    if not domains and not corpora:
        raise BadSetting("no domain has a table, so every row would be dropped", where=str(place.root / "data"),
                         mend="Run `loid-infer ingest` first, or remove the folder of the store yourself.")  # fmt: skip
    parts = [open_table(place.table(domain), domain).digests(progress) for domain in domains]
    parts += [recorded(path) for path in corpora]
    heads = sorted(path.parent for path in (place.root / "exports" / "heads").glob(f"[!.]*/{MANIFEST}"))
    if heads:
        from loid_infer.heads.saved import load_head  # torch: a second that only this should pay

        parts += [load_head(folder, "Fit it again, or move it away.").training_digests()[1] for folder in heads]
    used: Array = np.unique(_keys(np.concatenate(parts)))
    return used


def _keys(digests: Digests) -> Array:
    return np.ascontiguousarray(digests).view(f"V{DIGEST_BYTES}").ravel()


def _within(digests: Digests, used: Array) -> Bools:
    keys = _keys(digests)
    if not len(used):
        return np.zeros(len(keys), np.bool_)
    at = np.minimum(np.searchsorted(used, keys), len(used) - 1)
    found: Bools = used[at] == keys
    return found


def _count_unused(folder: Path, spec: Spec, used: Array, progress: Progress) -> tuple[int, int]:
    n_rows = n_unused = 0
    with open_store(folder, spec, folder.name) as store, progress.task("gc", store.size().n_rows, "rows") as task:
        for chunk in store.chunks():
            n_rows += len(chunk.digests)
            n_unused += int((~_within(chunk.digests, used)).sum())
            task.advance(len(chunk.digests))
    return n_rows, n_unused
