"""`cache verify --reencode N`: compares stored vectors with newly computed ones of the same encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np

from loid_infer.data.corpora import checked_texts
from loid_infer.data.reviews import ReviewTable, open_table
from loid_infer.encoder import Encoder
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.kernels.cosine import row_cosines
from loid_infer.kernels.unique import first_rows
from loid_infer.settings import Workspace
from loid_infer.store.reader import StoreReader
from loid_infer.types import DIGEST_BYTES, Digests, Floats, Ints, Progress

# Minimum cosine between a stored and a newly computed vector, which may come from another runtime.
_COS_MIN = {"int8": 0.98}
_COS_MIN_FLOAT = 0.999


def reencode(
    workspace: Workspace, encoder: EncoderFolder, store: StoreReader, n: int, seed: int, progress: Progress
) -> tuple[Floats, list[str]]:
    """Compute the vectors of `n` random stored texts of the workspace's tables again.

    Returns:
        The cosines `[m]` of stored and new vectors, and a message for each that is too small.

    Raises:
        RuntimeMissing, ParityError: the encoder cannot run here.
        BadTable, BadStore: a table or the store cannot be read.
    """
    tables = [open_table(workspace.table(domain), domain) for domain in workspace.domains()]
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
    cos_min = _COS_MIN.get(encoder.spec.precision, _COS_MIN_FLOAT)
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
        for rows, texts in checked_texts(table, inside - start, part):
            yield rows + start, texts
        start += len(part)
