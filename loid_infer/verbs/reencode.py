"""`cache verify --reencode N`: whether a store's own encoder still gives the vectors that lie there.

A checksum tells that bytes are what was written, not that they came from the right model. This does.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from loid_infer.data.corpora import checked_texts
from loid_infer.data.reviews import open_table
from loid_infer.encoder import Encoder
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.kernels.cosine import row_cosines
from loid_infer.settings import Workspace
from loid_infer.store.reader import StoreReader
from loid_infer.types import Floats, Progress

# Between a stored vector and the same text computed anew, perhaps by another runtime. A plugin trained for a few steps
# only may be as near to its base.
_COS_MIN = {"int8": 0.98}
_COS_MIN_FLOAT = 0.999
_MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class Reencoded:
    """What became of some stored texts computed anew."""

    n_texts: int
    n_bad: int
    cos_min: float | None
    problems: tuple[str, ...]


def reencode(
    place: Workspace, encoder: EncoderFolder, domains: Sequence[str], store: StoreReader, n: int, seed: int,
    progress: Progress,
) -> Reencoded:  # fmt: skip
    """Compute `n` random stored texts anew, of those that the tables of `domains` have.

    Raises:
        RuntimeMissing, ParityError: the encoder cannot run here.
        BadTable, BadStore: a table or the store cannot be read.
    """
    rng, cos_min = np.random.default_rng(seed), _COS_MIN.get(encoder.spec.precision, _COS_MIN_FLOAT)
    cosines: list[Floats] = []
    problems: list[str] = []
    tables = [open_table(place.table(domain), domain) for domain in domains]
    digests = [table.digests(progress) for table in tables]
    rows = [store.lookup(part) for part in digests]
    every_row = np.concatenate([np.zeros(0, np.int64), *rows])
    of_table = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
    within = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(part)) for part in rows)])
    _, first = np.unique(every_row, return_index=True)  # a text counts once, however often it was written
    first = first[every_row[first] >= 0]
    chosen = first[rng.choice(len(first), min(n, len(first)), replace=False)]
    if not len(chosen):
        progress.say(f"no table here has a text of this store: nothing of {encoder.name!r} is computed anew")
        return Reencoded(0, 0, None, ())
    with Encoder.open(encoder, progress=progress) as opened, progress.task("re-encode", len(chosen), "texts") as task:
        for i, table in enumerate(tables):
            wanted = np.sort(within[chosen[of_table[chosen] == i]])
            stored = store.gather(rows[i][wanted], digests[i][wanted])
            again: Floats = np.empty(stored.shape, np.float32)
            with closing(opened.stream(checked_texts(table, wanted, digests[i]))) as finished:
                for slots, vectors in finished:
                    again[np.searchsorted(wanted, slots)] = vectors
                    task.advance(len(slots))
            found = row_cosines(stored, again)
            cosines.append(found)
            problems += [f"row {row}: {encoder.name!r} gives another vector (cosine {cosine:.4f})"
                         for row, cosine in zip(rows[i][wanted], found, strict=True) if cosine < cos_min]  # fmt: skip
    every = np.concatenate(cosines)
    return Reencoded(len(every), len(problems), float(every.min()), tuple(problems[:_MAX_NAMED]))
