"""The first items of users from an index, for domains with so many items that scoring all of them takes long."""

from __future__ import annotations

import numpy as np

from loid_infer.data.sequences import Histories
from loid_infer.evaluation.ranking import first_of_rows
from loid_infer.neighbors import EXACT_ROWS, build
from loid_infer.rankers.ranking import ProductRanker
from loid_infer.types import Floats, Ints

MIN_USERS = 5_000  # building the index takes as long as scoring all items for about 3,000 users
_DEPTH = 100  # at which recall is measured
_N_QUERIES = 256
MAX_DEPTH = 1_000  # items looked for per user; more are found faster by scoring all
BLOCK_USERS = 64


def is_worthwhile(n_items: int, n_users: int) -> bool:
    """Whether an index is faster than scores of all items."""
    return n_items > EXACT_ROWS and n_users >= MIN_USERS


class NearestItems:
    """An index of the items that a ranker can rank, in a range of codes. Scores are exact; some items may be missed.

    Items with the same vector are indexed as one: which of them FAISS finds depends on how many are asked for.

    Attributes:
        recall: at 100, measured with histories.
    """

    def __init__(self, ranker: ProductRanker, low: int, high: int, histories: Histories) -> None:
        """Index the items `low <= code < high`; recall is measured with some of `histories`."""
        vectors, is_ranked = ranker.vectors()
        codes = np.flatnonzero(is_ranked[low:high])
        keys = np.ascontiguousarray(vectors[low + codes]).view(f"V{vectors.dtype.itemsize * vectors.shape[1]}").ravel()
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        self._ranker, self._low = ranker, low
        self._codes = codes[np.argsort(group, kind="stable")]  # of one group after another, ascending in each
        self._sizes = np.bincount(group, minlength=len(first))
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._vectors: Floats = vectors[low + codes[first]]  # [n_groups, d]
        rows = np.unique(np.linspace(0, histories.n - 1, min(histories.n, _N_QUERIES)).astype(int))
        queries = ranker.queries(histories.rows(rows))
        self._index = build(self._vectors, None, queries=queries, depth=min(_DEPTH, len(first)))
        self.recall = self._index.recall

    def first(self, histories: Histories, n: int, *, with_seen: bool) -> tuple[Ints, Floats]:
        """Columns and scores of the first items, as `evaluation.ranking.top`; rows with fewer have not been found.

        Columns are codes minus `low`. More items than `n` are looked for, so that what is first hardly depends on `n`.
        """
        most = 0 if with_seen else int(histories.lengths.max(initial=0))
        queries = self._ranker.queries(histories)
        groups = self._index.search_products(queries, max(2 * n, _DEPTH) + most)
        rows, places = np.nonzero(groups >= 0)
        groups = groups[rows, places]
        scores = np.einsum("md,md->m", queries[rows], self._vectors[groups])
        counts = np.minimum(self._sizes[groups], n + most)
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        rows, scores = np.repeat(rows, counts), np.repeat(scores, counts)
        columns = self._codes[np.repeat(self._starts[groups], counts) + within]
        if not with_seen:
            of_user, seen = histories.flat()
            kept = ~np.isin((rows << 32) + columns + self._low, (of_user << 32) + seen)
            rows, columns, scores = rows[kept], columns[kept], scores[kept]
        return first_of_rows(rows, columns, scores, histories.n, n)
