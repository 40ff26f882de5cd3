"""Trains the LoID network on the residuals of its foundation. Random numbers depend on (seed, pair, epoch) only."""

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

_MIN_VALID = 30  # with fewer validation pairs the standard error of the gain is not reliable
_USER, _ITEM, _ORDER, _NEGATIVES = 1, 2, 3, 4  # purposes of random draws


@dataclass(frozen=True, slots=True)
class NetworkData:
    """Data and settings of the training of a network."""

    settings: HeadSettings
    foundation: Foundation
    train: Examples
    valid: CodePairs
    valid_ratings: Floats
    histories: Histories
    tokens: Tokens
    readout: tuple[Floats, Floats]  # [n] each, of user and item histories
    rating_range: tuple[float, float]
    seed: int
    device: str  # cpu | cuda, of the network; vectors stay in main memory


def train_network(
    net: LoidNet, data: NetworkData, checkpoint: Checkpoint | None, progress: Progress
) -> tuple[LoidPredictor, History]:
    """Train `net` in place; return the predictor with the weights of the best epoch, and the learning curve.

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
        share = _network_share(*predictor.components(data.valid), data)
        predictor.head = replace(predictor.head, share=share)
    return predictor, history


def _step(net: LoidNet, data: NetworkData, batch: tuple[Tensor, ...], number: int) -> Loss:
    """Squared error plus the weighted triplet loss (eq. 10)."""
    users, items, biases, targets, *reviews, draws = (part.to(data.device) for part in batch)
    settings = data.settings
    features = net.attend(users, items, (reviews[0], reviews[1]), (reviews[2], reviews[3]))
    squared = (net.predict(features, biases) - targets).square().mean()
    loss = squared
    if settings.lam:
        loss = loss + settings.lam * triplet_loss(features, users, items, draws, settings)
    return Loss(loss, squared.detach(), len(targets), len(targets))


def _validate(net: LoidNet, data: NetworkData) -> float:
    base, network = _predictor(net, data).components(data.valid)
    return mse(clipped(base + network, data.rating_range), data.valid_ratings)


def _predictor(net: LoidNet, data: NetworkData) -> LoidPredictor:
    """Predictions are on the CPU, so that they do not depend on the device of training."""
    net = net if data.device == "cpu" else copy.deepcopy(net).cpu()
    head = LoidHead(data.settings, data.tokens.scale, data.foundation, net, 1.0, data.seed)
    return LoidPredictor(head, data.histories, data.tokens)


def _network_share(base: Floats, network: Floats, data: NetworkData) -> float:
    """`max(0, 1 - (s.e. / gain)^2)` of the network's gain on validation: Stein's positive-part shrinkage."""
    ratings = data.valid_ratings
    base_errors = clipped(base, data.rating_range) - ratings
    errors = clipped(base + network, data.rating_range) - ratings
    gains = base_errors**2 - errors**2
    gain = float(gains.mean())
    if gain <= 0 or len(gains) < _MIN_VALID:
        return 0.0
    return max(0.0, 1 - float(gains.var()) / len(gains) / gain**2)


def _batches(net: LoidNet, data: NetworkData, epoch: int, position: int) -> Iterator[tuple[Tensor, ...]]:
    """Users, items, bias features, targets, tokens and masks of both histories, random numbers for negatives."""
    settings, examples, foundation = data.settings, data.train, data.foundation
    pairs, epoch = examples.pairs, epoch + 1  # random draws count epochs from 1
    net.train()
    key = sampling.keys(data.seed, pairs.users, pairs.items, epoch)
    hide_user, hide_item = (_uniform(key, purpose) < settings.unknown_share for purpose in (_USER, _ITEM))
    user_bias, item_bias = np.where(hide_user, 0, examples.user_bias), np.where(hide_item, 0, examples.item_bias)
    text = np.where(hide_user, 0, data.readout[0]) + np.where(hide_item, 0, data.readout[1])
    targets = torch.from_numpy(examples.ratings - foundation.predict(user_bias, item_bias, text)).float()
    biases = torch.from_numpy(foundation.bias_features(user_bias, item_bias)).float()
    users = torch.from_numpy(np.where(hide_user, net.users.num_embeddings - 1, pairs.users))
    items = torch.from_numpy(np.where(hide_item, net.items.num_embeddings - 1, pairs.items))
    user_histories, item_histories = data.histories.draw(pairs, settings.k, data.seed, epoch)
    # Unknown users and items have no history in `score` either.
    user_histories[hide_user] = -1
    item_histories[hide_item] = -1
    draws = torch.from_numpy(np.stack([_uniform(key, _NEGATIVES), _uniform(key, _NEGATIVES + 1)]))
    order = np.argsort(sampling.mix(key ^ np.uint64(_ORDER)), kind="stable")
    for start in range(position * settings.batch, len(order), settings.batch):
        rows = order[start : start + settings.batch]
        index = torch.from_numpy(rows)
        user_reviews = _tokens_and_mask(data.histories.by_user.reviews, user_histories[rows], data.tokens)
        item_reviews = _tokens_and_mask(data.histories.by_item.reviews, item_histories[rows], data.tokens)
        yield users[index], items[index], biases[index], targets[index], *user_reviews, *item_reviews, draws[:, index]


def _tokens_and_mask(reviews: Ints, history: Ints, tokens: Tokens) -> tuple[Tensor, Tensor]:
    taken = tokens.take(reviews[history]) if len(reviews) else torch.zeros(*history.shape, tokens.scale.token_dim)
    return taken, torch.from_numpy(history >= 0)


def _uniform(key: Array, purpose: int) -> Floats:
    return sampling.uniform(key ^ sampling.mix(np.array([purpose], np.uint64)))
