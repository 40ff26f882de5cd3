"""The LoID network (eq. 6 to 10): cross-attention of IDs over review vectors, and an MLP; its predictions.

Attribute names of modules and parameters are tensor names in saved heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from loid_infer.data.histories import CodePairs, Histories
from loid_infer.errors import BadSetting
from loid_infer.heads.foundation import PRIOR_REVIEWS, Foundation, shrunk_mean
from loid_infer.heads.presets import HeadSettings
from loid_infer.heads.tokens import Tokens, TokenScale
from loid_infer.kernels.crossing import Attention, crossed
from loid_infer.kernels.loid import negatives, projected, triplet
from loid_infer.kernels.threads import Workers, workers
from loid_infer.types import Bools, Floats, Interactions, Ints

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")
_STEP = 8_192  # pairs or reviews per batch of predictions
EVALUATION = -1  # "epoch" of draws outside of training


@dataclass(frozen=True, slots=True)
class Features:
    """The vectors `[n, width]` of eq. 8 and 9, and the product that `default` uses."""

    v_user: Tensor
    v_item: Tensor
    p_user: Tensor
    p_item: Tensor
    product: Tensor  # [n, width], of both attention outputs before the residual connection; [n, 0] in `paper`


class CrossAttention(nn.Module):
    """One half of eq. 7: an ID embedding attends to the reviews of the other side.

    In the preset `default` there is a null slot with a learned weight beside the reviews, so that one review counts
    less than ten. In `paper` the slot is used only if there is no review.
    """

    def __init__(self, settings: HeadSettings, width: int, token_dim: int) -> None:
        super().__init__()
        self.n_heads, self.attention, self.always_null_slot = settings.n_heads, settings.attention, settings.residual
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(token_dim, width, bias=False)
        self.value = nn.Linear(token_dim, width, bias=False)
        self.out = nn.Linear(width, width)
        self.nothing = nn.Parameter(torch.zeros(width))
        self.nothing_logit = nn.Parameter(torch.full((self.n_heads,), 2.0))

    def over(self, ids: Tensor, tokens: Tensor, mask: Tensor) -> Attention:
        """The attention of ID embeddings `[n, width]` over tokens `[n, k, token_dim]` where `mask [n, k]`."""
        key, value = (part.weight.view(self.n_heads, -1, part.in_features) for part in (self.key, self.value))
        return Attention(self._queries(ids), tokens, mask, key, value, *self._slot(mask))

    def output(self, attended: Tensor) -> Tensor:
        """`[n, width]` from the result of an attention `[n, h, c]`."""
        output: Tensor = self.out(attended.flatten(1))
        return output

    def attend_projected(self, ids: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """The output of `over` with projected tokens `[n, k, width]`."""
        slot = self._slot(mask)
        return self.output(projected(self._queries(ids), self._heads(keys), self._heads(values), mask, slot))

    def _queries(self, ids: Tensor) -> Tensor:
        return self._heads(self.query(ids) if self.attention else torch.zeros_like(ids))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.n_heads, -1)

    def _slot(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        logit = self.nothing_logit.expand(len(mask), -1)
        if not self.always_null_slot:
            logit = torch.where(mask.any(1, keepdim=True), -math.inf, logit)
        return logit, self._heads(self.nothing)


class LoidNet(nn.Module):
    """ID embeddings, both cross-attentions, and the MLP of eq. 9.

    In `default` there are residual connections, and a linear layer beside the MLP, which also gets the elementwise
    product of both attention outputs (see docs/head.md).
    """

    def __init__(self, settings: HeadSettings, n_users: int, n_items: int, vector_dim: int, token_dim: int) -> None:
        """Initialize the weights from torch's generator.

        Raises:
            BadSetting: the width is not divisible by the number of attention heads.
        """
        super().__init__()
        width, self.with_ids = settings.width or vector_dim, settings.ids
        if width % settings.n_heads:
            expected, got = f"a divisor of {width}", str(settings.n_heads)
            fix = f"Give --n-heads {math.gcd(width, settings.n_heads)}."
            raise BadSetting("unsuitable number of heads", where="--n-heads", expected=expected, got=got, fix=fix)
        self.users, self.items = nn.Embedding(n_users + 1, width), nn.Embedding(n_items + 1, width)  # the last: unknown
        self.of_user, self.of_item = (CrossAttention(settings, width, token_dim) for _ in range(2))
        norm = nn.LayerNorm if settings.residual else nn.Identity
        self.norm_user, self.norm_item = norm(width), norm(width)
        self.norm_found = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)] if settings.product else [])
        self.residual = settings.residual
        n_inputs = 2 * width + (4 if settings.with_biases else 0)  # see `Foundation.bias_features`
        n_products = width if settings.product else 0
        self.hidden = nn.Sequential(
            nn.Dropout(settings.dropout), nn.Linear(n_inputs, width), nn.GELU(), nn.Dropout(settings.dropout)
        )
        self.last = nn.Linear(width, 1)
        self.linear = nn.Linear(n_inputs + n_products, 1) if settings.with_biases else None
        for embedding in (self.users, self.items):
            nn.init.normal_(embedding.weight, std=0.02)
        if self.linear is not None:  # initially the prediction is that of the biases
            for layer in (self.last, self.linear):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def embeddings(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """`p_u` and `p_i`, `[n, width]` each, of codes `[n]`; without IDs, those of an unknown user and item."""
        if not self.with_ids:
            users = torch.full_like(users, self.users.num_embeddings - 1)
            items = torch.full_like(items, self.items.num_embeddings - 1)
        return self.users(users), self.items(items)

    def attend(
        self,
        users: Tensor,
        items: Tensor,
        user_reviews: tuple[Tensor, Tensor],
        item_reviews: tuple[Tensor, Tensor],
        workers: Workers | None = None,
    ) -> Features:
        """Eq. 7 for codes `[n]` and both histories as (tokens `[n, k, token_dim]`, mask `[n, k]`)."""
        p_user, p_item = self.embeddings(users, items)
        attentions = self.of_item.over(p_user, *item_reviews), self.of_user.over(p_item, *user_reviews)
        of_item, of_user = crossed(attentions, workers or Workers())
        return self.features(p_user, p_item, self.of_item.output(of_item), self.of_user.output(of_user))

    def features(self, p_user: Tensor, p_item: Tensor, item_output: Tensor, user_output: Tensor) -> Features:
        """Features from ID embeddings and attention outputs over item and user reviews, `[n, width]` each."""
        v_user, v_item = (item_output + p_user, user_output + p_item) if self.residual else (item_output, user_output)
        product = p_user[:, :0]
        if self.norm_found:
            product = self.norm_found[0](item_output) * self.norm_found[1](user_output)
        return Features(self.norm_user(v_user), self.norm_item(v_item), p_user, p_item, product)

    def predict(self, features: Features, biases: Tensor) -> Tensor:
        """The output of the network (eq. 9), `[n]`, from features and bias features `[n, 4]`."""
        if self.linear is None:
            inputs = torch.cat([features.v_user, features.v_item], 1)
            rating: Tensor = self.last(self.hidden(inputs))
        else:
            inputs = torch.cat([features.v_user, features.v_item, biases], 1)
            rating = self.last(self.hidden(inputs)) + self.linear(torch.cat([inputs, features.product], 1))
        return rating[:, 0]


def triplet_loss(features: Features, users: Tensor, items: Tensor, draws: Tensor, settings: HeadSettings) -> Tensor:
    """Mean of eq. 8 over the rows with a negative in the batch; `draws [2, n]` in `[0, 1)` select the negatives."""
    unit = nn.functional.normalize if settings.unit_triplet else (lambda x: x)
    p_user, p_item = unit(features.p_user), unit(features.p_item)
    total = p_user.new_zeros(())
    for anchor, positive, ids, draw in (
        (unit(features.v_item), p_user, users, draws[0]),
        (unit(features.v_user), p_item, items, draws[1]),
    ):
        rows, exists = negatives(ids, draw)
        # The gradient of `[rows]` is summed in an order that differs between runs; that of index_select is not.
        losses = triplet(anchor, positive, positive.index_select(0, rows), settings.margin)
        total = total + (losses * exists).sum() / exists.sum().clamp(min=1)
    return total


@dataclass(frozen=True, slots=True)
class LoidHead:
    """All learned parameters, and the settings."""

    settings: HeadSettings
    scale: TokenScale
    foundation: Foundation
    net: LoidNet
    share: float  # of the network's output that is added to the foundation, 0..1
    seed: int  # of history draws


def known_ids(interactions: Interactions, train: Bools) -> tuple[Bools, Bools]:
    """Which users `[n_users + 1]` and items `[n_items + 1]` have reviews in `train`; the last, code -1, has none."""
    users = np.bincount(interactions.users[train], minlength=len(interactions.user_ids) + 1) > 0
    return users, np.bincount(interactions.items[train], minlength=len(interactions.item_ids) + 1) > 0


def mask_unknown(known: tuple[Bools, Bools], users: Ints, items: Ints) -> tuple[Ints, Ints]:
    """Replace the codes `[n]` of users and items that are not `known` by -1; -1 stays -1."""
    return np.where(known[0][users], users, -1), np.where(known[1][items], items, -1)


class _Reviews:
    """The history reviews of one side: keys and values `[m, width]`, and the readout `[m + 1]`, in the lists' order."""

    def __init__(self, attention: CrossAttention, n: int, weights: Floats, device: str, *, with_network: bool) -> None:
        self.attention = attention if with_network else None
        shape = (max(n, 1), attention.key.out_features) if with_network else (0, 0)
        self.keys, self.values = (torch.zeros(shape, device=device) for _ in range(2))
        self.readout: Floats = np.zeros(n + 1)  # the last is 0, for index -1
        self.means: Floats = np.zeros(0)  # [n_groups + 1], of whole lists, see `set_means`
        self._weights, self._device = torch.from_numpy(weights).float(), device

    def set(self, at: Ints, tokens: Tensor) -> None:
        """Compute the reviews at the positions `at [n]` from their tokens `[n, token_dim]`."""
        self.readout[at] = (tokens @ self._weights).numpy()
        if self.attention is not None:
            index, tokens = torch.from_numpy(at).to(self._device), tokens.to(self._device)
            self.keys[index], self.values[index] = self.attention.key(tokens), self.attention.value(tokens)

    def set_means(self, starts: Ints) -> None:
        """Compute the shrunk mean of each whole list, in the order of `starts [n_groups + 2]`; of the last it is 0."""
        sizes = np.diff(starts)
        of_list = np.repeat(np.arange(len(sizes)), sizes)
        sums = np.bincount(of_list, self.readout[:-1], minlength=len(sizes))
        self.means = sums / (sizes + PRIOR_REVIEWS)

    def attend(self, ids: Tensor, histories: Ints) -> Tensor:
        """Attention outputs `[n, width]` from ID embeddings `[n, width]` and histories `[n, k]`.

        Pairs are grouped by the length of the history, to gather little padding.
        """
        attention = self.attention
        assert attention is not None, "the network's share is 0"
        counts = (histories >= 0).sum(1)
        order = np.argsort(counts, kind="stable")
        output = torch.empty_like(ids)
        start = 0
        for bound in _bounds(int(counts.max(initial=0))):
            end = int(np.searchsorted(counts[order], bound, side="right"))
            if end > start:
                rows = order[start:end]
                packed = torch.from_numpy(_packed(histories[rows], bound)).to(ids.device)
                reviews = packed.clamp(min=0).flatten()
                shape = (len(rows), bound, -1)
                keys, values = (part.index_select(0, reviews).view(shape) for part in (self.keys, self.values))
                index = torch.from_numpy(rows).to(ids.device)
                output[index] = attention.attend_projected(ids[index], keys, values, packed >= 0)
            start = end
        return output


