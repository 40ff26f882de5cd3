"""Nearest neighbors by cosine or product: a FAISS index, exact up to 100,000 vectors and inverted lists above."""

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
EXACT_ROWS = 100_000  # an exact search of this many takes 10 ms on one core at d = 384
MIN_RECALL = 0.98
_BLOCK_ROWS = 1 << 16
_N_QUERIES = 256  # indexed vectors that are searched for, to measure recall
_DEPTH = 10  # neighbors per query when recall is measured
_PER_LIST = 64  # training vectors per list


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """A searchable set of directions."""

    kind: str  # exact | inverted lists
    recall: float  # recall at 10, measured for indexed vectors; 1 where the search is exact
    faiss_index: Any

    @property
    def n(self) -> int:
        """Number of vectors."""
        return int(self.faiss_index.ntotal)

    def search(self, direction: Floats, n: int) -> tuple[Ints, Floats]:
        """The row numbers and cosines of the `n` nearest (at most all) to `direction [d]`, nearest first, equal ones in
        the order of rows.

        The number of lists searched grows in proportion to `n`; recall was measured at n = 10.
        """
        index, params, query = self.faiss_index, None, direction[None].astype(np.float32)
        if self.kind != EXACT:
            params = _faiss().SearchParametersIVF(nprobe=min(-(-n // _DEPTH) * index.nprobe, index.nlist))
        scores, numbers = (found[0] for found in index.search(query, max(min(n + 1, self.n), 1), params=params))
        if len(scores) > n and n and scores[n] == scores[n - 1]:  # which of the equal ones FAISS keeps depends on n
            _, scores, numbers = index.range_search(query, float(np.nextafter(scores[n], -np.inf)), params=params)
        order = np.lexsort((numbers, -scores))
        order = order[numbers[order] >= 0][:n]
        return numbers[order], scores[order]

    def search_products(self, queries: Floats, n: int) -> Ints:
        """The row numbers of the `n` with the largest products with each of `queries [b, d]`, `[b, n]`; -1 where fewer
        are found. The lists searched are those for which recall was measured, whatever `n`.
        """
        numbers: Ints = self.faiss_index.search(queries.astype(np.float32), max(min(n, self.n), 1))[1]
        return numbers

    def save(self, path: Path) -> None:
        """Write the FAISS index; `kind` and `recall` are not in the file."""
        _faiss().write_index(self.faiss_index, str(path))

    @staticmethod
    def load(path: Path, kind: str, recall: float) -> Index:
        """Read what `save` wrote."""
        return Index(kind, recall, _faiss().read_index(str(path)))


def directions(vectors: Floats, center: Floats) -> Floats:
    """`vectors [n, d]` minus `center [d]`, normalized to length 1, float32; 0 for a vector at the center."""
    centered: Floats = vectors.astype(np.float32) - center.astype(np.float32)
    norms = np.linalg.norm(centered, axis=1, keepdims=True)
    return centered / np.where(norms > 0, norms, np.float32(1))


def build(
    vectors: Floats,
    center: Floats | None,
    exact_rows: int = EXACT_ROWS,
    queries: Floats | None = None,
    depth: int = _DEPTH,
) -> Index:
    """An index of the directions of `vectors [n, d]`, in any floating dtype, from `center [d]`.

    Above `exact_rows` vectors it has about `4 sqrt(n)` inverted lists of half-precision vectors (Jegou et al. 2011).
    The number of lists searched is doubled until the recall at `depth`, measured against the exact search, is 0.98. The
    lists are trained on a GPU where FAISS sees one.

    Args:
        center: None: the vectors themselves are indexed, for products.
        queries: `[m, d]`, for which recall is measured; by default indexed vectors.
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
    index.train(next(_blocks(vectors[sample], center, len(sample))))
    index.clustering_index = None
    for block in _blocks(vectors, center):
        index.add(block)
    if queries is None:
        queries = next(_blocks(vectors[np.sort(rng.choice(n, min(n, _N_QUERIES), replace=False))], center))
    queries = queries.astype(np.float32)
    exact_search: Any = importlib.import_module("faiss.contrib.exhaustive_search").knn_ground_truth
    truth = exact_search(queries, _blocks(vectors, center), depth, faiss.METRIC_INNER_PRODUCT)[1]
    recall, index.nprobe = 0.0, 4
    while recall < MIN_RECALL and index.nprobe < n_lists:
        index.nprobe = min(2 * index.nprobe, n_lists)
        numbers = index.search(queries, depth)[1]
        recall = float(np.mean([len({*row} & {*exact}) for row, exact in zip(numbers, truth, strict=True)])) / depth
    return Index("inverted lists", recall, index)


def _blocks(vectors: Floats, center: Floats | None, n_rows: int = _BLOCK_ROWS) -> Iterator[Floats]:
    for start in range(0, len(vectors), n_rows):
        block = vectors[start : start + n_rows]
        yield block.astype(np.float32) if center is None else directions(block, center)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        fix = "Run `pip install 'loid-infer[cpu]'`, or [gpu] on a machine with a GPU."
        raise RuntimeMissing(f"FAISS cannot be imported: {error}", fix=fix) from error
    return faiss
