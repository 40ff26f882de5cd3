"""A LoID head as a value, and what it predicts with: projected histories, so that a pair costs no projection.

This file knows codes and tensors; files and id strings are `saved`'s, training is `training`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loid_infer.data.histories import CodePairs, Histories, Lists
from loid_infer.heads.foundation import Foundation, summed
from loid_infer.heads.loid import Exchange, LoidNet
from loid_infer.heads.presets import HeadSettings
from loid_infer.heads.tokens import Tokens, TokenScale
from loid_infer.types import Bools, Floats, Interactions, Ints

_STEP = 8_192  # pairs, or reviews, worked on at a time
_EVALUATION = -1  # the "epoch" of draws that are not for training


@dataclass(frozen=True, slots=True)
class LoidHead:
    """Everything that was learnt."""

    settings: HeadSettings
    scale: TokenScale
    foundation: Foundation
    net: LoidNet
    share: float  # of the network's output that is added to the foundation, 0..1
    seed: int  # of history draws


def known(interactions: Interactions, train: Bools, users: Ints, items: Ints) -> tuple[Ints, Ints]:
    """Codes `[n]` of users and of items, -1 for those without a review in `train` and for those that are -1."""
    seen_users = np.bincount(interactions.users[train], minlength=len(interactions.user_ids) + 1) > 0
    seen_items = np.bincount(interactions.items[train], minlength=len(interactions.item_ids) + 1) > 0
    return np.where(seen_users[users], users, -1), np.where(seen_items[items], items, -1)  # -1 finds the one too many


class _Side:
    """The listed reviews of one side, projected: keys and values `[m, width]`, and the readout `[m + 1]`."""

    def __init__(self, exchange: Exchange, lists: Lists, tokens: Tokens, weights: Floats, device: str) -> None:
        m, self.exchange = len(lists.reviews), exchange
        self.keys, self.values = torch.zeros(2, max(m, 1), exchange.key.out_features, device=device)
        readout = torch.zeros(m + 1)  # the last is what place -1 finds
        on_token = torch.from_numpy(weights).float()
        for start in range(0, m, _STEP):
            rows = slice(start, start + _STEP)
            part = tokens.take(lists.reviews[rows])
            readout[:m][rows] = part @ on_token
            part = part.to(device)
            self.keys[rows], self.values[rows] = exchange.key(part), exchange.value(part)
        self.readout: Floats = readout.double().numpy()

    def attend(self, ids: Tensor, places: Ints) -> Tensor:
        """`[n, width]` from ID embeddings `[n, width]` and histories `[n, k]`.

        Histories of like length go together, so that little is gathered to be masked.
        """
        counts = (places >= 0).sum(1)
        order = np.argsort(counts, kind="stable")
        found = torch.empty_like(ids)
        start = 0
        for bound in _bounds(int(counts.max(initial=0))):
            end = int(np.searchsorted(counts[order], bound, side="right"))
            if end > start:
                rows = order[start:end]
                here = torch.from_numpy(_packed(places[rows], bound)).to(ids.device)
                at = here.clamp(min=0).flatten()
                shape = (len(rows), bound, -1)
                keys, values = (part.index_select(0, at).view(shape) for part in (self.keys, self.values))
                index = torch.from_numpy(rows).to(ids.device)
                found[index] = self.exchange.attend(ids[index], keys, values, here >= 0)
            start = end
        return found


class LoidPredictor:
    """A `baselines.Head`: a LoID head with the histories and vectors it looks at.

    A pair's history is all there is up to `max_history` reviews, else a draw fixed by (seed, pair).
    """

    def __init__(self, head: LoidHead, histories: Histories, tokens: Tokens, device: str = "cpu") -> None:
        """Project the histories.

        Args:
            device: cpu | cuda, where the network computes; the head's own moves there.
        """
        self.head, self.histories, self._device = head, histories, device
        net = head.net.eval().to(device)
        with torch.inference_mode():
            self._user = _Side(net.of_user, histories.by_user, tokens, head.foundation.on_user, device)
            self._item = _Side(net.of_item, histories.by_item, tokens, head.foundation.on_item, device)

    def predict(self, pairs: CodePairs) -> Floats:
        """See `Head`."""
        below, above = self.parts(pairs, with_network=self.head.share > 0)
        return below + self.head.share * above

    def parts(self, pairs: CodePairs, *, with_network: bool = True) -> tuple[Floats, Floats]:
        """The foundation's rating and what the network would add (0 without it), `[n]` float64 each."""
        n = len(pairs.users)
        below, above = np.zeros(n), np.zeros(n)
        with torch.inference_mode():
            for start in range(0, n, _STEP):
                rows = slice(start, start + _STEP)
                times = None if pairs.timestamps is None else pairs.timestamps[rows]
                part = CodePairs(pairs.users[rows], pairs.items[rows], pairs.texts[rows], times)
                below[rows], above[rows] = self._step(part, with_network)
        return below, above

    def _step(self, pairs: CodePairs, with_network: bool) -> tuple[Floats, Floats | float]:
        foundation, net = self.head.foundation, self.head.net
        of_user, of_item = self.histories.draw(pairs, self.head.settings.max_history, self.head.seed, _EVALUATION)
        user_bias, item_bias = foundation.user_bias[pairs.users], foundation.item_bias[pairs.items]
        text = summed(self._user.readout, of_user) + summed(self._item.readout, of_item)
        below = foundation.below(user_bias, item_bias, text)
        if not with_network:
            return below, 0.0
        # Code -1 is the last row of the embeddings.
        codes = pairs.users % net.users.num_embeddings, pairs.items % net.items.num_embeddings
        p_user, p_item = net.embeddings(*(torch.from_numpy(part).to(self._device) for part in codes))
        found = self._item.attend(p_user, of_item), self._user.attend(p_item, of_user)
        biases = torch.from_numpy(foundation.bias_features(user_bias, item_bias)).float().to(self._device)
        return below, net.rate(net.exchanged(p_user, p_item, *found), biases).double().cpu().numpy()


def _bounds(longest: int) -> list[int]:
    bounds, bound = [], 1
    while bound < longest:
        bounds.append(bound)
        bound += max(1, bound // 2)  # 1 2 3 4 6 9 13 19 28 ..
    return [*bounds, max(longest, 1)]


def _packed(places: Ints, k: int) -> Ints:
    """The places that are not -1 first, `[n, k]`."""
    if places.shape[1] == k:
        return places
    holes = places[:, :k] < 0
    if (holes & (places[:, k:] >= 0).any(1, keepdims=True)).any():
        places = np.take_along_axis(places, np.argsort(places < 0, axis=1, kind="stable"), 1)
    return np.ascontiguousarray(places[:, :k])
