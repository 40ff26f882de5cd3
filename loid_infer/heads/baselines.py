"""The baselines: global mean, regularized biases, matrix factorization; penalties are tuned on validation."""

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
    """Ratings of (user, item) pairs."""

    users: Ints  # [n]
    items: Ints  # [n]
    values: Floats  # [n], float64
    n_users: int
    n_items: int

    def where(self, rows: Bools) -> Ratings:
        """The selected `rows [n]`."""
        return replace(self, users=self.users[rows], items=self.items[rows], values=self.values[rows])


class Head(Protocol):
    """A model that predicts ratings of pairs."""

    def predict(self, pairs: CodePairs) -> Floats:
        """Ratings `[n]`, float64, not clipped. Code -1 is an unknown user or item. A rating does not depend on the
        other pairs."""


@dataclass(frozen=True, slots=True)
class BiasModel:
    """`mean + b_u + b_i`; the bias of an unknown user or item is 0."""

    mean: float
    user_bias: Floats  # [n_users + 1]; the last is 0, for code -1
    item_bias: Floats  # [n_items + 1]
    lambda_user: float
    lambda_item: float

    def predict(self, pairs: CodePairs) -> Floats:
        """See `Head`."""
        rating: Floats = self.mean + self.user_bias[pairs.users] + self.item_bias[pairs.items]
        return rating


@dataclass(frozen=True, slots=True)
class FactorModel:
    """`mean + b_u + b_i + q_u . q_i`: matrix factorization of the residuals of the biases (Koren, Bell, Volinsky 2009,
    eq. 4, with alternating least squares). Unknown users and items have zero factors."""

    bias: BiasModel
    users: Floats  # [n_users + 1, N_FACTORS]
    items: Floats  # [n_items + 1, N_FACTORS]

    def predict(self, pairs: CodePairs) -> Floats:
        """See `Head`."""
        interaction: Floats = (self.users[pairs.users] * self.items[pairs.items]).sum(1)
        return self.bias.predict(pairs) + interaction


@dataclass(frozen=True, slots=True)
class Baselines:
    """The three baselines, fitted on one training part."""

    mean: BiasModel  # the mean training rating, without biases
    bias: BiasModel
    factors: FactorModel


def fit_baselines(train: Ratings, valid: Ratings, rating_range: tuple[float, float], seed: int) -> Baselines:
    """Fit the baselines, each with the penalties of the lowest validation MSE (clipped)."""
    pairs = CodePairs(valid.users, valid.items, np.full(len(valid.users), -1))

    def error(model: Head) -> float:
        return metrics.mse(metrics.clipped(model.predict(pairs), rating_range), valid.values)

    bias = min((fit_bias(train, user, item) for user in BIAS_GRID for item in BIAS_GRID), key=error)
    factors = min((_fit_factors(train, bias, penalty, seed) for penalty in FACTOR_GRID), key=error)
    return Baselines(fit_bias(train, np.inf, np.inf), bias, factors)


def fit_bias(train: Ratings, lambda_user: float, lambda_item: float) -> BiasModel:
    """Alternating ridge regression on user and item: `b_u = sum(r - mean - b_i) / (lambda_u + n_u)`, and so on."""
    mean = float(train.values.mean()) if len(train.values) else 0.0
    residuals = train.values - mean
    user, item = np.zeros(train.n_users + 1), np.zeros(train.n_items + 1)
    per_user = lambda_user + np.bincount(train.users, minlength=len(user))
    per_item = lambda_item + np.bincount(train.items, minlength=len(item))
    for _ in range(_SWEEPS):
        item = np.bincount(train.items, residuals - user[train.users], len(item)) / per_item
        user = np.bincount(train.users, residuals - item[train.items], len(user)) / per_user
    return BiasModel(mean, user, item, lambda_user, lambda_item)


def out_of_fold_biases(train: Ratings, bias: BiasModel, seed: int) -> tuple[Floats, Floats]:
    """User and item bias `[n]` of each training rating, from a fit without its fold (one of 20, by seed and pair).

    Subtracting a rating from the sum of its user is not enough: it also influenced the biases of all items of that
    user, and a head could reconstruct it from them.
    """
    key = sampling.keys(seed, train.users, train.items)
    folds = sampling.below(key, np.full(len(key), N_FOLDS))
    user, item = np.zeros(len(folds)), np.zeros(len(folds))
    for fold in range(N_FOLDS):
        held_out = folds == fold
        model = fit_bias(train.where(~held_out), bias.lambda_user, bias.lambda_item)
        user[held_out] = model.user_bias[train.users[held_out]]
        item[held_out] = model.item_bias[train.items[held_out]]
    return user, item


def _fit_factors(train: Ratings, bias: BiasModel, penalty: float, seed: int) -> FactorModel:
    residuals = train.values - bias.predict(CodePairs(train.users, train.items, train.users))
    rng = np.random.default_rng(seed)
    users: Floats = rng.normal(0, 0.1, (train.n_users + 1, N_FACTORS))
    items: Floats = np.zeros((train.n_items + 1, N_FACTORS))
    for _ in range(_SWEEPS):
        items = _solve(train.items, users[train.users], residuals, penalty, len(items))
        users = _solve(train.users, items[train.items], residuals, penalty, len(users))
    return FactorModel(bias, users, items)


def _solve(groups: Ints, features: Floats, targets: Floats, penalty: float, n_groups: int) -> Floats:
    """Ridge regression of `targets [n]` on `features [n, f]` per group: weights `[n_groups, f]`."""
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
