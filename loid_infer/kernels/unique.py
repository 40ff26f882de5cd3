"""Deduplication and membership of digests."""

from __future__ import annotations

import numpy as np

from loid_infer.types import DIGEST_BYTES, Array, Bools, Digests, Ints

_STEP = 1 << 20  # digests that are looked up at once


def first_rows(digests: Digests) -> Ints:
    """The rows of `digests [n, 16]` that are the first of their value, ascending, int64 `[n_unique]`."""
    keys = np.ascontiguousarray(digests).view("S16").ravel()
    return np.sort(np.unique(keys, return_index=True)[1])


def prefixes(digests: Digests) -> Array:
    """The first 8 bytes of each of `digests [n, 16]` as a number, uint64 `[n]`: neighbors share pages of an index."""
    return np.ascontiguousarray(digests[:, :8]).view(">u8").ravel().astype(np.uint64)


def ascending(digests: Digests) -> Digests:
    """The different ones of `digests [n, 16]`, ascending, as `within` needs them."""
    keys = np.ascontiguousarray(digests).view(f"V{DIGEST_BYTES}")
    return np.unique(keys).view(np.uint8).reshape(-1, DIGEST_BYTES)


def merged(known: Digests, new: Digests) -> Digests:
    """The ascending `known [n, 16]` with the `new [m, 16]`, which are none of them, ascending `[n + m, 16]`."""
    old, keys = (np.ascontiguousarray(part).view(f"V{DIGEST_BYTES}").ravel() for part in (known, ascending(new)))
    return np.insert(old, np.searchsorted(old, keys), keys).view(np.uint8).reshape(-1, DIGEST_BYTES)


def within(digests: Digests, used: Digests) -> Bools:
    """Which of `digests [n, 16]` are in the sorted `used`, `[n]`."""
    keys, known = (np.ascontiguousarray(part).view(f"V{DIGEST_BYTES}").ravel() for part in (digests, used))
    inside = np.zeros(len(keys), np.bool_)
    for at in range(0, len(keys) if len(known) else 0, _STEP):
        part = keys[at : at + _STEP]
        inside[at : at + _STEP] = known[np.minimum(np.searchsorted(known, part), len(known) - 1)] == part
    return inside
