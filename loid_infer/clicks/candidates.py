"""Metrics of test parts in which every user has one positive pair among negatives, as in leave-one-out evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from loid_infer.evaluation.ranking import recall
from loid_infer.types import Array, Bools, Floats, Ints

HITS = {"hr@1": 1, "hr@2": 2}
RATIOS = ("precision", "recall", "f1")


def is_ranking(labels: Bools, users: Ints) -> bool:
    """Whether every user of the pairs `[n]` has one positive pair, and negative ones."""
    _, codes = np.unique(users, return_inverse=True)
    n, positive = np.bincount(codes), np.bincount(codes, labels)
    return len(n) > 0 and bool((positive == 1).all()) and bool((n > 1).all())


def hits(scores: Floats, labels: Bools, users: Ints) -> dict[str, Floats]:
    """The hit rates at 1 and 2 of each user `[n_users]`; equal scores have the mean of their ranks."""
    _, codes = np.unique(users, return_inverse=True)
    own = np.empty(codes.max() + 1)
    own[codes[labels]] = scores[labels]
    others = ~labels
    above = np.bincount(codes[others], scores[others] > own[codes[others]])
    equal = np.bincount(codes[others], scores[others] == own[codes[others]])
    ranks = 1 + above + equal / 2
    return {name: recall(ranks, k) for name, k in HITS.items()}


def log_odds(logits: Floats, starts: Ints) -> Floats:
    """The logit `[n]` of each candidate's probability, -80 to 40, from logits `[n]` in groups."""
    logits = logits.astype(np.float64)
    sums = np.logaddexp.reduceat(logits, starts[:-1])
    gaps = np.minimum(logits - np.repeat(sums, np.diff(starts)), -1e-18)
    found: Floats = np.clip(gaps - np.log(-np.expm1(gaps)), -80, 40).astype(np.float32)
    return found


def balanced(labels: Bools, users: Ints) -> Ints:
    """The rows `[2 n_users]` of each user's positive pair and of the first negative one."""
    order = np.lexsort((np.arange(len(users)), labels, users))
    first = np.flatnonzero(np.append(True, users[order][1:] != users[order][:-1]))
    negatives = order[first]
    return np.sort(np.concatenate([negatives, np.flatnonzero(labels)]))


def best_threshold(scores: Floats, labels: Bools) -> float:
    """The score from which on `[n]` pairs are called positive so that F1 is largest."""
    order = np.argsort(-scores, kind="stable")
    ordered, true = scores[order], np.cumsum(labels[order])
    f1 = 2 * true / (np.arange(1, len(scores) + 1) + labels.sum())
    ends = np.append(ordered[1:] != ordered[:-1], True)  # equal scores are called the same
    return float(ordered[np.argmax(np.where(ends, f1, -1.0))])


@dataclass(frozen=True, slots=True, eq=False)
class Ratios:
    """Precision, recall and F1 of balanced pairs, and of draws of their users."""

    values: Mapping[str, float]
    draws: Mapping[str, Floats]  # [n_draws] each

    @staticmethod
    def of(scores: Floats, labels: Bools, users: Ints, threshold: float, n_draws: int, seed: int) -> Ratios:
        """Those of pairs `[n]` that are called positive from the threshold on."""
        called = scores >= threshold
        _, codes = np.unique(users, return_inverse=True)
        counts = np.stack([np.bincount(codes, part) for part in (called & labels, called, labels)], axis=1)
        n = len(counts)
        weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), n_draws)
        whole, drawn = (_ratios(weight @ counts) for weight in (np.ones((1, n)), weights.astype(np.float64)))
        return Ratios({name: float(whole[name][0]) for name in RATIOS}, drawn)


def _ratios(sums: Array) -> dict[str, Floats]:
    true, called, positive = sums.T
    precision = true / np.maximum(called, 1)
    found = true / np.maximum(positive, 1)
    return {"precision": precision, "recall": found, "f1": 2 * true / np.maximum(called + positive, 1)}
