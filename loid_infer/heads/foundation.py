"""The model below the network in the default preset: global mean, biases, and a ridge regression on mean histories.

The ridge regression, called readout, is solved in closed form before the network is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from loid_infer.data.histories import CodePairs, Histories, Lists
from loid_infer.heads.tokens import Tokens
from loid_infer.types import Floats, Ints

PRIOR_REVIEWS = 3.0  # mean histories are sum / (n + 3), which shrinks short ones
RIDGE = 4.0  # times the dimension of the vectors
# Prior mean and standard deviation of the share of the readout that is kept. From splits with seeds of 100 and more of
# two real domains, where 0.5 to 0.8 is best for every penalty.
_PRIOR_SHARE, _PRIOR_SPREAD = 0.6, 0.1
_BIAS_WEIGHT = 5.0  # scale of the bias features, which are thereby penalized less than text features
_MAX_ROWS = 100_000
_STEP = 2_048


@dataclass(frozen=True, slots=True)
class Foundation:
    """`mean + b_u + b_i + readout`; in the preset `paper` all zero, except for the offset of the unit in `mean`."""

    mean: float
    user_bias: Floats  # [n_users + 1], float64; the last is 0, for unknown users
    item_bias: Floats  # [n_items + 1]
    bias_spread: Floats  # [2], standard deviations of both over the training pairs
    on_user: Floats  # [token_dim], weights on the mean token of the user's history
    on_item: Floats  # [token_dim]
    on_biases: Floats  # [4], weights on `bias_features`
    intercept: float

    def bias_features(self, user: Floats, item: Floats) -> Floats:
        """From biases `[n]`: both, their product, and the square of their sum, standardized, `[n, 4]` float64."""
        a, b = user / self.bias_spread[0], item / self.bias_spread[1]
        total = (user + item) / np.hypot(*self.bias_spread)
        return np.stack([a, b, a * b, total**2 - 1], 1)

    def predict(self, user: Floats, item: Floats, text: Floats) -> Floats:
        """Ratings `[n]` from biases `[n]` and the sum of the readouts of both histories `[n]`."""
        return self.mean + user + item + text + self.intercept + self.bias_features(user, item) @ self.on_biases


def history_readout(lists: Lists, tokens: Tokens, weights: Floats, histories: Ints) -> Floats:
    """`weights . shrunk mean of tokens`, `[n]`, of `histories [n, k]`."""
    by_review = np.zeros(len(lists.reviews) + 1)
    if weights.any():
        for start in range(0, len(lists.reviews), _STEP):
            part = tokens.take(lists.reviews[start : start + _STEP]).numpy()
            by_review[start : start + len(part)] = part @ weights.astype(np.float32)
    return shrunk_mean(by_review, histories)


def shrunk_mean(by_review: Floats, histories: Ints) -> Floats:
    """`sum / (n + 3)` of the values `by_review [m + 1]` (the last 0, for index -1) over `histories [n, k]`."""
    mean: Floats = by_review[histories].sum(1) / ((histories >= 0).sum(1) + PRIOR_REVIEWS)
    return mean


@dataclass(frozen=True, slots=True)
class Examples:
    """Pairs with biases (out-of-fold for training pairs), histories and ratings."""

    pairs: CodePairs
    user_bias: Floats  # [n]
    item_bias: Floats  # [n]
    user_histories: Ints  # [n, k], indices into Lists.reviews; -1: no review
    item_histories: Ints  # [n, k]
    ratings: Floats  # [n], float64

    def take(self, rows: Ints) -> Examples:
        """The selected `rows`."""
        return Examples(
            self.pairs.take(rows), *(getattr(self, part.name)[rows] for part in fields(self) if part.name != "pairs")
        )


def fit_readout(
    start: Foundation, train: Examples, valid: Examples, histories: Histories, tokens: Tokens, seed: int
) -> Foundation:
    """Add a readout that predicts the residuals of the biases, scaled by a share estimated on the validation pairs.

    At most 100,000 training pairs are used. The share has a normal prior.
    """
    rng = np.random.default_rng(seed)
    train, valid = (_sample(examples, rng) for examples in (train, valid))
    x = tokens.scale.token_dim
    width = 2 * x + 5
    left, right = np.zeros((width, width)), np.zeros(width)
    for features, examples in _features(start, train, histories, tokens):
        left += features.T @ features
        right += features.T @ _residuals(start, examples).astype(np.float32)
    penalty = np.append(np.full(width - 1, RIDGE * tokens.vectors.shape[1]), 1e-6)  # the intercept is hardly penalized
    weights = np.linalg.solve(left + np.diag(penalty), right)
    readout = np.concatenate([features @ weights for features, _ in _features(start, valid, histories, tokens)])
    weights *= _kept_share(readout, _residuals(start, valid))
    return replace(
        start,
        on_user=weights[:x],
        on_item=weights[x : 2 * x],
        on_biases=weights[2 * x : -1] * _BIAS_WEIGHT,
        intercept=float(weights[-1]),
    )


def _residuals(start: Foundation, examples: Examples) -> Floats:
    residuals: Floats = examples.ratings - start.mean - examples.user_bias - examples.item_bias
    return residuals


def _kept_share(readout: Floats, residuals: Floats) -> float:
    """Posterior mean of `s` in `residuals = s readout + noise`, clipped to 0..1."""
    precision = 1 / max(float(np.mean(residuals**2)), 1e-12)
    total = 1 / _PRIOR_SPREAD**2 + precision * float(np.sum(readout**2))
    mean = (_PRIOR_SHARE / _PRIOR_SPREAD**2 + precision * float(np.sum(readout * residuals))) / total
    return min(max(mean, 0.0), 1.0)


def _features(
    start: Foundation, examples: Examples, histories: Histories, tokens: Tokens
) -> Iterator[tuple[Floats, Examples]]:
    rows = np.arange(len(examples.ratings))
    for first in range(0, len(rows), _STEP):
        part = examples.take(rows[first : first + _STEP])
        columns = (
            _mean_tokens(histories.by_user, part.user_histories, tokens),
            _mean_tokens(histories.by_item, part.item_histories, tokens),
            _BIAS_WEIGHT * start.bias_features(part.user_bias, part.item_bias),
            np.ones((len(part.ratings), 1)),
        )
        yield np.hstack(columns).astype(np.float32), part


def _mean_tokens(lists: Lists, histories: Ints, tokens: Tokens) -> Floats:
    present = histories >= 0
    counts = present.sum(1)
    of_history = torch.from_numpy(np.repeat(np.arange(len(histories)), counts))
    sums = torch.zeros(len(histories), tokens.scale.token_dim)
    sums.index_add_(0, of_history, tokens.take(lists.reviews[histories[present]]))
    means: Floats = sums.numpy() / (counts + PRIOR_REVIEWS).astype(np.float32)[:, None]
    return means


def _sample(examples: Examples, rng: np.random.Generator) -> Examples:
    n = len(examples.ratings)
    return examples if n <= _MAX_ROWS else examples.take(np.sort(rng.choice(n, _MAX_ROWS, replace=False)))
