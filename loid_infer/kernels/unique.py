"""Finding equal digests without a Python object for each."""

from __future__ import annotations

import numpy as np

from loid_infer.types import Bools, Digests, Ints


def first_rows(digests: Digests) -> Ints:
    """The rows of `digests [n, 16]` that are the first of their value, ascending, int64 `[n_unique]`."""
    halves = np.ascontiguousarray(digests).view(np.uint64)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: within a value, rows ascend
    new: Bools = np.ones(len(order), np.bool_)
    ordered = halves[order]
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return np.sort(order[new])
