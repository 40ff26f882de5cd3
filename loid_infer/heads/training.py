"""Fits a LoID head: baselines, foundation, then the network on the residuals of the foundation.

Random numbers depend on (seed, pair, epoch) only.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from loid_infer.data.histories import CodePairs, Histories, histories
from loid_infer.evaluation.metrics import clipped, mse
from loid_infer.heads.baselines import Baselines, BiasModel, Ratings, fit_baselines, out_of_fold_biases
from loid_infer.heads.foundation import Examples, Foundation, fit_readout, history_readout
from loid_infer.heads.loid import EVALUATION, LoidHead, LoidNet, LoidPredictor, known_ids, mask_unknown, triplet_loss
from loid_infer.heads.presets import HeadSettings
from loid_infer.heads.tokens import Tokens, token_scale, tokens_of
from loid_infer.heads.units import STANDARD_RANGE, Unit
from loid_infer.kernels import sampling
from loid_infer.kernels.threads import Workers, workers
from loid_infer.learning import loop
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import History, Loss, Training
from loid_infer.types import Array, Bools, Floats, Interactions, Ints, Progress, Split, Vectors

_MIN_VALID = 30  # with fewer validation pairs the standard error of the gain is not reliable
_MAX_DENSE = 1 << 21  # weights of an ID table, beyond which it is updated row by row
_USER, _ITEM, _ORDER, _NEGATIVES = 1, 2, 3, 4  # purposes of random draws


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted head, its baselines and its learning curve."""

    baselines: Baselines
    predictor: LoidPredictor  # the head with its histories and vectors
    history: History  # by epoch; steps are counted in pairs

    @property
    def head(self) -> LoidHead:
        """The fitted head."""
        return self.predictor.head


def fit_head(
    interactions: Interactions,
    split: Split,
    vectors: Vectors,
    settings: HeadSettings,
    seed: int,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
    device: str = "cpu",
) -> Fitted:
    """Fit the head of LoID section 4 on vectors `[n_texts, d]`, with early stopping on the validation part.

    On the same CPU, the same arguments give the same head, bit for bit. Under `strict`, the history of a pair does not
    contain its own review, and its biases are fitted without its rating.

    Raises:
        NoSpace: a checkpoint cannot be written.
    """
    n_users, n_items, strict = len(interactions.user_ids), len(interactions.item_ids), settings.protocol == "strict"
    unit = Unit.of(interactions.rating_range)
    values = unit.standard(interactions.ratings)
    ratings = Ratings(interactions.users, interactions.items, values, n_users, n_items)
    train_ratings = ratings.where(split.train)
    baselines = fit_baselines(train_ratings, ratings.where(split.valid), STANDARD_RANGE, seed)
    in_histories = split.train if strict else np.ones(interactions.n, bool)
    lists = histories(interactions, in_histories, strict=strict, by_time=split.kind == "time")
    tokens = tokens_of(interactions, vectors, token_scale(interactions, split.train, vectors, settings, seed))
    foundation, biases = _bias_model(baselines.bias, train_ratings, tokens.scale.token_dim, settings, seed)

    def examples(rows: Bools, pairs: CodePairs, user_bias: Floats, item_bias: Floats) -> Examples:
        drawn = lists.draw(pairs, settings.max_history, seed, EVALUATION)
        return Examples(pairs, user_bias, item_bias, *drawn, ratings.values[rows])

    train_pairs, valid_pairs = (pairs_of(interactions, split, rows) for rows in (split.train, split.valid))
    train = examples(split.train, train_pairs, *biases)
    known_biases = foundation.user_bias[valid_pairs.users], foundation.item_bias[valid_pairs.items]
    valid = examples(split.valid, valid_pairs, *known_biases)
    if settings.with_biases:
        foundation = fit_readout(foundation, train, valid, lists, tokens, seed)
    readout = (
        history_readout(lists.by_user, tokens, foundation.on_user, train.user_histories),
        history_readout(lists.by_item, tokens, foundation.on_item, train.item_histories),
    )
    with torch.random.fork_rng(devices=[] if device == "cpu" else None):
        torch.manual_seed(seed)
        net = LoidNet(settings, n_users, n_items, vectors.shape[1], tokens.scale.token_dim)
        if not settings.with_biases:
            torch.nn.init.constant_(net.last.bias, baselines.mean.mean)
    with workers() as threads:
        network = _Network(net, settings, foundation, train, valid, lists, tokens, readout, seed, device, threads)
        head, history = network.trained(checkpoint, progress)
    return Fitted(unit.baselines(baselines), LoidPredictor(unit.head(head), lists, tokens), unit.history(history))


