"""What stands below the network in the default preset: global mean, biases, and a ridge readout of mean histories.

The readout is solved in closed form, so that a small domain gets from its texts what a linear model can get, before
anything is trained by gradient. This file knows tokens and ratings; no ids as text, no files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from loid_infer.data.histories import CodePairs, Histories, Lists
from loid_infer.heads.tokens import Tokens
from loid_infer.types import Floats, Ints

PRIOR_REVIEWS = 3.0  # a mean history is sum / (n + 3): few reviews say little
RIDGE = 4.0  # times the vector's width
# How much of the readout holds on pairs it was not fitted on, before validation is asked: mean and standard deviation.
# From splits 100 and up of two real domains, where 0.5 to 0.8 is best whatever the penalty.
_PRIOR_SHARE, _PRIOR_SPREAD = 0.6, 0.1
_BIAS_WEIGHT = 5.0  # bias features are that much larger than a text feature, hence that much less penalized
_MAX_ROWS = 100_000
_STEP = 2_048


@dataclass(frozen=True, slots=True)
class Foundation:
    """`mean + b_u + b_i + readout`, all zero in the paper's preset."""

    mean: float
    user_bias: Floats  # [n_users + 1], float64, the last 0 for an unknown user
    item_bias: Floats  # [n_items + 1]
    bias_spread: Floats  # [2], standard deviations of both over the training pairs
    on_user: Floats  # [token_dim], weights on the mean token of the user's history
    on_item: Floats  # [token_dim]
    on_biases: Floats  # [4], weights on `bias_features`
    intercept: float

    def bias_features(self, user: Floats, item: Floats) -> Floats:
        """`[n, 4]` float64 from biases `[n]`: both, their product, and the square of the sum, standardized."""
        a, b = user / self.bias_spread[0], item / self.bias_spread[1]
        total = (user + item) / np.hypot(*self.bias_spread)
        return np.stack([a, b, a * b, total**2 - 1], 1)

    def below(self, user: Floats, item: Floats, text: Floats) -> Floats:
        """The rating `[n]` before the network, from biases `[n]` and the readout of both histories `[n]`."""
        return self.mean + user + item + text + self.intercept + self.bias_features(user, item) @ self.on_biases


def history_readout(lists: Lists, tokens: Tokens, weights: Floats, places: Ints) -> Floats:
    """`weights . sum of tokens / (n + 3)`, `[n]`, of histories `places [n, k]`."""
    by_review = np.zeros(len(lists.reviews) + 1)
    if weights.any():
        for start in range(0, len(lists.reviews), _STEP):
            part = tokens.take(lists.reviews[start : start + _STEP]).numpy()
            by_review[start : start + len(part)] = part @ weights.astype(np.float32)
    return summed(by_review, places)


def summed(by_review: Floats, places: Ints) -> Floats:
    """`sum / (n + 3)` over places `[n, k]` of what is said of each review, `by_review [m + 1]`, the last 0 for -1."""
    total: Floats = by_review[places].sum(1) / ((places >= 0).sum(1) + PRIOR_REVIEWS)
    return total


@dataclass(frozen=True, slots=True)
class Examples:
    """CodePairs with their biases (left out where the pair is a training pair), histories and ratings."""

    pairs: CodePairs
    user_bias: Floats  # [n]
    item_bias: Floats  # [n]
    of_user: Ints  # [n, k], places
    of_item: Ints  # [n, k]
    ratings: Floats  # [n], float64

    def take(self, rows: Ints) -> Examples:
        """Those of `rows`."""
        pairs = CodePairs(self.pairs.users[rows], self.pairs.items[rows], self.pairs.texts[rows])
        return Examples(
            pairs,
            self.user_bias[rows],
            self.item_bias[rows],
            self.of_user[rows],
            self.of_item[rows],
            self.ratings[rows],
        )


def fit_readout(
    start: Foundation, train: Examples, valid: Examples, histories: Histories, tokens: Tokens, seed: int
) -> Foundation:
    """`start` with the readout that predicts what the biases leave, shrunk to what holds on the validation pairs.

    A large training part is sampled. The share of the readout that is kept has a normal prior, which a few hundred
    validation pairs hardly move and a readout that predicts much does.
    """
    rng = np.random.default_rng(seed)
    train, valid = (_at_most(examples, rng) for examples in (train, valid))
    x = tokens.scale.token_dim
    width = 2 * x + 5
    left, right = np.zeros((width, width)), np.zeros(width)
    for features, examples in _features(start, train, histories, tokens):
        left += features.T @ features
        right += features.T @ _rest(start, examples).astype(np.float32)
    penalty = np.append(np.full(width - 1, RIDGE * tokens.vectors.shape[1]), 1e-6)  # the intercept is free
    weights = np.linalg.solve(left + np.diag(penalty), right)
    readout = np.concatenate([features @ weights for features, _ in _features(start, valid, histories, tokens)])
    weights *= _kept_share(readout, _rest(start, valid))
    return replace(
        start,
        on_user=weights[:x],
        on_item=weights[x : 2 * x],
        on_biases=weights[2 * x : -1] * _BIAS_WEIGHT,
        intercept=float(weights[-1]),
    )


def _rest(start: Foundation, examples: Examples) -> Floats:
    rest: Floats = examples.ratings - start.mean - examples.user_bias - examples.item_bias
    return rest


def _kept_share(readout: Floats, rest: Floats) -> float:
    """Posterior mean of `s` in `rest = s readout + noise`, within 0 and 1."""
    precision = 1 / max(float(np.mean(rest**2)), 1e-12)
    total = 1 / _PRIOR_SPREAD**2 + precision * float(np.sum(readout**2))
    mean = (_PRIOR_SHARE / _PRIOR_SPREAD**2 + precision * float(np.sum(readout * rest))) / total
    return min(max(mean, 0.0), 1.0)


def _features(
    start: Foundation, examples: Examples, histories: Histories, tokens: Tokens
) -> Iterator[tuple[Floats, Examples]]:
    n = len(examples.ratings)
    for first in range(0, n, _STEP):
        part = examples.take(np.arange(first, min(first + _STEP, n)))
        yield (
            np.hstack(
                [
                    _mean_tokens(histories.by_user, part.of_user, tokens),
                    _mean_tokens(histories.by_item, part.of_item, tokens),
                    _BIAS_WEIGHT * start.bias_features(part.user_bias, part.item_bias),
                    np.ones((len(part.ratings), 1)),
                ]
            ).astype(np.float32),
            part,
        )


def _mean_tokens(lists: Lists, places: Ints, tokens: Tokens) -> Floats:
    means = np.zeros((len(places), tokens.scale.token_dim), np.float32)
    filled = places >= 0
    counts = filled.sum(1)
    some = np.flatnonzero(counts)
    if some.size:
        starts = np.cumsum(counts[some]) - counts[some]
        means[some] = np.add.reduceat(tokens.take(lists.reviews[places[filled]]).numpy(), starts, axis=0)
    means /= (counts + PRIOR_REVIEWS).astype(np.float32)[:, None]
    return means


def _at_most(examples: Examples, rng: np.random.Generator) -> Examples:
    n = len(examples.ratings)
    return examples if n <= _MAX_ROWS else examples.take(np.sort(rng.choice(n, _MAX_ROWS, replace=False)))
