"""The LoID network (eq. 6 to 10): attention over cached review vectors, crossed between user and item.

This file knows tensors and parameters: no ids, no files, no training loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loid_infer.errors import BadSetting
from loid_infer.heads.presets import HeadSettings
from loid_infer.kernels.attention import absorbed, projected
from loid_infer.kernels.triplet import negatives, triplet

N_BIAS_FEATURES = 4


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The four vectors `[n, width]` eq. 8 and 9 speak of, and what `default` reads beside them."""

    v_user: Tensor
    v_item: Tensor
    p_user: Tensor
    p_item: Tensor
    product: Tensor  # [n, width] of what was found in both histories, before the residual; [n, 0] in `paper`


class Exchange(nn.Module):
    """One side of eq. 7: an ID embedding looks at the other side's reviews.

    The preset `default` has a slot for "nothing" with a learnt weight beside the reviews, so that one review says less
    than ten; in `paper` the slot counts only where there is no review at all.
    """

    def __init__(self, settings: HeadSettings, width: int, token_dim: int) -> None:
        super().__init__()
        self.n_heads, self.attention, self.nothing_beside = settings.n_heads, settings.attention, settings.residual
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(token_dim, width, bias=False)
        self.value = nn.Linear(token_dim, width, bias=False)
        self.out = nn.Linear(width, width)
        self.nothing = nn.Parameter(torch.zeros(width))
        self.nothing_logit = nn.Parameter(torch.full((self.n_heads,), 2.0))

    def forward(self, ids: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """`[n, width]` from ID embeddings `[n, width]` and tokens `[n, k, token_dim]` where `mask [n, k]`."""
        key, value = (part.weight.view(self.n_heads, -1, part.in_features) for part in (self.key, self.value))
        return self._out(absorbed(self._queries(ids), tokens, mask, key, value, self._slot(mask)))

    def attend(self, ids: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """The same as `forward` from projected tokens `[n, k, width]`."""
        slot = self._slot(mask)
        return self._out(projected(self._queries(ids), self._heads(keys), self._heads(values), mask, slot))

    def _queries(self, ids: Tensor) -> Tensor:
        return self._heads(self.query(ids) if self.attention else torch.zeros_like(ids))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.n_heads, -1)

    def _slot(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        logit = self.nothing_logit.expand(len(mask), -1)
        if not self.nothing_beside:
            logit = torch.where(mask.any(1, keepdim=True), -math.inf, logit)
        return logit, self._heads(self.nothing)

    def _out(self, attended: Tensor) -> Tensor:
        found: Tensor = self.out(attended.flatten(1))
        return found


class LoidNet(nn.Module):
    """ID embeddings, both exchanges, and the MLP of eq. 9.

    In `default` the exchanges have a residual, and beside the MLP stands a linear part. That reads the product of what
    both histories say, too: a taste counts as much as the item is good at it, which an MLP over both, side by side,
    does not find.
    """

    def __init__(self, settings: HeadSettings, n_users: int, n_items: int, vector_dim: int, token_dim: int) -> None:
        """Random weights.

        Raises:
            BadSetting: the number of attention heads does not divide the width.
        """
        super().__init__()
        width, self.with_ids = settings.width or vector_dim, settings.ids
        if width % settings.n_heads:
            raise BadSetting(
                "attention heads must share its width evenly",
                where="--n-heads",
                expected=f"a divisor of {width}",
                got=str(settings.n_heads),
                fix="Leave --n-heads out for 4.",
            )
        self.users, self.items = nn.Embedding(n_users + 1, width), nn.Embedding(n_items + 1, width)  # last: unknown
        self.of_user, self.of_item = Exchange(settings, width, token_dim), Exchange(settings, width, token_dim)
        normed = nn.LayerNorm if settings.residual else nn.Identity
        self.norm_user, self.norm_item = normed(width), normed(width)
        self.norm_found = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)] if settings.product else [])
        self.residual = settings.residual
        n_inputs = 2 * width + (N_BIAS_FEATURES if settings.with_biases else 0)
        n_products = width if settings.product else 0
        self.hidden = nn.Sequential(
            nn.Dropout(settings.dropout), nn.Linear(n_inputs, width), nn.GELU(), nn.Dropout(settings.dropout)
        )
        self.last = nn.Linear(width, 1)
        self.linear = nn.Linear(n_inputs + n_products, 1) if settings.with_biases else None
        for embedding in (self.users, self.items):
            nn.init.normal_(embedding.weight, std=0.02)
        if self.linear is not None:  # starts as nothing on top of the biases
            for layer in (self.last, self.linear):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def embeddings(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """`p_u` and `p_i`, `[n, width]` each, of codes `[n]`; everyone is unknown to a head without IDs."""
        if not self.with_ids:
            users = torch.full_like(users, self.users.num_embeddings - 1)
            items = torch.full_like(items, self.items.num_embeddings - 1)
        return self.users(users), self.items(items)

    def exchange(
        self, users: Tensor, items: Tensor, of_user: tuple[Tensor, Tensor], of_item: tuple[Tensor, Tensor]
    ) -> Exchanged:
        """Eq. 7 for codes `[n]` and both histories as (tokens `[n, k, token_dim]`, mask `[n, k]`)."""
        p_user, p_item = self.embeddings(users, items)
        return self.exchanged(p_user, p_item, self.of_item(p_user, *of_item), self.of_user(p_item, *of_user))

    def exchanged(self, p_user: Tensor, p_item: Tensor, in_items: Tensor, in_users: Tensor) -> Exchanged:
        """The same from ID embeddings and what they found in the histories of item and user, `[n, width]` each."""
        v_user, v_item = (in_items + p_user, in_users + p_item) if self.residual else (in_items, in_users)
        product = p_user[:, :0]
        if self.norm_found:
            product = self.norm_found[0](in_items) * self.norm_found[1](in_users)
        return Exchanged(self.norm_user(v_user), self.norm_item(v_item), p_user, p_item, product)

    def rate(self, exchanged: Exchanged, biases: Tensor) -> Tensor:
        """Eq. 9: what the network adds to its base, `[n]`, from what was exchanged and bias features `[n, 4]`."""
        if self.linear is None:
            inputs = torch.cat([exchanged.v_user, exchanged.v_item], 1)
            rating: Tensor = self.last(self.hidden(inputs))
        else:
            inputs = torch.cat([exchanged.v_user, exchanged.v_item, biases], 1)
            rating = self.last(self.hidden(inputs)) + self.linear(torch.cat([inputs, exchanged.product], 1))
        return rating[:, 0]


def triplet_loss(exchanged: Exchanged, users: Tensor, items: Tensor, draws: Tensor, settings: HeadSettings) -> Tensor:
    """Mean of eq. 8 over the rows that have a negative in their batch.

    Args:
        draws: `[2, n]` in `[0, 1)`, one for each negative.
    """
    unit = nn.functional.normalize if settings.unit_triplet else (lambda x: x)
    p_user, p_item = unit(exchanged.p_user), unit(exchanged.p_item)
    total = p_user.new_zeros(())
    for anchor, positive, ids, draw in (
        (unit(exchanged.v_item), p_user, users, draws[0]),
        (unit(exchanged.v_user), p_item, items, draws[1]),
    ):
        rows, found = negatives(ids, draw)
        # index_select and not [rows]: the gradient of the latter is summed in an order that differs from run to run.
        losses = triplet(anchor, positive, positive.index_select(0, rows), settings.margin)
        total = total + (losses * found).sum() / found.sum().clamp(min=1)
    return total
