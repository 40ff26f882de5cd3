"""Fits a LoID head: baselines, foundation, then the network by gradient on what the foundation leaves.

This file knows interactions, a split and vectors; it knows no workspace, no store and no file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from loid_infer.data.histories import CodePairs, Histories, histories
from loid_infer.heads.baselines import Baselines, Ratings, fit_baselines, left_out_biases
from loid_infer.heads.descent import Material, train_network
from loid_infer.heads.foundation import Examples, Foundation, fit_readout, history_readout
from loid_infer.heads.loid import LoidNet
from loid_infer.heads.model import LoidHead, LoidPredictor, known
from loid_infer.heads.presets import HeadSettings
from loid_infer.heads.tokens import token_scale, tokens_of
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import History
from loid_infer.types import Bools, Floats, Interactions, Progress, Split, Vectors


@dataclass(frozen=True, slots=True)
class Fitted:
    """A head, what it is compared with, and how the training of its network went."""

    baselines: Baselines
    predictor: LoidPredictor  # the head with the histories and vectors it looks at
    history: History  # by epoch; steps are pairs, losses the mean over the epoch's pairs

    @property
    def head(self) -> LoidHead:
        """All that was learnt."""
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
    """The head of LoID section 4 on the vectors `[n_texts, d]`, with early stopping on the validation part.

    The same arguments give the same head, bit for bit, on the same machine's CPU. Under `strict` no pair's own review
    is in its history, nor its own rating in its biases.
    """
    n_users, n_items, strict = len(interactions.user_ids), len(interactions.item_ids), settings.protocol == "strict"
    ratings = Ratings(interactions.users, interactions.items, interactions.ratings.astype(np.float64), n_users, n_items)
    train_ratings = ratings.where(split.train)
    baselines = fit_baselines(train_ratings, ratings.where(split.valid), interactions.rating_range, seed)
    drawn = histories(
        interactions,
        split.train if strict else np.ones(interactions.n, bool),
        strict=strict,
        by_time=split.kind == "time",
    )
    tokens = tokens_of(interactions, vectors, token_scale(interactions, split.train, vectors, settings, seed))
    x, none = tokens.scale.token_dim, np.zeros(len(train_ratings.values))
    on_user, on_item = np.zeros((2, x))
    foundation = Foundation(
        0.0, np.zeros(n_users + 1), np.zeros(n_items + 1), np.ones(2), on_user, on_item, np.zeros(4), 0.0
    )
    biases: tuple[Floats, Floats] = (none, none)
    if settings.with_biases:
        foundation = replace(foundation, mean=baselines.bias.mean)
    if settings.with_biases and settings.ids:
        biases = left_out_biases(train_ratings, baselines.bias, seed)
        foundation = replace(
            foundation,
            user_bias=baselines.bias.user_bias,
            item_bias=baselines.bias.item_bias,
            bias_spread=np.maximum([part.std() for part in biases], 1e-3),
        )
    train = _examples(interactions, split, split.train, *biases, drawn, settings, seed)
    valid_pairs = pairs_of(interactions, split, split.valid)
    if settings.with_biases:
        known_biases = foundation.user_bias[valid_pairs.users], foundation.item_bias[valid_pairs.items]
        valid = _examples(interactions, split, split.valid, *known_biases, drawn, settings, seed)
        foundation = fit_readout(foundation, train, valid, drawn, tokens, seed)
    readout = (
        history_readout(drawn.by_user, tokens, foundation.on_user, train.of_user),
        history_readout(drawn.by_item, tokens, foundation.on_item, train.of_item),
    )
    data = Material(
        settings,
        foundation,
        train,
        valid_pairs,
        interactions.ratings[split.valid].astype(np.float64),
        drawn,
        tokens,
        readout,
        interactions.rating_range,
        seed,
        device,
    )
    with torch.random.fork_rng(devices=[] if device == "cpu" else None):
        torch.manual_seed(seed)
        net = LoidNet(settings, n_users, n_items, vectors.shape[1], x)
        if not settings.with_biases:
            torch.nn.init.constant_(net.last.bias, baselines.mean.mean)
    return Fitted(baselines, *train_network(net, data, checkpoint, progress))


def pairs_of(interactions: Interactions, split: Split, rows: Bools) -> CodePairs:
    """The pairs of `rows [n]` as a head of `split` may see them: users and items without training reviews are unknown,
    and under a split by time histories end before the pair."""
    pairs = interactions.users[rows].astype(np.int64), interactions.items[rows].astype(np.int64)
    times = interactions.timestamps[rows] if split.kind == "time" else None
    return CodePairs(*known(interactions, split.train, *pairs), interactions.texts[rows], times)


def _examples(
    interactions: Interactions,
    split: Split,
    rows: Bools,
    user_bias: Floats,
    item_bias: Floats,
    drawn: Histories,
    settings: HeadSettings,
    seed: int,
) -> Examples:
    pairs = pairs_of(interactions, split, rows)
    of_user, of_item = drawn.draw(pairs, settings.max_history, seed, -1)
    return Examples(pairs, user_bias, item_bias, of_user, of_item, interactions.ratings[rows].astype(np.float64))