def _bias_model(
    bias: BiasModel, train: Ratings, token_dim: int, settings: HeadSettings, seed: int
) -> tuple[Foundation, tuple[Floats, Floats]]:
    """The foundation without readout, and the out-of-fold biases of the training pairs."""
    user: Floats = np.zeros(train.n_users + 1)
    item: Floats = np.zeros(train.n_items + 1)
    biases: tuple[Floats, Floats] = np.zeros(len(train.values)), np.zeros(len(train.values))
    spread = np.ones(2)
    if settings.with_biases and settings.ids:
        user, item, biases = bias.user_bias, bias.item_bias, out_of_fold_biases(train, bias, seed)
        spread = np.maximum([part.std() for part in biases], 1e-3)
    on_user, on_item = np.zeros((2, token_dim))
    mean = bias.mean if settings.with_biases else 0.0
    return Foundation(mean, user, item, spread, on_user, on_item, np.zeros(4), 0.0), biases


def pairs_of(interactions: Interactions, split: Split, rows: Bools) -> CodePairs:
    """The pairs of `rows [n]`: users and items without training reviews are unknown; in a split by time, histories
    contain earlier reviews only."""
    codes = interactions.users[rows].astype(np.int64), interactions.items[rows].astype(np.int64)
    times = interactions.timestamps[rows] if split.kind == "time" else None
    return CodePairs(*mask_unknown(known_ids(interactions, split.train), *codes), interactions.texts[rows], times)


