"""`cache info | verify | export | import`, and which stores and texts are in use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from msgspec import Struct

from loid_infer.artifact import MANIFEST
from loid_infer.cluster.join import add_vectors
from loid_infer.data.addresses import check_address, delivered, fetched
from loid_infer.data.corpora import checked_texts, recorded
from loid_infer.data.reviews import ReviewTable, open_table, review_domains
from loid_infer.data.vectors import SUFFIXES, Bundle, export_vectors
from loid_infer.encoder import Encoder
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import BadArtifact, BadSetting, BadStore, NotEncoded
from loid_infer.kernels.cosine import row_cosines
from loid_infer.kernels.unique import ascending, first_rows
from loid_infer.records import decode
from loid_infer.settings import Workspace, WorkspaceLike
from loid_infer.store.environment import read_spec, spec_bytes
from loid_infer.store.reader import StoreReader, open_store
from loid_infer.store.shared import DATA_FILE
from loid_infer.store.verify import StoreCheck, verify
from loid_infer.store.writer import StoreWriter
from loid_infer.types import DIGEST_BYTES, SILENT, Digests, Floats, Ints, Progress, Spec
from loid_infer.verbs.encoder import encode_command, resolve

# Minimum cosines between a stored and a newly computed vector, which may come from another runtime.
_COS_MIN, _COS_MIN_INT8 = 0.999, 0.98
_READ_BYTES = 32 << 20  # of vectors, at once
_MAX_NAMED = 5  # listed texts per store whose vectors differ


class _Reference(Struct):
    """The common fields of the manifests of encoders and heads."""

    fingerprint: str
    kind: str = ""


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


@dataclass(frozen=True, slots=True)
class CacheImport:
    """A finished import."""

    source: str
    fingerprint: str
    encoder: str
    n_texts: int  # different texts in the source
    n_new: int  # not stored before
    store: str


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
        key, encoders = folder.name, tuple(names.get(folder.name, ()))
        form = spec.precision, spec.store_dtype, spec.dim, spec.max_tokens
        stores.append(StoreInfo(key, encoders, *form, size.n_rows, size.n_chunks, size.file_bytes))
    n_rows, n_bytes = sum(store.n_rows for store in stores), sum(store.file_bytes for store in stores)
    return CacheInfo(len(stores), n_rows, n_bytes, tuple(stores))


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
        RuntimeMissing, ParityError: the encoder cannot run here.
        BadTable: a table cannot be read.
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
                    recomputed.append(_reencode(workspace, source, store, reencode, seed, progress))
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


def _reencode(
    workspace: Workspace, encoder: EncoderFolder, store: StoreReader, n: int, seed: int, progress: Progress
) -> tuple[Floats, list[str]]:
    """Compute the vectors of `n` random stored texts of the workspace's tables again.

    Returns:
        The cosines `[m]` of stored and new vectors, and a message for each that is too small.
    """
    tables = [open_table(workspace.table(domain), domain) for domain in review_domains(workspace)]
    digests = [table.digests(progress) for table in tables]
    all_digests = np.concatenate([np.zeros((0, DIGEST_BYTES), np.uint8), *digests])
    first = first_rows(all_digests)
    first = first[store.lookup(all_digests[first]) >= 0]
    chosen = np.sort(np.random.default_rng(seed).choice(first, min(n, len(first)), replace=False))
    if not len(chosen):
        progress.say(f"no table has a text of this store: nothing of {encoder.name!r} is computed again")
        return np.zeros(0), []
    rows = store.lookup(all_digests[chosen])
    stored = store.gather(rows, all_digests[chosen])
    computed: Floats = np.empty(stored.shape, np.float32)
    with (
        Encoder.open(encoder, progress=progress) as opened,
        progress.task("re-encode", len(chosen), "texts") as task,
        closing(opened.stream(_texts(tables, digests, chosen))) as batches,
    ):
        for slots, vectors in batches:
            computed[np.searchsorted(chosen, slots)] = vectors
            task.advance(len(slots))
    cosines = row_cosines(stored, computed)
    cos_min = _COS_MIN_INT8 if encoder.spec.precision == "int8" else _COS_MIN
    return cosines, [
        f"row {row}: {encoder.name!r} gives another vector (cosine {cosine:.4f})"
        for row, cosine in zip(rows, cosines, strict=True)
        if cosine < cos_min
    ]


def _texts(
    tables: Sequence[ReviewTable], digests: Sequence[Digests], wanted: Ints
) -> Iterator[tuple[Ints, Sequence[str]]]:
    """The texts of the ascending rows `wanted [m]` of the concatenated tables."""
    start = 0
    for table, part in zip(tables, digests, strict=True):
        inside = wanted[(wanted >= start) & (wanted < start + len(part))]
        for rows, texts in checked_texts(table, inside - start, part[inside - start]):
            yield rows + start, texts
        start += len(part)


def cache_export(
    domain: str,
    out: str | os.PathLike[str],
    *,
    encoder: str | None = None,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> CacheExport:
    """Write the vectors of `domain` in review order, as float32, to a .parquet or .safetensors file or address.

    Raises:
        BadSetting: another suffix.
        NotEncoded: some texts have no vector yet.
        BadTable, BadArtifact, BadStore, NoSpace: see `open_table`, `resolve`, `open_store`.
    """
    workspace, target = Workspace.of(workspace), PurePath(os.fspath(out).partition("?")[0])
    check_address(out)
    if target.suffix not in SUFFIXES:
        expected, got = " or ".join(SUFFIXES), target.suffix or "no suffix"
        fix = f"Name it {target.stem}.parquet."
        raise BadSetting("unknown suffix", where=os.fspath(out), expected=expected, got=got, fix=fix)
    table = open_table(workspace.table(domain), domain)
    folder = resolve(workspace, encoder, domain)
    encode = encode_command(folder.name, domain)
    digests = table.digests(progress)
    with (
        open_store(workspace.store(folder.fingerprint), folder.spec, folder.fingerprint, encode) as store,
        progress.task("export", table.n_rows, "rows") as task,
        delivered(out) as path,
    ):
        rows_in_store = store.rows_of(digests, encode)

        def vectors(rows: Ints) -> Floats:
            task.advance(len(rows))
            return store.gather(rows_in_store[rows], digests[rows])

        export_vectors(table, digests, vectors, folder.spec.dim, path, spec_bytes(folder.spec).decode())
    return CacheExport(domain, folder.name, folder.fingerprint, table.n_rows, folder.spec.dim, os.fspath(out))


def cache_import(
    source: str | os.PathLike[str], *, workspace: WorkspaceLike = None, progress: Progress = SILENT
) -> CacheImport:
    """Import a copy of a store's folder, or a .safetensors bundle of `cache export` or `encode --shard`.

    `source` is a path or an address.

    The source is checked completely first. Texts that are already stored keep their vectors.

    Raises:
        BadArtifact: invalid source, or an encoder that is not in this workspace.
        BadStore: the source or the store is damaged.
        StoreBusy, NoSpace: the store cannot be written to. Committed chunks are kept; run the command again.
        ParityError: a vector is not finite.
    """
    workspace = Workspace.of(workspace)
    with fetched(source) as (path,), _source(path, progress) as (spec, digests, vectors):
        key = fingerprint(spec)
        names = encoders_by_fingerprint(workspace).get(key)
        if not names:
            what, fix = f"the encoder {key} is not in this workspace", "Export it here first, or copy its folder."
            raise BadArtifact(what, where=str(path), fix=fix)
        with StoreWriter(workspace.store(key), spec, key) as writer, progress.task("import", None, "texts") as task:
            step = max(_READ_BYTES // (4 * spec.dim), 1)
            pieces = ((digests[at : at + step], vectors(at, at + step)) for at in range(0, len(digests), step))
            n_new = add_vectors(writer, pieces, task)
            n_texts = n_new if n_new == len(digests) else len(first_rows(digests))
    return CacheImport(os.fspath(source), key, names[0], n_texts, n_new, str(workspace.store(key)))


@contextmanager
def _source(path: Path, progress: Progress) -> Iterator[tuple[Spec, Digests, Callable[[int, int], Floats]]]:
    """The spec, the digests `[n, 16]`, and a function (start, end) -> vectors `[m, d]`."""
    folder = path.parent if path.name == DATA_FILE else path
    if folder.is_dir():
        spec = read_spec(folder)
        with open_store(folder, spec, fingerprint(spec)) as store:
            rows, digests = store.every_row(progress)
            with store.view(rows, digests) as vectors:
                yield spec, digests, lambda start, end: vectors[start:end]
    else:
        with Bundle(path) as bundle:
            spec = decode(bundle.spec, Spec, "Export it again with this version.", where=str(path))
            if spec.dim != bundle.dim:
                what, expected, got = "vectors of another width than their spec", str(spec.dim), str(bundle.dim)
                raise BadArtifact(what, where=str(path), expected=expected, got=got, fix="Export it again.")
            yield spec, bundle.digests, bundle.vectors


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
        what, fix = "no vectors of this encoder are stored yet", encode_command(encoder, "D")
        raise NotEncoded(what, where=str(folder), fix=fix)
    return [folder]


def _open(folder: Path) -> StoreReader:
    spec = read_spec(folder)
    if fingerprint(spec) != folder.name:
        what, fix = "the folder's name is not the fingerprint of its spec", "Rename the folder, or move it away."
        raise BadStore(what, where=str(folder), expected=fingerprint(spec), fix=fix)
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
    domains, corpora = review_domains(workspace), sorted(workspace.corpora.glob("[!.]*.digests"))
    if not domains and not corpora:
        what, where = "no domain has a table, so every row would be removed", str(workspace.root / "data")
        fix = "Run `loid-infer ingest` first, or remove the folder of the store manually."
        raise BadSetting(what, where=where, fix=fix)
    parts = [
        known[domain] if domain in known else open_table(workspace.table(domain), domain).digests(progress)
        for domain in domains
    ]
    parts += [recorded(path) for path in corpora]
    fix = "Fit it again, or move it away."
    for path in manifests(workspace, "heads"):
        # Imported here, since both import torch, which takes a second.
        kind = decode(path, _Reference, fix).kind
        if kind == "clicks":
            continue  # its prompts are corpora
        if kind == "ranking":
            from loid_infer.rankers.saved import load_ranking_head

            parts.append(load_ranking_head(path.parent, fix).digests)
        else:
            from loid_infer.heads.saved import load_head

            parts.append(load_head(path.parent, fix).training_digests()[1])
    return ascending(np.concatenate(parts))
