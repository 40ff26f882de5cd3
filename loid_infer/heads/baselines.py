"""The models every head is compared with: global mean, regularized biases, biases with factors; tuned on validation.

This file sees codes and ratings of the training part, and those of the validation part to choose the regularization.
It knows no text and no vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from loid_infer.data.histories import CodePairs
from loid_infer.evaluation import metrics
from loid_infer.kernels import sampling
from loid_infer.types import Bools, Floats, Ints

BIAS_GRID = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
FACTOR_GRID = (4.0, 16.0, 64.0)
N_FACTORS = 4
N_FOLDS = 20
_SWEEPS = 12


@dataclass(frozen=True, slots=True)
class Ratings:
    """Some of the reviews, as what they say about ratings."""

    users: Ints  # [n]
    items: Ints  # [n]
    values: Floats  # [n], float64
    n_users: int
    n_items: int

    def where(self, rows: Bools) -> Ratings:
        """Those of `rows [n]`."""
        return replace(self, users=self.users[rows], items=self.items[rows], values=self.values[rows])


class Head(Protocol):
    """Anything that gives ratings for pairs: a baseline or a LoID head."""

    def predict(self, pairs: CodePairs) -> Floats:
        """Ratings `[n]`, float64, not clipped. Code -1 is an unknown user or item. A pair's rating depends on that
        pair only, not on what else is asked."""


@dataclass(frozen=True, slots=True)
class BiasModel:
    """`mean + b_u + b_i`; the bias of an unknown user or item is 0."""

    mean: float
    user_bias: Floats  # [n_users + 1]; the last is 0, so that code -1 finds it
    item_bias: Floats  # [n_items + 1]
    lambda_user: float
    lambda_item: float

    def predict(self, pairs: CodePairs) -> Floats:
        """See `Head`."""
        rating: Floats = self.mean + self.user_bias[pairs.users] + self.item_bias[pairs.items]
        return rating


@dataclass(frozen=True, slots=True)
class FactorModel:
    """`mean + b_u + b_i + q_u . q_i`: matrix factorization of what the biases leave (Koren, Bell, Volinsky 2009, eq. 4
    with alternating least squares); an unknown user or item has the factors 0."""

    bias: BiasModel
    users: Floats  # [n_users + 1, N_FACTORS]
    items: Floats  # [n_items + 1, N_FACTORS]

    def predict(self, pairs: CodePairs) -> Floats:
        """See `Head`."""
        interaction: Floats = (self.users[pairs.users] * self.items[pairs.items]).sum(1)
        return self.bias.predict(pairs) + interaction


@dataclass(frozen=True, slots=True)
class Baselines:
    """The three, fitted on one training part."""

    mean: BiasModel  # without any bias: the mean training rating for every pair
    bias: BiasModel
    factors: FactorModel


def fit_baselines(train: Ratings, valid: Ratings, rating_range: tuple[float, float], seed: int) -> Baselines:
    """The three baselines, each with the regularization that has the least validation MSE (clipped)."""
    pairs = CodePairs(valid.users, valid.items, np.full(len(valid.users), -1))

    def error(model: Head) -> float:
        return metrics.mse(metrics.clipped(model.predict(pairs), rating_range), valid.values)

    bias = min((fit_bias(train, user, item) for user in BIAS_GRID for item in BIAS_GRID), key=error)
    factors = min((_fit_factors(train, bias, penalty, seed) for penalty in FACTOR_GRID), key=error)
    return Baselines(fit_bias(train, np.inf, np.inf), bias, factors)


def fit_bias(train: Ratings, lambda_user: float, lambda_item: float) -> BiasModel:
    """Ridge regression on user and item, solved by turns: `b_u = sum(r - mean - b_i) / (lambda_u + n_u)`, and so on."""
    mean = float(train.values.mean()) if len(train.values) else 0.0
    rest = train.values - mean
    user, item = np.zeros(train.n_users + 1), np.zeros(train.n_items + 1)
    per_user = lambda_user + np.bincount(train.users, minlength=len(user))
    per_item = lambda_item + np.bincount(train.items, minlength=len(item))
    for _ in range(_SWEEPS):
        item = np.bincount(train.items, rest - user[train.users], len(item)) / per_item
        user = np.bincount(train.users, rest - item[train.items], len(user)) / per_user
    return BiasModel(mean, user, item, lambda_user, lambda_item)


def left_out_biases(train: Ratings, bias: BiasModel, seed: int) -> tuple[Floats, Floats]:
    """User and item bias `[n]` of every training rating, from fits that did not see that rating.

    A rating's share is 1/20 of the training part, drawn by (seed, pair). Subtracting a rating's own term from its
    user's sum is no substitute: the rating has gone into the biases of all its neighbors as well, and a head trained on
    such features reads it there.
    """
    key = sampling.keys(seed, train.users, train.items)
    folds = sampling.below(key, np.full(len(key), N_FOLDS))
    user, item = np.zeros(len(folds)), np.zeros(len(folds))
    for fold in range(N_FOLDS):
        out = folds == fold
        model = fit_bias(train.where(~out), bias.lambda_user, bias.lambda_item)
        user[out], item[out] = model.user_bias[train.users[out]], model.item_bias[train.items[out]]
    return user, item


def _fit_factors(train: Ratings, bias: BiasModel, penalty: float, seed: int) -> FactorModel:
    rest = train.values - bias.predict(CodePairs(train.users, train.items, train.users))
    rng = np.random.default_rng(seed)
    users: Floats = rng.normal(0, 0.1, (train.n_users + 1, N_FACTORS))
    items: Floats = np.zeros((train.n_items + 1, N_FACTORS))
    for _ in range(_SWEEPS):
        items = _solve(train.items, users[train.users], rest, penalty, len(items))
        users = _solve(train.users, items[train.items], rest, penalty, len(users))
    return FactorModel(bias, users, items)


def _solve(groups: Ints, features: Floats, targets: Floats, penalty: float, n_groups: int) -> Floats:
    """Ridge regression of `targets [n]` on `features [n, f]` within every group: weights `[n_groups, f]`."""
    width = features.shape[1]
    left = np.empty((n_groups, width, width))
    right = np.empty((n_groups, width, 1))
    for a in range(width):
        right[:, a, 0] = np.bincount(groups, features[:, a] * targets, n_groups)
        for b in range(a + 1):
            left[:, a, b] = left[:, b, a] = np.bincount(groups, features[:, a] * features[:, b], n_groups)
        left[:, a, a] += penalty
    solution: Floats = np.linalg.solve(left, right)[:, :, 0]
    return solution
