"""LoID's head: attention of one query over k vectors and a slot for "nothing" (eq. 6 and 7), triplet loss (eq. 8)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def absorbed(
    query: Tensor, tokens: Tensor, mask: Tensor, key: Tensor, value: Tensor, slot: tuple[Tensor, Tensor]
) -> Tensor:
    """Attention `[n, h, c]` over `tokens [n, k, x]` without projecting the tokens.

    The key projection is applied to the query, `q . (K x) = (K^T q) . x`, and the value projection after the weighted
    sum, `sum w (V x) = V (sum w x)`. Equal to `projected` on projected tokens, with two projections per sample instead
    of two per token.

    Args:
        query: `[n, h, c]`, projected.
        mask: `[n, k]`, true for a token.
        key, value: `[h, c, x]`, projections without bias.
        slot: logits `[n, h]` and values `[h, c]` of the slot for "nothing".
    """
    projected_query = torch.einsum("nhc,hcx->nhx", query, key)
    weights = _weights(torch.bmm(projected_query, tokens.transpose(1, 2)), mask, slot[0], query.shape[-1])
    averaged = torch.bmm(weights[:, :, :-1], tokens)
    return torch.einsum("nhx,hcx->nhc", averaged, value) + weights[:, :, -1:] * slot[1]


def projected(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, slot: tuple[Tensor, Tensor]) -> Tensor:
    """Attention `[n, h, c]` over projected `keys` and `values`, `[n, k, h, c]` each (Vaswani et al. 2017, eq. 1)."""
    logits = (keys * query[:, None]).sum(-1).transpose(1, 2)
    weights = _weights(logits, mask, slot[0], query.shape[-1])
    return (weights[:, :, :-1].transpose(1, 2)[..., None] * values).sum(1) + weights[:, :, -1:] * slot[1]


def _weights(logits: Tensor, mask: Tensor, slot_logits: Tensor, dim: int) -> Tensor:
    scaled = (logits / math.sqrt(dim)).masked_fill(~mask[:, None], -math.inf)
    return torch.cat([scaled, slot_logits[:, :, None]], 2).softmax(2)


def negatives(ids: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """For every row of the batch a random row with another id `[n]`, and whether there is one, bools `[n]`.

    The draw, from `uniform [n]` in `[0, 1)`, is uniform over the rows with another of the integers `ids [n]`: after
    sorting by id, those outside the row's own run.
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
