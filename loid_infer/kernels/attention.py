"""Multi-head attention of one query over k vectors, with one slot more for "nothing" (LoID eq. 6 and 7).

Pure torch functions. This file knows neither users nor items, and no parameters of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def absorbed(
    query: Tensor, tokens: Tensor, mask: Tensor, key: Tensor, value: Tensor, slot: tuple[Tensor, Tensor]
) -> Tensor:
    """Attention `[n, h, c]` over `tokens [n, k, x]` without ever projecting the k tokens.

    The key projection is absorbed into the query, `q . (K x) = (K^T q) . x`, and the value projection is applied after
    the weighted sum, `sum w (V x) = V (sum w x)`: equal to `projected` on projected tokens, at the cost of two
    projections a sample instead of two a token.

    Args:
        query: `[n, h, c]`, projected.
        mask: `[n, k]`, true for a token.
        key: `[h, c, x]`, projection without bias; `value` alike.
        slot: logits `[n, h]` and values `[h, c]` of the slot for "nothing".
    """
    reach = torch.einsum("nhc,hcx->nhx", query, key)
    weights = _weights(torch.bmm(reach, tokens.transpose(1, 2)), mask, slot[0], query.shape[-1])
    mixed = torch.bmm(weights[:, :, :-1], tokens)
    return torch.einsum("nhx,hcx->nhc", mixed, value) + weights[:, :, -1:] * slot[1]


def projected(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, slot: tuple[Tensor, Tensor]) -> Tensor:
    """Attention `[n, h, c]` over projected `keys` and `values`, `[n, k, h, c]` each (Vaswani et al. 2017, eq. 1)."""
    logits = (keys * query[:, None]).sum(-1).transpose(1, 2)
    weights = _weights(logits, mask, slot[0], query.shape[-1])
    return (weights[:, :, :-1].transpose(1, 2)[..., None] * values).sum(1) + weights[:, :, -1:] * slot[1]


def _weights(logits: Tensor, mask: Tensor, nothing: Tensor, width: int) -> Tensor:
    scaled = (logits / math.sqrt(width)).masked_fill(~mask[:, None], -math.inf)
    return torch.cat([scaled, nothing[:, :, None]], 2).softmax(2)