class LoidPredictor:
    """Implements `baselines.Head`: a LoID head with its histories and vectors.

    Histories longer than `max_history` reviews are sampled by (seed, pair).
    """

    def __init__(
        self,
        head: LoidHead,
        histories: Histories,
        tokens: Tokens,
        device: str = "cpu",
        *,
        with_network: bool = True,
        workers: Workers | None = None,
    ) -> None:
        """Compute the histories' reviews, each read once. The network of `head` is moved to `device` (cpu | cuda).

        Without `workers`, which must not end before, it takes its own.
        """
        self.head, self.histories, self._device, self._workers = head, histories, device, workers
        net, foundation, reviews = head.net.eval().to(device), head.foundation, histories.by_user.reviews
        # Both sides list the same reviews.
        of_user, of_item = (np.argsort(part.reviews, kind="stable") for part in (histories.by_user, histories.by_item))
        n = len(reviews)
        self._user = _Reviews(net.of_user, n, foundation.on_user, device, with_network=with_network)
        self._item = _Reviews(net.of_item, n, foundation.on_item, device, with_network=with_network)

        def step(start: int) -> None:
            rows = slice(start, start + _STEP)
            part = tokens.take(reviews[of_user[rows]])
            self._user.set(of_user[rows], part)
            self._item.set(of_item[rows], part)

        self._on_threads(step, range(0, n, _STEP))
        for part, lists in ((self._user, histories.by_user), (self._item, histories.by_item)):
            part.set_means(lists.starts)

    def predict(self, pairs: CodePairs) -> Floats:
        """See `Head`."""
        base, network = self.components(pairs, with_network=self.head.share > 0)
        return base + self.head.share * network

    def components(self, pairs: CodePairs, *, with_network: bool = True) -> tuple[Floats, Floats]:
        """Ratings of the foundation and output of the network (0 without it), `[n]` float64 each."""
        steps = [pairs.take(slice(start, start + _STEP)) for start in range(0, len(pairs.users), _STEP)]
        parts = self._on_threads(lambda step: self._step(step, with_network=with_network), steps)
        base, network = ([np.zeros(0), *part] for part in zip(*parts, strict=True)) if parts else ([np.zeros(0)],) * 2
        return np.concatenate(base), np.concatenate(network)

    def _on_threads(self, function: Callable[[_Job], _Result], jobs: Sequence[_Job]) -> list[_Result]:
        """`function` of each of `jobs`, on the threads of a training or our own."""

        def inferred(job: _Job) -> _Result:
            with torch.inference_mode():
                return function(job)

        if self._workers is not None:
            return self._workers.map(inferred, jobs)
        with workers() as threads:
            return threads.map(inferred, jobs)

    def _step(self, pairs: CodePairs, *, with_network: bool) -> tuple[Floats, Floats]:
        foundation, net = self.head.foundation, self.head.net
        user_bias, item_bias = foundation.user_bias[pairs.users], foundation.item_bias[pairs.items]
        if not with_network:
            text = self._text(pairs, of_item=False) + self._text(pairs, of_item=True)
            return foundation.predict(user_bias, item_bias, text), np.zeros(len(text))
        max_history, seed = self.head.settings.max_history, self.head.seed
        user_histories, item_histories = self.histories.draw(pairs, max_history, seed, EVALUATION)
        text = shrunk_mean(self._user.readout, user_histories) + shrunk_mean(self._item.readout, item_histories)
        base = foundation.predict(user_bias, item_bias, text)
        # Code -1 becomes the last row of the embeddings.
        codes = pairs.users % net.users.num_embeddings, pairs.items % net.items.num_embeddings
        p_user, p_item = net.embeddings(*(torch.from_numpy(part).to(self._device) for part in codes))
        outputs = self._item.attend(p_user, item_histories), self._user.attend(p_item, user_histories)
        biases = torch.from_numpy(foundation.bias_features(user_bias, item_bias)).float().to(self._device)
        return base, net.predict(net.features(p_user, p_item, *outputs), biases).double().cpu().numpy()

    def _text(self, pairs: CodePairs, *, of_item: bool) -> Floats:
        """The readout `[n]` of the histories of users (of items). Histories that are whole are summed once."""
        reviews, groups = (self._item, pairs.items) if of_item else (self._user, pairs.users)
        k, seed = self.head.settings.max_history, self.head.seed
        text = reviews.means[groups]
        rows = np.flatnonzero(~self.histories.whole(pairs, k, of_item=of_item))
        drawn = self.histories.draw_side(pairs.take(rows), k, seed, EVALUATION, of_item=of_item)
        text[rows] = shrunk_mean(reviews.readout, drawn)
        return text


def _bounds(longest: int) -> list[int]:
    bounds, bound = [], 1
    while bound < longest:
        bounds.append(bound)
        bound += max(1, bound // 2)  # 1 2 3 4 6 9 13 19 28 ..
    return [*bounds, max(longest, 1)]


def _packed(histories: Ints, k: int) -> Ints:
    """Move indices that are not -1 to the front and truncate to `[n, k]`."""
    if histories.shape[1] == k:
        return histories
    missing = histories[:, :k] < 0
    if (missing & (histories[:, k:] >= 0).any(1, keepdims=True)).any():
        histories = np.take_along_axis(histories, np.argsort(histories < 0, axis=1, kind="stable"), 1)
    return np.ascontiguousarray(histories[:, :k])
