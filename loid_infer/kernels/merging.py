"""Merging several weight deltas of one tensor into one: linear, DARE, TIES.

DARE: Yu et al. 2023, "Language Models are Super Mario" (arXiv 2311.03099). TIES: Yadav et al. 2023, "TIES-Merging"
(arXiv 2306.01708). Deltas are merged, not the LoRA factors A and B, which would add cross terms B_i A_j.

Sums are float64, in the order given; the caller rounds to float32 once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from loid_infer.types import Array, Bools, Floats


def linear(deltas: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """`sum w_i d_i` of arrays `[..]`, float64: LoID eq. 5 with weights (task arithmetic, Ilharco et al. 2023)."""
    total = np.zeros(deltas[0].shape)
    for delta, weight in zip(deltas, weights, strict=True):
        total += weight * delta.astype(np.float64)
    return total


def kept(words: Array, density: float) -> Bools:
    """The mask `m ~ Bernoulli(density)`, from the upper 53 bits of independent uniform `words [n]` uint64."""
    mask: Bools = (words >> np.uint64(11)) < np.uint64(math.ceil(density * 2.0**53))
    return mask


def drop_and_rescale(delta: Floats, keep: Bools, density: float) -> Floats:
    """`m d / q`, float64, with `q = 1 - p`: DARE's drop and rescale (Yu et al., section 3). Its expectation is `d`."""
    return np.where(keep, delta.astype(np.float64) / density, 0.0)


def trim(delta: Floats, density: float) -> Floats:
    """`delta` with all but the `ceil(q n)` entries of largest magnitude set to zero: TIES' Algorithm 1, step 1.

    Ties go to the lower flat index. The density is taken as the decimal it is written as: 0.07 of 100 entries are 7,
    although the product of floats is larger.
    """
    magnitudes = np.abs(delta).reshape(-1)
    n = magnitudes.size
    n_kept = min(math.ceil(Fraction(repr(float(density))) * n), n)
    if n_kept == n:
        return delta
    bound = np.partition(magnitudes, n - n_kept)[n - n_kept]
    keep = magnitudes > bound
    equal = np.flatnonzero(magnitudes == bound)
    keep[equal[: n_kept - np.count_nonzero(keep)]] = True
    return np.where(keep.reshape(delta.shape), delta, delta.dtype.type(0))


def elect(parts: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """Per entry the weighted mean of the parts with the sign of the sum, float64: TIES' Algorithm 1, steps 2 and 3.

    With parts `t_i [..]` after `trim` or `drop_and_rescale`, weights `w_i` other than 0, and `g = sign(sum w_i t_i)`:
    the sum of `w_i t_i` over the sum of `|w_i|`, both over all i with `sign(w_i t_i) = g`; 0 where g is 0.
    """
    sign = np.sign(linear(parts, weights))
    total, total_weight = np.zeros(sign.shape), np.zeros(sign.shape)
    for part, weight in zip(parts, weights, strict=True):
        weighted = weight * part.astype(np.float64)
        agrees = np.sign(weighted) == sign
        total += np.where(agrees, weighted, 0.0)
        total_weight += np.where(agrees, abs(weight), 0.0)
    return np.divide(total, total_weight, out=np.zeros(sign.shape), where=sign != 0)
