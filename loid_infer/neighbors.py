"""Which vectors point most nearly the same way: a FAISS index of directions, exact while that is fast.

The only file that imports faiss. It knows vectors by number, not what they stand for, and no store.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loid_infer.errors import RuntimeMissing
from loid_infer.types import Floats, Ints

EXACT = "exact"
EXACT_ROWS = 100_000  # up to here every vector is compared: 10 ms of a core at d = 384
MIN_RECALL = 0.98
_STEP = 1 << 16
_N_PROBES = 256  # indexed vectors whose neighbors are looked up both ways, to measure recall
_DEPTH = 10
_PER_LIST = 64  # vectors a list that its center is learnt from


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Directions that can be searched."""

    kind: str  # exact | inverted lists
    recall: float  # share of the 10 nearest of an indexed vector that a search finds; 1 where it is exact
    found: Any  # the FAISS index

    @property
    def n(self) -> int:
        """How many vectors it holds."""
        return int(self.found.ntotal)

    def search(self, direction: Floats, n: int) -> tuple[Ints, Floats]:
        """The numbers and cosines of the `n` nearest (or all there are) to `direction [d]`, nearest first.

        Lists are searched in proportion to `n`, from the ten that recall was measured at; all of them in the end.
        """
        found, depth = self.found, None
        if self.kind != EXACT:
            depth = _faiss().SearchParametersIVF(nprobe=min(-(-n // _DEPTH) * found.nprobe, found.nlist))
        scores, numbers = found.search(direction[None].astype(np.float32), max(min(n, self.n), 1), params=depth)
        kept = np.flatnonzero(numbers[0] >= 0)[:n]
        return numbers[0][kept], scores[0][kept]

    def save(self, path: Path) -> None:
        """Write it in FAISS's own format; `load` needs the two words beside it as well."""
        _faiss().write_index(self.found, str(path))

    @staticmethod
    def load(path: Path, kind: str, recall: float) -> Index:
        """Read what `save` wrote."""
        return Index(kind, recall, _faiss().read_index(str(path)))


def directions(vectors: Floats, center: Floats) -> Floats:
    """`vectors [n, d]` seen from `center [d]`, each of length 1, float32; 0 for a vector at the center."""
    seen: Floats = vectors.astype(np.float32) - center.astype(np.float32)
    norms = np.linalg.norm(seen, axis=1, keepdims=True)
    return seen / np.where(norms > 0, norms, np.float32(1))


def build(vectors: Floats, center: Floats, exact_rows: int = EXACT_ROWS) -> Index:
    """An index of the directions of `vectors [n, d]`, in any floating dtype, from `center [d]`.

    Above `exact_rows` vectors it is inverted lists with half-precision vectors (Jegou et al. 2011): of about
    `4 sqrt(n)` lists as many are searched as it takes to reach a recall of 0.98, which is measured against the exact
    search. Learning the lists' centers runs on a GPU where FAISS sees one.
    """
    faiss, rng = _faiss(), np.random.default_rng(0)
    n, d = vectors.shape
    if n <= exact_rows:
        flat = faiss.IndexFlatIP(d)
        for block in _blocks(vectors, center):
            flat.add(block)
        return Index(EXACT, 1.0, flat)
    n_lists = int(4 * np.sqrt(n))
    index: Any = faiss.index_factory(d, f"IVF{n_lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    sample = np.sort(rng.choice(n, min(n, _PER_LIST * n_lists), replace=False))
    if faiss.get_num_gpus():
        index.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(d))
    index.train(directions(vectors[sample], center))
    index.clustering_index = None
    for block in _blocks(vectors, center):
        index.add(block)
    asked = directions(vectors[np.sort(rng.choice(n, min(n, _N_PROBES), replace=False))], center)
    search: Any = importlib.import_module("faiss.contrib.exhaustive_search").knn_ground_truth
    truth = search(asked, _blocks(vectors, center), _DEPTH, faiss.METRIC_INNER_PRODUCT)[1]
    recall, index.nprobe = 0.0, 4
    while recall < MIN_RECALL and index.nprobe < n_lists:
        index.nprobe = min(2 * index.nprobe, n_lists)
        found = index.search(asked, _DEPTH)[1]
        recall = float(np.mean([len(set(one) & set(other)) for one, other in zip(found, truth, strict=True)])) / _DEPTH
    return Index("inverted lists", recall, index)


def _blocks(vectors: Floats, center: Floats) -> Iterator[Floats]:
    for start in range(0, len(vectors), _STEP):
        yield directions(vectors[start : start + _STEP], center)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        fix = "pip install 'loid-infer[cpu]', or [gpu] on a machine with a GPU."
        raise RuntimeMissing(f"FAISS cannot be imported: {error}", fix=fix) from error
    return faiss
