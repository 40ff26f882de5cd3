"""A LoID head, and a predictor that projects every history review once instead of once per pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loid_infer.data.histories import CodePairs, Histories, Lists
from loid_infer.heads.foundation import Foundation, shrunk_mean
from loid_infer.heads.loid import CrossAttention, LoidNet
from loid_infer.heads.presets import HeadSettings
from loid_infer.heads.tokens import Tokens, TokenScale
from loid_infer.types import Bools, Floats, Interactions, Ints

_STEP = 8_192  # pairs or reviews per batch
_EVALUATION = -1  # "epoch" of draws outside of training


@dataclass(frozen=True, slots=True)
class LoidHead:
    """All learned parameters, and the settings."""

    settings: HeadSettings
    scale: TokenScale
    foundation: Foundation
    net: LoidNet
    share: float  # of the network's output that is added to the foundation, 0..1
    seed: int  # of history draws


def mask_unknown(interactions: Interactions, train: Bools, users: Ints, items: Ints) -> tuple[Ints, Ints]:
    """Replace the codes `[n]` of users and items without reviews in `train` by -1; -1 stays -1."""
    known_users = np.bincount(interactions.users[train], minlength=len(interactions.user_ids) + 1) > 0
    known_items = np.bincount(interactions.items[train], minlength=len(interactions.item_ids) + 1) > 0
    # minlength adds one entry, false, which -1 selects.
    return np.where(known_users[users], users, -1), np.where(known_items[items], items, -1)


class _ProjectedReviews:
    """The history reviews of one side: keys and values `[m, width]`, and the readout `[m + 1]`."""

    def __init__(self, attention: CrossAttention, lists: Lists, tokens: Tokens, weights: Floats, device: str) -> None:
        m, self.attention = len(lists.reviews), attention
        self.keys, self.values = torch.zeros(2, max(m, 1), attention.key.out_features, device=device)
        readout = torch.zeros(m + 1)  # the last is 0, for index -1
        token_weights = torch.from_numpy(weights).float()
        for start in range(0, m, _STEP):
            rows = slice(start, start + _STEP)
            part = tokens.take(lists.reviews[rows])
            readout[:m][rows] = part @ token_weights
            part = part.to(device)
            self.keys[rows], self.values[rows] = attention.key(part), attention.value(part)
        self.readout: Floats = readout.double().numpy()

    def attend(self, ids: Tensor, histories: Ints) -> Tensor:
        """Attention outputs `[n, width]` from ID embeddings `[n, width]` and histories `[n, k]`.

        Pairs are grouped by the length of the history, to gather little padding.
        """
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
                output[index] = self.attention.attend_projected(ids[index], keys, values, packed >= 0)
            start = end
        return output


class LoidPredictor:
    """Implements `baselines.Head`: a LoID head with its histories and vectors.

    Histories longer than `max_history` reviews are sampled by (seed, pair).
    """

    def __init__(self, head: LoidHead, histories: Histories, tokens: Tokens, device: str = "cpu") -> None:
        """Project the histories.

        Args:
            device: cpu | cuda; the network of `head` is moved there.
        """
        self.head, self.histories, self._device = head, histories, device
        net = head.net.eval().to(device)
        with torch.inference_mode():
            self._user = _ProjectedReviews(net.of_user, histories.by_user, tokens, head.foundation.on_user, device)
            self._item = _ProjectedReviews(net.of_item, histories.by_item, tokens, head.foundation.on_item, device)

    def predict(self, pairs: CodePairs) -> Floats:
        """See `Head`."""
        base, network = self.components(pairs, with_network=self.head.share > 0)
        return base + self.head.share * network

    def components(self, pairs: CodePairs, *, with_network: bool = True) -> tuple[Floats, Floats]:
        """Ratings of the foundation and output of the network (0 without it), `[n]` float64 each."""
        n = len(pairs.users)
        base, network = np.zeros(n), np.zeros(n)
        with torch.inference_mode():
            for start in range(0, n, _STEP):
                rows = slice(start, start + _STEP)
                times = None if pairs.timestamps is None else pairs.timestamps[rows]
                part = CodePairs(pairs.users[rows], pairs.items[rows], pairs.texts[rows], times)
                base[rows], network[rows] = self._step(part, with_network)
        return base, network

    def _step(self, pairs: CodePairs, with_network: bool) -> tuple[Floats, Floats | float]:
        foundation, net = self.head.foundation, self.head.net
        max_history, seed = self.head.settings.max_history, self.head.seed
        user_histories, item_histories = self.histories.draw(pairs, max_history, seed, _EVALUATION)
        user_bias, item_bias = foundation.user_bias[pairs.users], foundation.item_bias[pairs.items]
        text = shrunk_mean(self._user.readout, user_histories) + shrunk_mean(self._item.readout, item_histories)
        base = foundation.predict(user_bias, item_bias, text)
        if not with_network:
            return base, 0.0
        # Code -1 becomes the last row of the embeddings.
        codes = pairs.users % net.users.num_embeddings, pairs.items % net.items.num_embeddings
        p_user, p_item = net.embeddings(*(torch.from_numpy(part).to(self._device) for part in codes))
        outputs = self._item.attend(p_user, item_histories), self._user.attend(p_item, user_histories)
        biases = torch.from_numpy(foundation.bias_features(user_bias, item_bias)).float().to(self._device)
        return base, net.predict(net.features(p_user, p_item, *outputs), biases).double().cpu().numpy()


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
