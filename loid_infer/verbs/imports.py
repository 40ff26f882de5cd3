"""`cache import`: vectors computed elsewhere come into this workspace's store, each text once.

Several machines may each encode a part and their stores or bundles be joined here, in any order.
"""

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
from loid_infer.store.committer import Committer
from loid_infer.store.environment import DATA_FILE, read_spec
from loid_infer.store.reader import open_store
from loid_infer.store.writer import StoreWriter
from loid_infer.types import SILENT, Array, Digests, Floats, Progress, Spec
from loid_infer.verbs.cache import encoders_by_fingerprint

_STEP = 8_192


@dataclass(frozen=True, slots=True)
class CacheImport:
    """What came in."""

    source: str
    fingerprint: str
    encoder: str
    n_texts: int  # different ones in the source
    n_new: int  # that the store did not have
    store: str


def cache_import(
    source: str | os.PathLike[str], *, workspace: WorkspaceLike = None, progress: Progress = SILENT
) -> CacheImport:
    """Take in a store's folder, copied from elsewhere, or a bundle that `cache export` wrote as .safetensors.

    All of it is checked before anything is stored. A text that is stored already keeps its vector.

    Raises:
        BadArtifact: neither of both, altered, or vectors of an encoder that is not in this workspace.
        BadStore: the store that is to be taken in, or the one here, is damaged.
        StoreBusy, NoSpace: the store here cannot be written to; what was committed stays, and the command goes on.
        ParityError: a vector is not finite.
    """
    workspace, path = Workspace.of(workspace), Path(source)
    with _opened(path, progress) as (spec, digests, vectors):
        ours = fingerprint(spec)
        names = encoders_by_fingerprint(workspace).get(ours)
        if not names:
            raise BadArtifact(
                "vectors of an encoder that is not in this workspace",
                where=str(path),
                got=ours,
                expected="the fingerprint of one of exports/encoders",
                fix="Export that encoder here first, or copy its folder.",
            )
        unique = first_rows(digests)
        with StoreWriter(workspace.store(ours), spec, ours) as writer:
            new = unique[writer.reader.lookup(digests[unique]) < 0]
            wanted: Array = np.zeros(len(digests), np.bool_)
            wanted[new] = True
            with progress.task("import", len(new), "texts") as task, Committer(writer, spec.dim) as behind:
                for start in range(0, len(wanted), _STEP):
                    rows = np.flatnonzero(wanted[start : start + _STEP])
                    if len(rows):
                        part = vectors(start, min(start + _STEP, len(wanted)))
                        behind.add(digests[start + rows], part[rows])
                        task.advance(len(rows))
    return CacheImport(str(path), ours, names[0], len(unique), len(new), str(workspace.store(ours)))


@contextmanager
def _opened(path: Path, progress: Progress) -> Iterator[tuple[Spec, Digests, Callable[[int, int], Floats]]]:
    """The spec, the digests `[n, 16]`, and what gives the vectors `[m, d]` of the rows from, to."""
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
                    "the vectors are not as wide as their spec says",
                    where=str(path),
                    expected=str(spec.dim),
                    got=str(bundle.dim),
                    fix="Export it again.",
                )
            yield spec, bundle.digests, bundle.vectors
