"""Finding equal digests without a Python object for each."""

from __future__ import annotations

import numpy as np

from loid_infer.types import Digests, Ints


def first_rows(digests: Digests) -> Ints:
    """The rows of `digests [n, 16]` that are the first of their value, ascending, int64 `[n_unique]`."""
    _, rows = np.unique(np.ascontiguousarray(digests).view("S16").ravel(), return_index=True)
    return np.sort(rows)
