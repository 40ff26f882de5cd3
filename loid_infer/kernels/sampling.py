"""Counter-based random numbers: a draw depends on its key only, not on row order, batch or earlier draws."""

from __future__ import annotations

import numpy as np

from loid_infer.types import Array, Bools, Ints

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 16_384  # words per block: three times as fast while a block stays in a core's cache


def mix(values: Array) -> Array:
    """SplitMix64's output, a bijection, for the states `values [..]` uint64 (Steele, Lea, Flood 2014, figure 17)."""
    with np.errstate(over="ignore"):
        z = values + _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: Array = z ^ (z >> np.uint64(31))
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
    upper = mix(key) >> np.uint64(32)
    return ((upper * bounds.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def choose(key: Array, sizes: Ints, k: int) -> Ints:
    """`min(sizes, k)` different indices below `sizes [n]` for each key `[n]`, as `[n, k]` int64 padded with -1.

    All indices, ascending, where there are at most `k`; else Floyd's algorithm (Bentley & Floyd 1987): every subset of
    size `k` is equally likely, in k draws without rejection.
    """
    chosen = np.where(np.arange(k) < sizes[:, None], np.arange(k), -1)
    large = np.flatnonzero(sizes > k)
    if not large.size:
        return chosen
    key, sizes = key[large], sizes[large]
    picks = np.empty((k, len(large)), np.int64)  # so that each step works on contiguous arrays
    for step in range(k):
        last = sizes - k + step
        pick = below(key ^ mix(np.array([step], np.uint64)), last + 1)
        taken: Bools = np.zeros(len(sizes), bool)
        for earlier in picks[:step]:
            taken |= earlier == pick
        picks[step] = np.where(taken, last, pick)
    chosen[large] = picks.T
    return chosen
