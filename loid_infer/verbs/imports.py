"""`cache import`: adds vectors from another store or a bundle to a store of this workspace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loid_infer.data.vectors import Bundle
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import BadArtifact
from loid_infer.kernels.unique import first_rows
from loid_infer.records import decode
from loid_infer.settings import Workspace, WorkspaceLike
from loid_infer.store.environment import DATA_FILE, read_spec
from loid_infer.store.reader import open_store
from loid_infer.store.writer import Committer, StoreWriter
from loid_infer.types import SILENT, Array, Digests, Floats, Progress, Spec
from loid_infer.verbs.cache import encoders_by_fingerprint

_STEP = 8_192


@dataclass(frozen=True, slots=True)
class CacheImport:
    """A finished import."""

    source: str
    fingerprint: str
    encoder: str
    n_texts: int  # different texts in the source
    n_new: int  # not stored before
    store: str


def cache_import(
    source: str | os.PathLike[str], *, workspace: WorkspaceLike = None, progress: Progress = SILENT
) -> CacheImport:
    """Import a copy of a store's folder, or a .safetensors bundle written by `cache export`.

    The source is checked completely first. Texts that are already stored keep their vectors.

    Raises:
        BadArtifact: invalid source, or an encoder that is not in this workspace.
        BadStore: the source or the store is damaged.
        StoreBusy, NoSpace: the store cannot be written to. Committed chunks are kept; run the command again.
        ParityError: a vector is not finite.
    """
    workspace, path = Workspace.of(workspace), Path(source)
    with _opened(path, progress) as (spec, digests, vectors):
        key = fingerprint(spec)
        names = encoders_by_fingerprint(workspace).get(key)
        if not names:
            raise BadArtifact(
                "the encoder of these vectors is not in this workspace",
                where=str(path),
                got=key,
                expected="the fingerprint of one of the encoders",
                fix="Export that encoder here first, or copy its folder.",
            )
        unique = first_rows(digests)
        with StoreWriter(workspace.store(key), spec, key) as writer:
            new = unique[writer.reader.lookup(digests[unique]) < 0]
            wanted: Array = np.zeros(len(digests), np.bool_)
            wanted[new] = True
            with progress.task("import", len(new), "texts") as task, Committer(writer, spec.dim) as committer:
                for start in range(0, len(wanted), _STEP):
                    rows = np.flatnonzero(wanted[start : start + _STEP])
                    if len(rows):
                        part = vectors(start, min(start + _STEP, len(wanted)))
                        committer.add(digests[start + rows], part[rows])
                        task.advance(len(rows))
    return CacheImport(str(path), key, names[0], len(unique), len(new), str(workspace.store(key)))


@contextmanager
def _opened(path: Path, progress: Progress) -> Iterator[tuple[Spec, Digests, Callable[[int, int], Floats]]]:
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
                raise BadArtifact(
                    "the width of the vectors contradicts their spec",
                    where=str(path),
                    expected=str(spec.dim),
                    got=str(bundle.dim),
                    fix="Export it again.",
                )
            yield spec, bundle.digests, bundle.vectors