@dataclass(frozen=True, slots=True)
class _Network:
    """The LoID network with the data and settings of its training. Ratings are standard, see `units`."""

    net: LoidNet
    settings: HeadSettings
    foundation: Foundation
    train: Examples
    valid: Examples
    histories: Histories
    tokens: Tokens
    readout: tuple[Floats, Floats]  # [n] each, of user and item histories
    seed: int
    device: str  # cpu | cuda, of the network; vectors stay in main memory
    workers: Workers

    def trained(self, checkpoint: Checkpoint | None, progress: Progress) -> tuple[LoidHead, History]:
        """The head with the weights of the best epoch, and the learning curve. Trains `net` in place."""
        settings, n = self.settings, len(self.train.ratings)
        self.net.to(self.device)
        large = []
        for name, table in (("users.weight", self.net.users), ("items.weight", self.net.items)):
            if settings.ids and table.weight.numel() > _MAX_DENSE:
                table.sparse = True
                large.append(name)
        training = Training(
            parameters=dict(self.net.named_parameters()),
            batches=self.batches,
            n_batches=math.ceil(n / settings.batch),
            n_samples=n,
            step=self.step,
            validate=self.validate,
            task=("fit", "pairs"),
            seed=self.seed,
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            own_weight_decay=dict.fromkeys(("users.weight", "items.weight"), settings.id_weight_decay),
            by_row=large,
            averaging=settings.averaging,
            averaging_lead=1,
            patience=settings.patience or None,
            by_epoch=True,
        )
        history = loop.train(training, checkpoint, progress)
        predictor = self.predictor()
        if settings.with_biases and history.best >= 0:
            return replace(predictor.head, share=self.share(*predictor.components(self.valid.pairs))), history
        return predictor.head, history

    def step(self, batch: tuple[Tensor, ...], number: int) -> Loss:
        """Squared error plus the weighted triplet loss (eq. 10)."""
        users, items, biases, targets, *reviews, draws = (part.to(self.device) for part in batch)
        features = self.net.attend(users, items, (reviews[0], reviews[1]), (reviews[2], reviews[3]), self.workers)
        squared = (self.net.predict(features, biases) - targets).square().mean()
        loss = squared
        if self.settings.lam:
            loss = loss + self.settings.lam * triplet_loss(features, users, items, draws, self.settings)
        return Loss(loss, squared.detach(), len(targets), len(targets))

    def validate(self) -> float:
        base, network = self.predictor().components(self.valid.pairs)
        return mse(clipped(base + network, STANDARD_RANGE), self.valid.ratings)

    def predictor(self) -> LoidPredictor:
        """Predictions are on the CPU, so that they do not depend on the device of training."""
        net = self.net if self.device == "cpu" else copy.deepcopy(self.net).cpu()
        head = LoidHead(self.settings, self.tokens.scale, self.foundation, net, 1.0, self.seed)
        return LoidPredictor(head, self.histories, self.tokens, workers=self.workers)

    def share(self, base: Floats, network: Floats) -> float:
        """`max(0, 1 - (s.e. / gain)^2)` of the network's gain on validation: Stein's positive-part shrinkage."""
        base_errors = clipped(base, STANDARD_RANGE) - self.valid.ratings
        errors = clipped(base + network, STANDARD_RANGE) - self.valid.ratings
        gains = base_errors**2 - errors**2
        gain = float(gains.mean())
        if gain <= 0 or len(gains) < _MIN_VALID:
            return 0.0
        return max(0.0, 1 - float(gains.var()) / len(gains) / gain**2)

    def batches(self, epoch: int, position: int) -> Iterator[tuple[Tensor, ...]]:
        """Users, items, bias features, targets, tokens and masks of both histories, random numbers for negatives."""
        net, settings, examples, foundation = self.net, self.settings, self.train, self.foundation
        pairs, epoch = examples.pairs, epoch + 1  # random draws count epochs from 1
        net.train()
        key = sampling.keys(self.seed, pairs.users, pairs.items, epoch)
        hide_user, hide_item = (_uniform(key, purpose) < settings.unknown_share for purpose in (_USER, _ITEM))
        user_bias, item_bias = np.where(hide_user, 0, examples.user_bias), np.where(hide_item, 0, examples.item_bias)
        text = np.where(hide_user, 0, self.readout[0]) + np.where(hide_item, 0, self.readout[1])
        targets = torch.from_numpy(examples.ratings - foundation.predict(user_bias, item_bias, text)).float()
        biases = torch.from_numpy(foundation.bias_features(user_bias, item_bias)).float()
        users = torch.from_numpy(np.where(hide_user, net.users.num_embeddings - 1, pairs.users))
        items = torch.from_numpy(np.where(hide_item, net.items.num_embeddings - 1, pairs.items))
        by_pair = users, items, biases, targets
        user_histories, item_histories = self.histories.draw(pairs, settings.k, self.seed, epoch)
        # Unknown users and items have no history in `score` either.
        user_histories[hide_user] = -1
        item_histories[hide_item] = -1
        draws = torch.from_numpy(np.stack([_uniform(key, _NEGATIVES), _uniform(key, _NEGATIVES + 1)]))
        order = np.argsort(sampling.mix(key ^ np.uint64(_ORDER)), kind="stable")

        def batch(start: int) -> tuple[Tensor, ...]:
            rows = order[start : start + settings.batch]
            index = torch.from_numpy(rows)
            user_reviews = _tokens_and_mask(self.histories.by_user.reviews, user_histories[rows], self.tokens)
            item_reviews = _tokens_and_mask(self.histories.by_item.reviews, item_histories[rows], self.tokens)
            return *(part[index] for part in by_pair), *user_reviews, *item_reviews, draws[:, index]

        return self.workers.ahead(batch, range(position * settings.batch, len(order), settings.batch))


def _tokens_and_mask(reviews: Ints, history: Ints, tokens: Tokens) -> tuple[Tensor, Tensor]:
    taken = tokens.take(reviews[history]) if len(reviews) else torch.zeros(*history.shape, tokens.scale.token_dim)
    return taken, torch.from_numpy(history >= 0)


def _uniform(key: Array, purpose: int) -> Floats:
    return sampling.uniform(key ^ sampling.mix(np.array([purpose], np.uint64)))
