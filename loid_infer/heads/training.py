"""Fits a LoID head: baselines, foundation, then the network by gradient on what the foundation leaves.

This file knows interactions, a split and vectors; it knows no workspace, no store and no file.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from loid_infer.data.histories import CodePairs, Histories, histories
from loid_infer.heads.baselines import Baselines, fit_baselines, left_out_biases, ratings_of
from loid_infer.heads.foundation import Examples, Foundation, fit_readout, history_readout, no_foundation
from loid_infer.heads.loid import LoidNet, triplet_loss
from loid_infer.heads.model import LoidHead, LoidPredictor
from loid_infer.heads.presets import HeadSettings
from loid_infer.heads.tokens import Tokens, token_scale, tokens_of
from loid_infer.kernels import metrics, sampling
from loid_infer.types import Array, Bools, Floats, Interactions, Ints, Progress, Split, Task

_MIN_VALID = 30  # validation pairs below which a gain has no standard error worth the name
_USER, _ITEM, _ORDER, _ANCHOR = 1, 2, 3, 4  # what a draw is for


@dataclass(frozen=True, slots=True)
class Fitted:
    """A head, what it is compared with, and how its training went."""

    head: LoidHead
    predictor: LoidPredictor
    baselines: Baselines
    epochs: int  # that were run
    best_epoch: int  # whose weights were kept
    samples_per_s: float  # training pairs, without evaluation


@dataclass(frozen=True, slots=True)
class _Data:
    """What does not change while a network trains."""

    settings: HeadSettings
    foundation: Foundation
    train: Examples
    valid: CodePairs
    valid_ratings: Floats
    histories: Histories
    tokens: Tokens
    readout: tuple[Floats, Floats]  # [n], of the user's and of the item's history
    rating_range: tuple[float, float]
    seed: int


def fit_head(
    interactions: Interactions, split: Split, vectors: Floats, settings: HeadSettings, seed: int, progress: Progress
) -> Fitted:
    """The head of LoID section 4 on the vectors `[n_texts, d]`, with early stopping on the validation part.

    The same arguments give the same head, bit for bit, on the same machine. Under `strict` no pair's own review is in
    its history, nor its own rating in its biases.
    """
    ratings, strict = ratings_of(interactions), settings.protocol == "strict"
    train_ratings = ratings.where(split.train)
    baselines = fit_baselines(train_ratings, ratings.where(split.valid), interactions.rating_range, seed)
    drawn = histories(interactions, split.train if strict else np.ones(interactions.n, bool),
                      strict=strict, by_time=split.kind == "time")  # fmt: skip
    tokens = tokens_of(interactions, vectors, token_scale(interactions, split.train, vectors, settings, seed))
    n_users, n_items, x = ratings.n_users, ratings.n_items, tokens.scale.token_dim
    foundation = no_foundation(n_users, n_items, x)
    user_bias: Floats = np.zeros(int(split.train.sum()))
    item_bias: Floats = np.zeros_like(user_bias)
    if settings.with_biases:
        user_bias, item_bias = left_out_biases(train_ratings, baselines.bias, seed)
        spread = np.maximum([user_bias.std(), item_bias.std()], 1e-3)
        foundation = replace(foundation, mean=baselines.bias.mean, user_bias=baselines.bias.user_bias,
                             item_bias=baselines.bias.item_bias, bias_spread=spread)  # fmt: skip
    train = _examples(interactions, split, split.train, user_bias, item_bias, drawn, settings, seed)
    if settings.with_biases:
        valid_pairs = pairs_of(interactions, split, split.valid)
        known = foundation.user_bias[valid_pairs.users], foundation.item_bias[valid_pairs.items]
        valid = _examples(interactions, split, split.valid, *known, drawn, settings, seed)
        foundation = fit_readout(foundation, train, valid, drawn, tokens, interactions, seed)
    readout = (history_readout(drawn.by_user, tokens, foundation.on_user, train.of_user),
               history_readout(drawn.by_item, tokens, foundation.on_item, train.of_item))  # fmt: skip
    data = _Data(settings, foundation, train, pairs_of(interactions, split, split.valid),
                 interactions.ratings[split.valid].astype(np.float64), drawn, tokens, readout,
                 interactions.rating_range, seed)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = LoidNet(settings, n_users, n_items, vectors.shape[1], x)
        if not settings.with_biases:
            torch.nn.init.constant_(net.last.bias, baselines.mean.mean)
        return _train(net, data, baselines, progress)


def pairs_of(interactions: Interactions, split: Split, rows: Bools) -> CodePairs:
    """The pairs of `rows [n]` as a head of `split` may see them: users and items without training reviews are unknown,
    and under a split by time histories end before the pair."""
    users, items = interactions.users[rows].astype(np.int64), interactions.items[rows].astype(np.int64)
    seen_users = np.bincount(interactions.users[split.train], minlength=len(interactions.user_ids)) > 0
    seen_items = np.bincount(interactions.items[split.train], minlength=len(interactions.item_ids)) > 0
    times = interactions.timestamps[rows] if split.kind == "time" else None
    return CodePairs(np.where(seen_users[users], users, -1), np.where(seen_items[items], items, -1),
                     interactions.texts[rows], times)  # fmt: skip


def _examples(
    interactions: Interactions, split: Split, rows: Bools, user_bias: Floats, item_bias: Floats, drawn: Histories,
    settings: HeadSettings, seed: int,
) -> Examples:  # fmt: skip
    pairs = pairs_of(interactions, split, rows)
    of_user, of_item = drawn.draw(pairs, settings.max_history, seed, -1)
    return Examples(pairs, user_bias, item_bias, of_user, of_item, interactions.ratings[rows].astype(np.float64))


def _train(net: LoidNet, data: _Data, baselines: Baselines, progress: Progress) -> Fitted:
    settings = data.settings
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    average, best = copy.deepcopy(net) if settings.averaging else net, copy.deepcopy(net)
    best_error, best_epoch, share, epoch, step, seconds = np.inf, 0, 1.0, 0, 0, 0.0
    n = len(data.train.ratings)
    with progress.task("fit", settings.epochs * n, "pairs") as task:
        for epoch in range(1, settings.epochs + 1):
            start = time.perf_counter()
            step = _epoch(net, average, optimizer, data, epoch, step, task)
            seconds += time.perf_counter() - start
            below, above = _predictor(average, data, 1.0).parts(data.valid)
            error = metrics.mse(metrics.clipped(below + above, data.rating_range), data.valid_ratings)
            if error < best_error:
                best_error, best_epoch = error, epoch
                best.load_state_dict(average.state_dict())
                share = _share(below, above, data) if settings.with_biases else 1.0
            elif settings.patience and epoch - best_epoch >= settings.patience:
                break
    predictor = _predictor(best, data, share)
    return Fitted(predictor.head, predictor, baselines, epoch, best_epoch, epoch * n / max(seconds, 1e-9))


def _predictor(net: LoidNet, data: _Data, share: float) -> LoidPredictor:
    head = LoidHead(data.settings, data.tokens.scale, data.foundation, net, share, data.seed)
    return LoidPredictor(head, data.histories, data.tokens)


def _share(below: Floats, above: Floats, data: _Data) -> float:
    """How much of the network to trust: `max(0, 1 - (s.e. / gain)^2)` of its gain over the foundation on validation.

    The positive-part shrinkage of Stein's estimator: a gain within its own noise is dropped, a clear one kept whole.
    """
    ratings = data.valid_ratings
    before, after = (metrics.clipped(part, data.rating_range) - ratings for part in (below, below + above))
    gains = before**2 - after**2
    gain = float(gains.mean())
    if gain <= 0 or len(gains) < _MIN_VALID:
        return 0.0
    return max(0.0, 1 - float(gains.var()) / len(gains) / gain**2)


def _epoch(
    net: LoidNet, average: LoidNet, optimizer: torch.optim.Optimizer, data: _Data, epoch: int, step: int, task: Task
) -> int:
    """One pass over the training pairs in an order drawn by (seed, pair, epoch); the number of steps so far."""
    net.train()
    for users, items, biases, targets, of_user, of_item, draws in _batches(net, data, epoch):
        exchanged = net.exchange(users, items, of_user, of_item)
        rating = net.rate(exchanged.v_user, exchanged.v_item, biases)
        loss = (rating - targets).square().mean()
        if data.settings.lam:
            loss = loss + data.settings.lam * triplet_loss(exchanged, users, items, draws, data.settings)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if average is not net:
            with torch.no_grad():
                # The mean forgets the start faster than its decay alone would.
                decay = min(data.settings.averaging, (1 + step) / (10 + step))
                torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - decay)
        task.advance(len(targets))
    return step


_Batch = tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]


def _batches(net: LoidNet, data: _Data, epoch: int) -> Iterator[_Batch]:
    settings, train, foundation = data.settings, data.train, data.foundation
    pairs = train.pairs
    key = sampling.keys(data.seed, pairs.users, pairs.items, epoch)
    hide_user, hide_item = (_drawn(key, what) < settings.unknown_share for what in (_USER, _ITEM))
    user_bias, item_bias = np.where(hide_user, 0, train.user_bias), np.where(hide_item, 0, train.item_bias)
    text = np.where(hide_user, 0, data.readout[0]) + np.where(hide_item, 0, data.readout[1])
    targets = torch.from_numpy(train.ratings - foundation.below(user_bias, item_bias, text)).float()
    biases = torch.from_numpy(foundation.bias_features(user_bias, item_bias)).float()
    users = torch.from_numpy(np.where(hide_user, net.users.num_embeddings - 1, pairs.users))
    items = torch.from_numpy(np.where(hide_item, net.items.num_embeddings - 1, pairs.items))
    of_user, of_item = data.histories.draw(pairs, settings.k, data.seed, epoch)
    # Whoever is unknown has no history either: that is what an unknown user or item looks like to `score`.
    of_user[hide_user] = -1
    of_item[hide_item] = -1
    draws = torch.from_numpy(np.stack([_drawn(key, _ANCHOR), _drawn(key, _ANCHOR + 1)]))
    order = np.argsort(sampling.mix(key ^ np.uint64(_ORDER)), kind="stable")
    for start in range(0, len(order), settings.batch):
        rows = order[start : start + settings.batch]
        at = torch.from_numpy(rows)
        user_reviews = _looked_up(data.histories.by_user.reviews, of_user[rows], data.tokens)
        item_reviews = _looked_up(data.histories.by_item.reviews, of_item[rows], data.tokens)
        yield users[at], items[at], biases[at], targets[at], user_reviews, item_reviews, draws[:, at]


def _looked_up(reviews: Ints, places: Ints, tokens: Tokens) -> tuple[Tensor, Tensor]:
    if not len(reviews):
        return torch.zeros(*places.shape, tokens.scale.token_dim), torch.from_numpy(places >= 0)
    return tokens.take(reviews[places]), torch.from_numpy(places >= 0)


def _drawn(key: Array, what: int) -> Floats:
    return sampling.uniform(key ^ sampling.mix(np.array([what], np.uint64)))
