"""How several deltas of one tensor become one: linear, DARE, TIES, and both.

DARE: Yu et al. 2023, "Language Models are Super Mario" (arXiv 2311.03099). TIES: Yadav et al. 2023, "TIES-Merging"
(arXiv 2306.01708). Of deltas, never of the factors A and B: merging those leaves cross terms B_i A_j.

Sums run in float64 in the order given and are rounded to float32 by the caller, once. This file knows neither plugins
nor where a mask's words come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from loid_infer.types import Array, Bools, Floats


def linear(deltas: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """`sum w_i d_i`, float64 `[..]`: the sum of LoID eq. 5 (task arithmetic, Ilharco et al. 2023, with weights).

    Args:
        deltas: arrays of one shape `[..]`.
        weights: one each.
    """
    total = np.zeros(deltas[0].shape)
    for delta, weight in zip(deltas, weights, strict=True):
        total += weight * delta.astype(np.float64)
    return total


def kept(words: Array, density: float) -> Bools:
    """Which entries survive, each with probability `density`: `m ~ Bernoulli(q)`, by the upper 53 bits of a word.

    Args:
        words: `[n]` uint64, independent and even.
    """
    survives: Bools = (words >> np.uint64(11)) < np.uint64(math.ceil(density * 2.0**53))
    return survives


def drop_and_rescale(delta: Floats, keep: Bools, density: float) -> Floats:
    """`m d / q`, float64, with `q = 1 - p`: DARE's drop and rescale (Yu et al., section 3).

    Its mean over masks is `d`.
    """
    thinned: Floats = np.where(keep, delta.astype(np.float64) / density, 0.0)
    return thinned


def trim(delta: Floats, density: float) -> Floats:
    """The `ceil(q n)` largest of the `n` entries by magnitude, the others zero: TIES' Algorithm 1, step 1.

    Of equal magnitudes the lower flat index is kept. The density is taken as the decimal it is written as: 0.07 of 100
    entries are 7, although the product of floats is above.
    """
    size = np.abs(delta).reshape(-1)
    n_kept = min(math.ceil(Fraction(repr(float(density))) * size.size), size.size)
    if n_kept == size.size:
        return delta
    bound = np.partition(size, size.size - n_kept)[size.size - n_kept]
    keep = size > bound
    equal = np.flatnonzero(size == bound)
    keep[equal[: n_kept - np.count_nonzero(keep)]] = True
    trimmed: Floats = np.where(keep.reshape(delta.shape), delta, delta.dtype.type(0))
    return trimmed


def elect(parts: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """By entry the mean of those `w_i t_i` whose sign is that of `sum w_i t_i`, float64.

    TIES' Algorithm 1, steps 2 and 3, weighted: `sum over sign(w_i t_i) = g of w_i t_i / sum over the same of |w_i|`,
    `g = sign(sum w_i t_i)`; where g is 0, 0.

    Args:
        parts: `t_i`, arrays of one shape `[..]`, trimmed or dropped.
        weights: `w_i`, none of them 0.
    """
    sign = np.sign(linear(parts, weights))
    total, share = np.zeros(sign.shape), np.zeros(sign.shape)
    for part, weight in zip(parts, weights, strict=True):
        weighted = weight * part.astype(np.float64)
        agrees = np.sign(weighted) == sign
        total += np.where(agrees, weighted, 0.0)
        share += np.where(agrees, abs(weight), 0.0)
    merged: Floats = np.divide(total, share, out=np.zeros(sign.shape), where=sign != 0)
    return merged
