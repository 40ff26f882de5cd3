"""The triplet loss of LoID eq. 8 with negatives from the batch."""

from __future__ import annotations

import torch
from torch import Tensor


def negatives(ids: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """For every row of the batch a random row with another id, and whether there is one.

    The draw is uniform over the rows with another id: after sorting by id, those outside the row's own run.

    Args:
        ids: `[n]`, integers.
        uniform: `[n]`, in `[0, 1)`.

    Returns:
        Row numbers `[n]` and bools `[n]`, false where the whole batch has one id.
    """
    n = len(ids)
    ordered, order = ids.sort(stable=True)
    first = torch.searchsorted(ordered, ids)
    count = torch.searchsorted(ordered, ids, right=True) - first
    others = n - count
    draw = (uniform.double() * others).long().clamp(max=n - 1)
    position = (draw + (draw >= first) * count).clamp(max=n - 1)
    return order[position], others > 0


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """`max(0, margin + D(anchor, positive) - D(anchor, negative))` by row, D the squared Euclidean distance.

    Half of LoID eq. 8: once with (v_i, p_u, p_u-) and once with (v_u, p_i, p_i-). All are `[n, d]`, the result `[n]`.
    """
    near = (anchor - positive).square().sum(1)
    far = (anchor - negative).square().sum(1)
    return (margin + near - far).clamp(min=0)
