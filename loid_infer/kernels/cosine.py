"""How far two sets of vectors are apart, row by row. Knows nothing of encoders or of what the gate is."""

from __future__ import annotations

import numpy as np

from loid_infer.types import Floats


def row_cosines(a: Floats, b: Floats) -> Floats:
    """Cosine of each row of `a [n, d]` with the same row of `b [n, d]`, float64 `[n]`; 1 where both are zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = (a * b).sum(axis=1)
    same = (a == b).all(axis=1)
    return np.where(same, 1.0, products / np.where(norms > 0, norms, 1.0))
