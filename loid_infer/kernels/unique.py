"""Deduplication of digests."""

from __future__ import annotations

import numpy as np

from loid_infer.types import Bools, Digests, Ints


def first_rows(digests: Digests) -> Ints:
    """The rows of `digests [n, 16]` that are the first of their value, ascending, int64 `[n_unique]`."""
    keys = np.ascontiguousarray(digests).view("S16").ravel()
    order = np.argsort(keys, kind="stable")  # stable: rows ascend within equal keys
    new: Bools = np.ones(len(order), np.bool_)
    new[1:] = keys[order[1:]] != keys[order[:-1]]
    return np.sort(order[new])
