"""The triplet loss of LoID eq. 8 with negatives from the batch. Pure torch functions; no model, no sampler."""

from __future__ import annotations

import torch
from torch import Tensor


def negatives(ids: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """A row of the batch with another id for every row, each such row equally likely, and whether there is one.

    "A negative that is the same user is not a negative": instead of drawing again until it differs, the draw is made
    among the rows that differ, which lie outside the row's own run once the batch is sorted by id.

    Args:
        ids: `[n]`, whole numbers.
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
