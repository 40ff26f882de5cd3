"""`cache info | verify | export`, and which stores and texts are in use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import Struct

from loid_infer.artifact import MANIFEST
from loid_infer.data.corpora import recorded
from loid_infer.data.reviews import open_table
from loid_infer.data.vectors import SUFFIXES, export_vectors
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import BadArtifact, BadSetting, BadStore, NotEncoded
from loid_infer.records import decode
from loid_infer.settings import Workspace, WorkspaceLike
from loid_infer.store.environment import DATA_FILE, read_spec, spec_bytes
from loid_infer.store.reader import StoreReader, open_store
from loid_infer.store.verify import StoreCheck, verify
from loid_infer.types import DIGEST_BYTES, SILENT, Digests, Floats, Ints, Progress
from loid_infer.verbs.encoder import encode_command, resolve
from loid_infer.verbs.reencode import reencode as compute_again

_MAX_NAMED = 5  # listed texts per store whose vectors differ


class _Reference(Struct):
    """The common field of the manifests of encoders and heads."""

    fingerprint: str


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """Summary of a store."""

    fingerprint: str
    encoders: tuple[str, ...]  # names of the encoders with this fingerprint
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
    """Result of `cache_verify`, over all checked stores."""

    n_stores: int
    n_chunks: int
    n_rows: int
    n_bad: int
    n_reencoded: int
    cos_min: float | None  # between stored and recomputed vectors
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


def cache_info(*, workspace: WorkspaceLike = None) -> CacheInfo:
    """Summarize every store of the workspace.

    Raises:
        BadStore: a store cannot be opened, or its name is not the fingerprint of its spec.
    """
    workspace = Workspace.of(workspace)
    names = encoders_by_fingerprint(workspace)
    stores = []
    for folder in store_folders(workspace):
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
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> CacheCheck:
    """Check every checksum and index entry of all stores, or of one encoder's.

    Args:
        reencode: number of random texts per store to compute again and compare.

    Raises:
        BadArtifact, NotEncoded: there is no such encoder, or it has no store.
        RuntimeMissing, ParityError, BadTable: see `reencode`.
    """
    workspace = Workspace.of(workspace)
    folders, names = store_folders(workspace, encoder), encoders_by_fingerprint(workspace)
    checks: list[StoreCheck] = []
    recomputed: list[tuple[Floats, list[str]]] = []
    for folder in folders:
        try:
            with _open(folder) as store:
                checks.append(verify(store, progress))
                reason = "it is damaged" if checks[-1].n_bad else "no encoder has this fingerprint"
                if reencode and folder.name in names and not checks[-1].n_bad:
                    source = resolve(workspace, encoder or names[folder.name][0], None)
                    recomputed.append(compute_again(workspace, source, store, reencode, seed, progress))
                elif reencode:
                    progress.say(f"{folder.name}: no text is computed again: {reason}")
        except BadStore as error:  # continue with the others
            checks.append(StoreCheck(0, 0, 1, (str(error),)))
        except NotEncoded:  # a run died before its first commit
            checks.append(StoreCheck(0, 0, 0, ()))
    problems = [line for check in checks for line in check.problems]
    problems += [line for _, wrong in recomputed for line in wrong[:_MAX_NAMED]]
    return CacheCheck(
        n_stores=len(folders),
        n_chunks=sum(check.n_chunks for check in checks),
        n_rows=sum(check.n_rows for check in checks),
        n_bad=sum(check.n_bad for check in checks) + sum(len(wrong) for _, wrong in recomputed),
        n_reencoded=sum(len(cosines) for cosines, _ in recomputed),
        cos_min=min((float(cosines.min()) for cosines, _ in recomputed if len(cosines)), default=None),
        problems=tuple(problems),
    )


def cache_export(
    domain: str,
    out: str | os.PathLike[str],
    *,
    encoder: str | None = None,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> CacheExport:
    """Write the vectors of `domain` in review order, as float32, to a .parquet or .safetensors file.

    Raises:
        BadSetting: another suffix.
        NotEncoded: some texts have no vector yet.
        BadTable, BadArtifact, BadStore, NoSpace: see `open_table`, `resolve`, `open_store`.
    """
    workspace, target = Workspace.of(workspace), Path(out)
    if target.suffix not in SUFFIXES:
        raise BadSetting(
            "unknown suffix",
            where=str(target),
            expected=" or ".join(SUFFIXES),
            got=target.suffix or "no suffix",
            fix=f"Name it {target.stem}.parquet.",
        )
    table = open_table(workspace.table(domain), domain)
    folder = resolve(workspace, encoder, domain)
    encode = encode_command(folder.name, domain)
    digests = table.digests(progress)
    with (
        open_store(workspace.store(folder.fingerprint), folder.spec, folder.fingerprint, encode) as store,
        progress.task("export", table.n_rows, "rows") as task,
    ):
        rows_in_store = store.rows_of(digests, encode)

        def vectors(rows: Ints) -> Floats:
            task.advance(len(rows))
            return store.gather(rows_in_store[rows], digests[rows])

        export_vectors(table, digests, vectors, folder.spec.dim, target, spec_bytes(folder.spec).decode())
    return CacheExport(domain, folder.name, folder.fingerprint, table.n_rows, folder.spec.dim, str(target))


def store_folders(workspace: Workspace, encoder: str | None = None) -> list[Path]:
    """The folders of all stores, or of the store of an encoder.

    Raises:
        BadArtifact, ParityError: see `resolve`.
        NotEncoded: that encoder has no store.
    """
    if encoder is None:
        return sorted(file.parent for file in workspace.cache.glob(f"[!.]*/{DATA_FILE}"))
    folder = workspace.store(resolve(workspace, encoder, None).fingerprint)
    if not (folder / DATA_FILE).exists():
        raise NotEncoded(
            "no vectors of this encoder are stored yet", where=str(folder), fix=encode_command(encoder, "D")
        )
    return [folder]


def _open(folder: Path) -> StoreReader:
    spec = read_spec(folder)
    if fingerprint(spec) != folder.name:
        raise BadStore(
            "the name of the store is not the fingerprint of its spec",
            where=str(folder),
            expected=fingerprint(spec),
            got=folder.name,
            fix="Rename the folder, or move it away.",
        )
    return open_store(folder, spec, folder.name)


def encoders_by_fingerprint(workspace: Workspace) -> dict[str, list[str]]:
    """Fingerprint -> names of the encoders with it."""
    names: dict[str, list[str]] = {}
    for manifest in manifests(workspace, "encoders"):
        with suppress(BadArtifact):  # a damaged export is reported where it is used
            names.setdefault(referred(manifest), []).append(manifest.parent.name)
    return names


def manifests(workspace: Workspace, kind: str) -> list[Path]:
    """The paths of the manifests of all `encoders` or `heads`."""
    return sorted((workspace.root / "exports" / kind).glob(f"[!.]*/{MANIFEST}"))


def referred(manifest: Path) -> str:
    """The fingerprint in the manifest of an encoder or head. Raises BadArtifact if it cannot be read."""
    fix = f"Nothing is removed. Create {manifest.parent.name!r} again or move it away."
    return decode(manifest, _Reference, fix).fingerprint


def used_digests(workspace: Workspace, progress: Progress, known: Mapping[str, Digests]) -> Digests:
    """The unique digests of all texts of tables, corpora and heads, `[n, 16]`, ascending: those that `cache gc` keeps.

    Args:
        known: digests by domain that the caller already has.

    Raises:
        BadSetting: there is neither a table nor an encoded corpus.
        BadTable, BadArtifact: a table, a file of digests or a head cannot be read.
    """
    domains, corpora = workspace.domains(), sorted(workspace.corpora.glob("[!.]*.digests"))
    if not domains and not corpora:
        raise BadSetting(
            "no domain has a table, so every row would be removed",
            where=str(workspace.root / "data"),
            fix="Run `loid-infer ingest` first, or remove the folder of the store manually.",
        )
    parts = [
        known[domain] if domain in known else open_table(workspace.table(domain), domain).digests(progress)
        for domain in domains
    ]
    parts += [recorded(path) for path in corpora]
    heads = manifests(workspace, "heads")
    if heads:
        from loid_infer.heads.saved import load_head  # imports torch, which takes a second

        parts += [load_head(path.parent, "Fit it again, or move it away.").training_digests()[1] for path in heads]
    joined = np.ascontiguousarray(np.concatenate(parts)).view(f"V{DIGEST_BYTES}")
    return np.unique(joined).view(np.uint8).reshape(-1, DIGEST_BYTES)
