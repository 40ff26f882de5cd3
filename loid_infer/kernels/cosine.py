"""Cosine similarity: row by row, and the mean over all pairs of two sets."""

from __future__ import annotations

import numpy as np

from loid_infer.types import Floats


def row_cosines(a: Floats, b: Floats) -> Floats:
    """Cosine of each row of `a [n, d]` with the same row of `b [n, d]`, float64 `[n]`; 1 where both are zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = (a * b).sum(axis=1)
    return np.where((a == b).all(axis=1), 1.0, products / np.where(norms > 0, norms, 1.0))


def mean_pairwise_cosine(a: Floats, b: Floats) -> float:
    """Mean of the cosines of all n x m pairs of a row of `a [n, d]` and a row of `b [m, d]`, in float64.

    The domain similarity of LoID's table 2. For rows of length 1 it is the product of the means,
    `1/(nm) sum_ij x_i y_j = (1/n sum_i x_i)(1/m sum_j y_j)`. A row of zeros has cosine 0 with every other. Exact
    symmetry: exchanging `a` and `b` gives the same bits.
    """
    return float((_mean_direction(a) * _mean_direction(b)).sum())


def _mean_direction(rows: Floats) -> Floats:
    rows = rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    mean: Floats = (rows / np.where(norms > 0, norms, 1.0)).mean(axis=0)
    return mean
