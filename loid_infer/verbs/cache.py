"""`cache info | verify | export`: look at the stores, check them, hand vectors out."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from loid_infer.data.reviews import open_table
from loid_infer.data.vectors import Described, export_vectors
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import BadSetting, BadStore, NotEncoded
from loid_infer.settings import Place, Workspace
from loid_infer.store.environment import DATA_FILE, read_spec, spec_bytes
from loid_infer.store.reader import StoreReader, open_store
from loid_infer.store.verify import StoreCheck, verify
from loid_infer.types import SILENT, Floats, Ints, Progress
from loid_infer.verbs.encoder import encode_command, resolve
from loid_infer.verbs.reencode import Reencoded
from loid_infer.verbs.reencode import reencode as recomputed

_SUFFIXES = {".parquet": "parquet", ".safetensors": "safetensors"}


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """One store at a glance."""

    fingerprint: str
    encoders: tuple[str, ...]  # exports in this workspace with that fingerprint
    precision: str
    store_dtype: str
    dim: int
    max_tokens: int
    n_rows: int
    n_chunks: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """All stores of a workspace."""

    n_stores: int
    n_rows: int
    file_bytes: int
    stores: tuple[StoreInfo, ...]


@dataclass(frozen=True, slots=True)
class CacheCheck:
    """What `cache_verify` found, over `n_stores` stores. The cache is whole when `n_bad` is 0."""

    n_stores: int
    n_chunks: int
    n_rows: int
    n_bad: int
    n_reencoded: int
    cos_min: float | None  # of stored vectors and those computed anew
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CacheExport:
    """A finished export of vectors."""

    domain: str
    encoder: str
    fingerprint: str
    n_rows: int
    dim: int
    out: str


def cache_info(*, workspace: Place = None) -> CacheInfo:
    """Every store of the workspace.

    Raises:
        BadStore: a store cannot be opened, or lies under another spec's name.
    """
    place = Workspace.of(workspace)
    names = encoders_by_fingerprint(place)
    stores = []
    for folder in store_folders(place):
        with _open(folder) as store:
            size, spec = store.size(), store.environment.spec
        stores.append(
            StoreInfo(
                folder.name,
                tuple(names.get(folder.name, ())),
                spec.precision,
                spec.store_dtype,
                spec.dim,
                spec.max_tokens,
                size.n_rows,
                size.n_chunks,
                size.file_bytes,
            )
        )
    return CacheInfo(
        len(stores), sum(store.n_rows for store in stores), sum(store.file_bytes for store in stores), tuple(stores)
    )


def cache_verify(
    *,
    encoder: str | None = None,
    reencode: int = 0,
    seed: int = 0,
    workspace: Place = None,
    progress: Progress = SILENT,
) -> CacheCheck:
    """Check every checksum and index entry, of all stores or of one encoder's. A store that cannot be opened is bad.

    Args:
        reencode: so many random texts of each store are also computed anew, and compared.

    Raises:
        BadArtifact: there is no such encoder.
        RuntimeMissing, ParityError, BadTable: what `reencode` takes is not there.
    """
    place = Workspace.of(workspace)
    folders = store_folders(place) if encoder is None else [folder_of(place, encoder)]
    checks: list[StoreCheck] = []
    again: list[Reencoded] = []
    names = encoders_by_fingerprint(place)
    for folder in folders:
        with ExitStack() as opened:
            try:
                store = opened.enter_context(_open(folder))
            except BadStore as error:  # no reason not to look at the others
                checks.append(StoreCheck(0, 0, 1, (str(error),)))
                continue
            except NotEncoded:  # a run died before its first commit
                checks.append(StoreCheck(0, 0, 0, ()))
                continue
            checks.append(verify(store, progress))
            if reencode and checks[-1].n_bad:
                progress.say(f"{folder.name} is damaged: none of its texts is computed anew")
            elif reencode and folder.name in names:
                found = resolve(place, encoder or names[folder.name][0], None)
                again.append(recomputed(place, found, place.domains(), store, reencode, seed, progress))
            elif reencode:
                progress.say(f"no encoder here has the fingerprint {folder.name}: none of its texts is computed anew")
    cosines = [one.cos_min for one in again if one.cos_min is not None]
    return CacheCheck(
        len(checks),
        sum(check.n_chunks for check in checks),
        sum(check.n_rows for check in checks),
        sum(check.n_bad for check in checks) + sum(one.n_bad for one in again),
        sum(one.n_texts for one in again),
        min(cosines, default=None),
        tuple(
            line
            for problems in (*(check.problems for check in checks), *(one.problems for one in again))
            for line in problems
        ),
    )


def cache_export(
    domain: str,
    out: str | os.PathLike[str],
    *,
    encoder: str | None = None,
    workspace: Place = None,
    progress: Progress = SILENT,
) -> CacheExport:
    """Write the vectors of `domain` in review order, as float32, to a .parquet or .safetensors file.

    Raises:
        BadSetting: another suffix.
        NotEncoded: some texts have no vector yet.
        BadTable, BadArtifact, BadStore, NoSpace: see `open_table`, `resolve`, `open_store`.
    """
    place, target = Workspace.of(workspace), Path(out)
    if target.suffix not in _SUFFIXES:
        raise BadSetting(
            "cannot tell the format from the file's name",
            where=str(target),
            expected=" or ".join(_SUFFIXES),
            got=target.suffix or "no suffix",
            mend=f"Name it {target.stem}.parquet.",
        )
    table = open_table(place.table(domain), domain)
    found = resolve(place, encoder, domain)
    encode = encode_command(found.name, domain)
    digests = table.digests(progress)
    with (
        open_store(place.store(found.fingerprint), found.spec, found.fingerprint, encode) as store,
        progress.task("export", table.n_rows, "rows") as task,
    ):
        rows_in_store = store.rows_of(digests, encode)

        def vectors(rows: Ints) -> Floats:
            task.advance(len(rows))
            return store.gather(rows_in_store[rows], digests[rows])

        described = Described(digests, spec_bytes(found.spec).decode())
        export_vectors(table, vectors, found.spec.dim, target, _SUFFIXES[target.suffix], described)
    return CacheExport(domain, found.name, found.fingerprint, table.n_rows, found.spec.dim, str(target))


def store_folders(workspace: Workspace) -> list[Path]:
    """The folders of all stores of the workspace."""
    return sorted(file.parent for file in workspace.cache.glob(f"[!.]*/{DATA_FILE}"))


def _open(folder: Path) -> StoreReader:
    spec = read_spec(folder)
    if fingerprint(spec) != folder.name:
        raise BadStore(
            "the store lies under another spec's name",
            where=str(folder),
            expected=fingerprint(spec),
            got=folder.name,
            mend="Rename the folder to what its spec says, or move it away.",
        )
    return open_store(folder, spec, folder.name)


def folder_of(workspace: Workspace, encoder: str) -> Path:
    """The folder of an encoder's store.

    Raises:
        BadArtifact, ParityError: see `resolve`.
    """
    return workspace.store(resolve(workspace, encoder, None).fingerprint)


def encoders_by_fingerprint(workspace: Workspace) -> dict[str, list[str]]:
    """Names of the workspace's encoders by their fingerprint."""
    import json

    names: dict[str, list[str]] = {}
    for manifest in sorted((workspace.root / "exports" / "encoders").glob("[!.]*/manifest.json")):
        try:
            names.setdefault(json.loads(manifest.read_text())["fingerprint"], []).append(manifest.parent.name)
        except (ValueError, KeyError, OSError):
            continue  # a broken export is reported where it is used; here it only has no name to give
    return names
