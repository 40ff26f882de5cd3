"""Deduplication of digests."""

from __future__ import annotations

import numpy as np

from loid_infer.types import Digests, Ints


def first_rows(digests: Digests) -> Ints:
    """The rows of `digests [n, 16]` that are the first of their value, ascending, int64 `[n_unique]`."""
    keys = np.ascontiguousarray(digests).view("S16").ravel()
    return np.sort(np.unique(keys, return_index=True)[1])
