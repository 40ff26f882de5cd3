"""Counter-based random numbers: a draw depends on its key only, not on row order, batch or earlier draws."""

from __future__ import annotations

import numpy as np

from loid_infer.types import Array, Bools, Ints

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 16_384  # words per block: three times as fast while a block stays in a core's cache
_PICKS = 32_768  # picks per block, for the same reason


def mix(values: Array) -> Array:
    """SplitMix64's output, a bijection, for the states `values [..]` uint64 (Steele, Lea, Flood 2014, figure 17)."""
    with np.errstate(over="ignore"):
        mixed: Array = values + _GOLDEN
        mixed ^= mixed >> np.uint64(30)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(27)
        mixed *= np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def keys(seed: int, *parts: Ints | int) -> Array:
    """A uint64 key for each row of `parts`, arrays `[n]` or numbers: the seed and the parts hashed in order."""
    key = mix(np.asarray([seed % (1 << 64)], np.uint64))
    for part in parts:
        key = mix(key ^ np.atleast_1d(np.asarray(part)).astype(np.uint64))
    return key


def words(key: int, n: int) -> Array:
    """The first `n` outputs `[n]` uint64 of SplitMix64 seeded with `key`: output i depends on `key` and i only."""
    stream = np.empty(n, np.uint64)
    with np.errstate(over="ignore"):
        for start in range(0, n, _BLOCK):
            index = np.arange(start, min(start + _BLOCK, n), dtype=np.uint64)
            stream[start : start + len(index)] = mix(np.uint64(key) + index * _GOLDEN)
    return stream


def uniform(key: Array) -> Array:
    """Float64 in `[0, 1)` from uint64 keys, by their upper 53 bits."""
    values: Array = (mix(key) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return values


def below(key: Array, bounds: Ints) -> Ints:
    """An integer in `[0, bounds)` for each uint64 key, `bounds < 2^32` (multiply and shift, Lemire 2019)."""
    scaled = mix(key)
    scaled >>= np.uint64(32)
    scaled *= bounds.astype(np.uint64)
    scaled >>= np.uint64(32)
    return scaled.astype(np.int64)


def choose(key: Array, sizes: Ints, k: int) -> Ints:
    """`min(sizes, k)` different indices below `sizes [n]` for each key `[n]`, as `[n, k]` int64 padded with -1.

    All indices, ascending, where there are at most `k`; else Floyd's algorithm (Bentley & Floyd 1987): every subset of
    size `k` is equally likely, in k draws without rejection.
    """
    chosen = np.where(np.arange(k) < sizes[:, None], np.arange(k), -1)
    large = np.flatnonzero(sizes > k)
    n_rows = max(1, _PICKS // max(k, 1))
    for start in range(0, len(large), n_rows):
        rows = large[start : start + n_rows]
        chosen[rows] = _floyd(key[rows], sizes[rows], k).T
    return chosen


def _floyd(key: Array, sizes: Ints, k: int) -> Ints:
    """Floyd's `k` indices below `sizes [n]`, `[k, n]`, in as few bytes as hold them: half of the time is comparing."""
    steps = np.arange(k)[:, None]
    last = sizes - k + steps
    picks = below(key ^ mix(steps.astype(np.uint64)), last + 1)
    width = np.int16 if sizes.max() < 1 << 15 else np.int64
    last, picks = last.astype(width), picks.astype(width)
    for step in range(1, k):
        taken: Bools = (picks[:step] == picks[step]).any(0)
        np.copyto(picks[step], last[step], where=taken)
    return picks
