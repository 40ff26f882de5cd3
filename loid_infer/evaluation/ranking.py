"""Ranks of targets among all items or drawn candidates, and the metrics computed from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from loid_infer.types import Floats, Ints

CUTOFFS = (1, 5, 10, 20)
MISSED = np.inf  # the rank of a target that a model cannot rank


def recall(ranks: Floats, k: int) -> Floats:
    """1 where the only target is among the first `k`, else 0, `[n]`: Recall@k, which is HR@k for a single target."""
    return (ranks <= k).astype(np.float64)


def ndcg(ranks: Floats, k: int) -> Floats:
    """NDCG@k `[n]` of a single target: `1 / log2(1 + rank)` up to rank `k` (Jarvelin & Kekalainen 2002, eq. 2)."""
    return np.where(ranks <= k, 1 / np.log2(1 + np.minimum(ranks, 1e9)), 0.0)


def reciprocal(ranks: Floats, k: int) -> Floats:
    """`1 / rank` up to rank `k`, else 0, `[n]`; its mean is MRR@k."""
    return np.where(ranks <= k, 1 / ranks, 0.0)


_FAMILIES: Mapping[str, Callable[[Floats, int], Floats]] = {"recall": recall, "ndcg": ndcg, "mrr": reciprocal}


def measured(ranks: Floats) -> dict[str, Floats]:
    """Every metric at every cutoff of every target, `[n]` each, from their `ranks [n]`."""
    return {f"{name}@{k}": metric(ranks, k) for name, metric in _FAMILIES.items() for k in CUTOFFS}


def mean_ranks(scores: Floats, targets: Ints) -> Floats:
    """The rank `[b]`, from 1, of each row's target in its `scores [b, n]`; scores of `-inf` are not ranked.

    Items with the score of the target share the mean of their ranks: neither the order of ids nor a constant model can
    win by ties. NaN counts as the lowest score.

    Args:
        targets: `[b]`, columns.
    """
    own = scores[np.arange(len(targets)), targets]
    # 1 + higher + (equal - 1) / 2, its own among the equal ones. A row at a time stays in the cache.
    counts = [np.count_nonzero(row > x) + np.count_nonzero(row >= x) for row, x in zip(scores, own, strict=True)]
    return np.where(np.isfinite(own), (1 + np.array(counts)) / 2, MISSED)


def top(scores: Floats, n: int) -> tuple[Ints, Floats]:
    """Columns and scores of the `n` highest of each row of `scores [b, m]`, the highest first; equal scores in the
    order of columns, whatever `n`. Both are `[b, min(n, m)]`; entries of `-inf` are -1 columns.
    """
    n = min(n, scores.shape[1])
    # The n-th highest score of a row, and all that are not below it: at least n.
    bound = np.partition(scores, scores.shape[1] - n, axis=1)[:, -n][:, None] if n < scores.shape[1] else -np.inf
    rows, found = np.nonzero((scores >= bound) & (scores > -np.inf))
    return first_of_rows(rows, found, scores[rows, found], len(scores), n)


def first_of_rows(rows: Ints, columns: Ints, scores: Floats, n_rows: int, n: int) -> tuple[Ints, Floats]:
    """The `n` highest of each row of a matrix of `n_rows` with entries `[m]`, as `top` gives them."""
    chosen: Any = np.full((n_rows, n), -1, np.int64)
    values: Any = np.full((n_rows, n), -np.inf, scores.dtype)
    order = np.lexsort((columns, -scores, rows))
    rows, columns, scores = rows[order], columns[order], scores[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    first = place < n
    chosen[rows[first], place[first]] = columns[first]
    values[rows[first], place[first]] = scores[first]
    return chosen, values
