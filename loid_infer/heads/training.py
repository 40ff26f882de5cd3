"""Fits a LoID head: baselines, foundation, then the network on the residuals of the foundation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from loid_infer.data.histories import CodePairs, Histories, histories
from loid_infer.heads.baselines import Baselines, BiasModel, Ratings, fit_baselines, out_of_fold_biases
from loid_infer.heads.foundation import Examples, Foundation, fit_readout, history_readout
from loid_infer.heads.loid import LoidNet
from loid_infer.heads.model import LoidHead, LoidPredictor, mask_unknown
from loid_infer.heads.network_training import NetworkData, train_network
from loid_infer.heads.presets import HeadSettings
from loid_infer.heads.tokens import token_scale, tokens_of
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import History
from loid_infer.types import Bools, Floats, Interactions, Progress, Split, Vectors


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
    """
    n_users, n_items, strict = len(interactions.user_ids), len(interactions.item_ids), settings.protocol == "strict"
    ratings = Ratings(interactions.users, interactions.items, interactions.ratings.astype(np.float64), n_users, n_items)
    train_ratings = ratings.where(split.train)
    baselines = fit_baselines(train_ratings, ratings.where(split.valid), interactions.rating_range, seed)
    history_lists = histories(
        interactions,
        split.train if strict else np.ones(interactions.n, bool),
        strict=strict,
        by_time=split.kind == "time",
    )
    tokens = tokens_of(interactions, vectors, token_scale(interactions, split.train, vectors, settings, seed))
    token_dim = tokens.scale.token_dim
    foundation, biases = _bias_model(baselines.bias, train_ratings, token_dim, settings, seed)
    train = _examples(interactions, split, split.train, *biases, history_lists, settings, seed)
    valid_pairs = pairs_of(interactions, split, split.valid)
    if settings.with_biases:
        known_biases = foundation.user_bias[valid_pairs.users], foundation.item_bias[valid_pairs.items]
        valid = _examples(interactions, split, split.valid, *known_biases, history_lists, settings, seed)
        foundation = fit_readout(foundation, train, valid, history_lists, tokens, seed)
    readout = (
        history_readout(history_lists.by_user, tokens, foundation.on_user, train.user_histories),
        history_readout(history_lists.by_item, tokens, foundation.on_item, train.item_histories),
    )
    data = NetworkData(
        settings,
        foundation,
        train,
        valid_pairs,
        interactions.ratings[split.valid].astype(np.float64),
        history_lists,
        tokens,
        readout,
        interactions.rating_range,
        seed,
        device,
    )
    with torch.random.fork_rng(devices=[] if device == "cpu" else None):
        torch.manual_seed(seed)
        net = LoidNet(settings, n_users, n_items, vectors.shape[1], token_dim)
        if not settings.with_biases:
            torch.nn.init.constant_(net.last.bias, baselines.mean.mean)
    return Fitted(baselines, *train_network(net, data, checkpoint, progress))


def _bias_model(
    bias: BiasModel, train: Ratings, token_dim: int, settings: HeadSettings, seed: int
) -> tuple[Foundation, tuple[Floats, Floats]]:
    """The foundation without readout, and the out-of-fold biases of the training pairs."""
    on_user, on_item = np.zeros((2, token_dim))
    foundation = Foundation(
        bias.mean if settings.with_biases else 0.0,
        np.zeros(train.n_users + 1),
        np.zeros(train.n_items + 1),
        np.ones(2),
        on_user,
        on_item,
        np.zeros(4),
        0.0,
    )
    if not (settings.with_biases and settings.ids):
        zeros = np.zeros(len(train.values))
        return foundation, (zeros, zeros)
    biases = out_of_fold_biases(train, bias, seed)
    spread = np.maximum([part.std() for part in biases], 1e-3)
    return replace(foundation, user_bias=bias.user_bias, item_bias=bias.item_bias, bias_spread=spread), biases


def pairs_of(interactions: Interactions, split: Split, rows: Bools) -> CodePairs:
    """The pairs of `rows [n]`: users and items without training reviews are unknown; in a split by time, histories
    contain earlier reviews only."""
    codes = interactions.users[rows].astype(np.int64), interactions.items[rows].astype(np.int64)
    times = interactions.timestamps[rows] if split.kind == "time" else None
    return CodePairs(*mask_unknown(interactions, split.train, *codes), interactions.texts[rows], times)


def _examples(
    interactions: Interactions,
    split: Split,
    rows: Bools,
    user_bias: Floats,
    item_bias: Floats,
    history_lists: Histories,
    settings: HeadSettings,
    seed: int,
) -> Examples:
    pairs = pairs_of(interactions, split, rows)
    user_histories, item_histories = history_lists.draw(pairs, settings.max_history, seed, -1)
    ratings = interactions.ratings[rows].astype(np.float64)
    return Examples(pairs, user_bias, item_bias, user_histories, item_histories, ratings)
