"""The gradient training of a LoID network on what its foundation leaves: batches, loss and validation of the loop.

Everything random is drawn from (seed, pair, epoch).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from loid_infer.data.histories import CodePairs, Histories
from loid_infer.evaluation.metrics import clipped, mse
from loid_infer.heads.foundation import Examples, Foundation
from loid_infer.heads.loid import LoidNet, triplet_loss
from loid_infer.heads.model import LoidHead, LoidPredictor
from loid_infer.heads.presets import HeadSettings
from loid_infer.heads.tokens import Tokens
from loid_infer.kernels import sampling
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import History, Loss, Training, train
from loid_infer.types import Array, Floats, Ints, Progress

_MIN_VALID = 30  # validation pairs below which a gain has no standard error worth the name
_USER, _ITEM, _ORDER, _ANCHOR = 1, 2, 3, 4  # what a draw is for


@dataclass(frozen=True, slots=True)
class Material:
    """What a network is trained on; nothing of it changes meanwhile."""

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
    device: str  # cpu | cuda: where the network trains; vectors and what is drawn of them stay in main memory


def train_network(
    net: LoidNet, data: Material, checkpoint: Checkpoint | None, progress: Progress
) -> tuple[LoidPredictor, History]:
    """Train `net` in place: the head of the best epoch, and how training went.

    Raises:
        NoSpace: a checkpoint cannot be written.
    """
    settings, n = data.settings, len(data.train.ratings)
    net.to(data.device)
    training = Training(
        parameters=dict(net.named_parameters()),
        batches=partial(_batches, net, data),
        n_batches=math.ceil(n / settings.batch),
        n_samples=n,
        step=partial(_step, net, data),
        validate=partial(_validate, net, data),
        task=("fit", "pairs"),
        metric="MSE",
        seed=data.seed,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        own_weight_decay=dict.fromkeys(("users.weight", "items.weight"), settings.id_weight_decay),
        averaging=settings.averaging,
        averaging_lead=1,
        patience=settings.patience or None,
        by_epoch=True,
    )
    history = train(training, checkpoint, progress)
    predictor = _predictor(net, data)
    if settings.with_biases and history.best >= 0:
        share = _share(*predictor.parts(data.valid), data)
        predictor.head = replace(predictor.head, share=share)
    return predictor, history


def _step(net: LoidNet, data: Material, batch: tuple[Tensor, ...], number: int) -> Loss:
    """Eq. 10: squared error plus the weighted triplet loss."""
    users, items, biases, targets, *reviews, draws = (part.to(data.device) for part in batch)
    settings = data.settings
    exchanged = net.exchange(users, items, (reviews[0], reviews[1]), (reviews[2], reviews[3]))
    squared = (net.rate(exchanged, biases) - targets).square().mean()
    loss = squared
    if settings.lam:
        loss = loss + settings.lam * triplet_loss(exchanged, users, items, draws, settings)
    return Loss(loss, squared.detach(), len(targets), len(targets))


def _validate(net: LoidNet, data: Material) -> float:
    below, above = _predictor(net, data).parts(data.valid)
    return mse(clipped(below + above, data.rating_range), data.valid_ratings)


def _predictor(net: LoidNet, data: Material) -> LoidPredictor:
    """Of `net`, on the CPU: what is predicted is then the same wherever it was trained."""
    net = net if data.device == "cpu" else copy.deepcopy(net).cpu()
    head = LoidHead(data.settings, data.tokens.scale, data.foundation, net, 1.0, data.seed)
    return LoidPredictor(head, data.histories, data.tokens)


def _share(below: Floats, above: Floats, data: Material) -> float:
    """How much of the network to trust: `max(0, 1 - (s.e. / gain)^2)` of its gain over the foundation on validation.

    The positive-part shrinkage of Stein's estimator: a gain within its own noise is dropped, a clear one kept whole.
    """
    ratings = data.valid_ratings
    before, after = (clipped(part, data.rating_range) - ratings for part in (below, below + above))
    gains = before**2 - after**2
    gain = float(gains.mean())
    if gain <= 0 or len(gains) < _MIN_VALID:
        return 0.0
    return max(0.0, 1 - float(gains.var()) / len(gains) / gain**2)


def _batches(net: LoidNet, data: Material, epoch: int, position: int) -> Iterator[tuple[Tensor, ...]]:
    """Users, items, bias features, targets, tokens and mask of both histories, draws for negatives."""
    settings, examples, foundation = data.settings, data.train, data.foundation
    pairs, epoch = examples.pairs, epoch + 1  # draws count epochs from 1
    net.train()
    key = sampling.keys(data.seed, pairs.users, pairs.items, epoch)
    hide_user, hide_item = (_drawn(key, what) < settings.unknown_share for what in (_USER, _ITEM))
    user_bias, item_bias = np.where(hide_user, 0, examples.user_bias), np.where(hide_item, 0, examples.item_bias)
    text = np.where(hide_user, 0, data.readout[0]) + np.where(hide_item, 0, data.readout[1])
    targets = torch.from_numpy(examples.ratings - foundation.below(user_bias, item_bias, text)).float()
    biases = torch.from_numpy(foundation.bias_features(user_bias, item_bias)).float()
    users = torch.from_numpy(np.where(hide_user, net.users.num_embeddings - 1, pairs.users))
    items = torch.from_numpy(np.where(hide_item, net.items.num_embeddings - 1, pairs.items))
    of_user, of_item = data.histories.draw(pairs, settings.k, data.seed, epoch)
    # Whoever is unknown has no history either: that is what an unknown user or item looks like to `score`.
    of_user[hide_user] = -1
    of_item[hide_item] = -1
    draws = torch.from_numpy(np.stack([_drawn(key, _ANCHOR), _drawn(key, _ANCHOR + 1)]))
    order = np.argsort(sampling.mix(key ^ np.uint64(_ORDER)), kind="stable")
    for start in range(position * settings.batch, len(order), settings.batch):
        rows = order[start : start + settings.batch]
        at = torch.from_numpy(rows)
        user_reviews = _looked_up(data.histories.by_user.reviews, of_user[rows], data.tokens)
        item_reviews = _looked_up(data.histories.by_item.reviews, of_item[rows], data.tokens)
        yield users[at], items[at], biases[at], targets[at], *user_reviews, *item_reviews, draws[:, at]


def _looked_up(reviews: Ints, places: Ints, tokens: Tokens) -> tuple[Tensor, Tensor]:
    found = tokens.take(reviews[places]) if len(reviews) else torch.zeros(*places.shape, tokens.scale.token_dim)
    return found, torch.from_numpy(places >= 0)


def _drawn(key: Array, what: int) -> Floats:
    return sampling.uniform(key ^ sampling.mix(np.array([what], np.uint64)))
