"""The registry of metrics. A metric has one value per test example, in float64; a system's result is the mean."""

from __future__ import annotations

import math

import numpy as np

from loid_infer.types import Bools, Floats, Ints


def squared_errors(predictions: Floats, truth: Floats) -> Floats:
    """Squared errors `[n]`; their mean is the MSE (LoID eq. 4, eq. 10 and table 1)."""
    return (predictions.astype(np.float64) - truth.astype(np.float64)) ** 2


def absolute_errors(predictions: Floats, truth: Floats) -> Floats:
    """Absolute errors `[n]`; their mean is the MAE."""
    return np.abs(predictions.astype(np.float64) - truth.astype(np.float64))


METRICS = {"mse": squared_errors, "mae": absolute_errors}


def clipped(predictions: Floats, rating_range: tuple[float, float]) -> Floats:
    """Predictions `[n]` clipped to the rating range, float64."""
    return np.clip(predictions.astype(np.float64), *rating_range)


def mse(predictions: Floats, truth: Floats) -> float:
    """Mean squared error; nan without examples."""
    return float(np.mean(squared_errors(predictions, truth))) if len(truth) else math.nan


def aucs(scores: Floats, labels: Bools, groups: Ints) -> Floats:
    """The area under the ROC curve of each group with both labels, `[k]`, in the order of group numbers.

    It is the share of pairs of a positive and a negative that are in order; equal scores count half (Fawcett 2006,
    section 7). With one group it is the AUC; the mean over users is the UAUC of CoLLM and CoRA.

    Args:
        scores: `[n]`; none is NaN.
        labels: `[n]`, whether positive.
        groups: `[n]`, numbers from 0.
    """
    order = np.lexsort((scores, groups))
    scores, labels, groups = scores[order], labels[order], groups[order]
    n = int(groups[-1]) + 1 if len(groups) else 0
    starts = np.searchsorted(groups, np.arange(n))
    # Ranks from 1 within the group, the mean of them for equal scores.
    new = np.ones(len(scores), bool)
    new[1:] = (groups[1:] != groups[:-1]) | (scores[1:] != scores[:-1])
    tie, first = np.cumsum(new) - 1, np.flatnonzero(new)
    last = np.append(first[1:], len(scores)) - 1
    ranks = (first[tie] + last[tie]) / 2 + 1 - starts[groups]
    positives = np.bincount(groups, labels, minlength=n)
    negatives = np.bincount(groups, ~labels, minlength=n)
    sums = np.bincount(groups, ranks * labels, minlength=n)
    both = (positives > 0) & (negatives > 0)
    above = sums - positives * (positives + 1) / 2
    found: Floats = above[both] / (positives[both] * negatives[both])
    return found


def auc_draws(scores: Floats, labels: Bools, users: Ints, n_draws: int, seed: int) -> Floats:
    """The AUC of all rows in `n_draws` bootstrap samples of the users, `[n_draws]`, the same samples for a seed.

    A sample without one of the labels, which needs very few users, counts as .5.

    Args:
        scores, labels, users: `[n]`, as for `aucs`.
    """
    order = np.argsort(scores, kind="stable")
    scores, labels, users = scores[order], labels[order], np.unique(users, return_inverse=True)[1][order]
    tie = np.cumsum(np.append(False, scores[1:] != scores[:-1]))  # the number of each row's score
    n_users, n_ties = int(users.max()) + 1, int(tie[-1]) + 1
    found = np.full(n_draws, 0.5)
    rng = np.random.Generator(np.random.Philox(seed))
    for draw in range(n_draws):
        weights = np.bincount(rng.integers(n_users, size=n_users), minlength=n_users)[users]
        positives, negatives = (np.bincount(tie, weights * chosen, minlength=n_ties) for chosen in (labels, ~labels))
        below = np.cumsum(negatives) - negatives
        n_pairs = positives.sum() * negatives.sum()
        if n_pairs:
            found[draw] = (positives * (below + negatives / 2)).sum() / n_pairs
    return found
