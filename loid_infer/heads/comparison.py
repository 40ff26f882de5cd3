"""Models measured on the same test pairs: how much better one is than another, where, and how sure that is.

This file knows predictions and who was seen how often; it fits nothing and knows no vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from loid_infer.kernels import metrics
from loid_infer.types import Bools, Floats, Interactions, Ints, Split

HEAD = "head"
BASELINES = ("global mean", "bias", "mf")
OWN_TEXT, STRICT = "reads the target's own text (impossible)", "head, strict protocol"
NO_VARIANTS = (*BASELINES, HEAD, OWN_TEXT, STRICT)  # what is not the head with one thing changed
_HISTORY = ((0, 0, "0"), (1, 2, "1-2"), (3, 5, "3-5"), (6, math.inf, "more"))
_N_BINS = 10


@dataclass(frozen=True, slots=True)
class Run:
    """One model on one split."""

    seed: int
    model: str
    encoder: str | None
    n_test: int
    mse: float
    mae: float
    train_mse: float | None  # of heads and biases, on the pairs they were fitted on, own ratings and all
    network_share: float | None  # see FitResult
    seconds: float


@dataclass(frozen=True, slots=True)
class ModelErrors:
    """One model over all splits. Differences are this model's MSE less the other's; below zero it is better."""

    model: str
    encoder: str | None
    mse: float  # mean over splits
    mae: float
    against_bias: float
    against_bias_low: float | None  # 95 % interval; None: one split says nothing of others
    against_bias_high: float | None
    against_head: float
    against_head_low: float | None
    against_head_high: float | None


@dataclass(frozen=True, slots=True)
class Bucket:
    """MSE over the test pairs of one kind, all splits together."""

    by: str  # history: the fewer training reviews of the user's and the item's | rating
    bucket: str
    n_test: int
    global_mean: float
    bias: float
    mf: float
    head: float


@dataclass(frozen=True, slots=True)
class Bin:
    """Test pairs with like predictions, all splits together."""

    predicted: float  # mean
    rated: float  # mean
    n_test: int


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A run with its clipped predictions and squared errors, `[n_test]` each."""

    run: Run
    predicted: Floats
    squares: Floats


def measured(
    data: Interactions,
    split: Split,
    seed: int,
    model: str,
    predicted: Floats,
    *,
    encoder: str | None = None,
    before: Floats | None = None,
    network_share: float | None = None,
    seconds: float = 0.0,
) -> Measured:
    """`model` on the test pairs of `split`.

    Args:
        predicted: ratings of the test pairs `[n_test]`, not clipped; `before` those of the training pairs `[n_train]`.
    """
    test, train = data.ratings[split.test].astype(np.float64), data.ratings[split.train]
    predicted = metrics.clipped(predicted, data.rating_range)
    train_mse = None if before is None else metrics.mse(metrics.clipped(before, data.rating_range), train)
    run = Run(seed, model, encoder, len(test), metrics.mse(predicted, test), metrics.mae(predicted, test), train_mse,
              network_share, seconds)  # fmt: skip
    return Measured(run, predicted, (predicted - test) ** 2)


def summary(found: Sequence[Sequence[Measured]], parts: Split, *, by_rows: bool) -> Iterator[ModelErrors]:
    """Every model against the biases and against the head, in the order of the runs.

    Args:
        found: one row a split, the same models in the same order in each.
        by_rows: all rows are one split: intervals are over its test pairs, not over splits.
    """
    share = parts.test.sum() / parts.train.sum()

    def against(column: int, other: int) -> metrics.Paired:
        differences = [row[column].squares - row[other].squares for row in found]
        if by_rows:
            return metrics.paired(np.mean(differences, axis=0))
        return metrics.paired(np.array([part.mean() for part in differences]), float(share))

    bias, head = _column(found, "bias"), _column(found, HEAD)
    for column, first in enumerate(found[0]):
        runs = [row[column].run for row in found]
        to_bias, to_head = against(column, bias), against(column, head)
        yield ModelErrors(
            first.run.model, first.run.encoder, float(np.mean([run.mse for run in runs])),
            float(np.mean([run.mae for run in runs])), *_interval(to_bias), *_interval(to_head),
        )  # fmt: skip


def averaged(found: Sequence[Sequence[Measured]]) -> list[Measured]:
    """Several runs on one split as one row: mean predictions and mean squared errors of each pair."""
    columns = [[row[i] for row in found] for i in range(len(found[0]))]
    return [Measured(runs[0].run, np.mean([one.predicted for one in runs], axis=0),
                     np.mean([one.squares for one in runs], axis=0)) for runs in columns]  # fmt: skip


def buckets(found: Sequence[Sequence[Measured]], parts: Sequence[Split], data: Interactions) -> Iterator[Bucket]:
    """By how many training reviews there are, and by rating.

    Args:
        found: one row a split, the same models in the same order in each.
    """
    models = [_column(found, name) for name in (*BASELINES, HEAD)]
    squares = np.stack([np.concatenate([row[i].squares for row in found]) for i in models])
    fewest = np.concatenate([_fewest(data, part) for part in parts])
    ratings = np.concatenate([data.ratings[part.test] for part in parts])

    def bucket(by: str, name: str, rows: Bools) -> Iterator[Bucket]:
        if rows.any():
            yield Bucket(by, name, int(rows.sum()), *(float(part[rows].mean()) for part in squares))

    for low, high, name in _HISTORY:
        yield from bucket("history", name, (fewest >= low) & (fewest <= high))
    for rating in np.unique(ratings):
        yield from bucket("rating", f"{rating:g}", ratings == rating)


def _fewest(data: Interactions, part: Split) -> Ints:
    """Training reviews `[n_test]` of each test pair's user or item, whichever has fewer."""
    counts = [np.bincount(codes[part.train], minlength=len(names))[codes[part.test]]
              for codes, names in ((data.users, data.user_ids), (data.items, data.item_ids))]  # fmt: skip
    fewest: Ints = np.minimum(*counts)
    return fewest


def calibration(found: Sequence[Sequence[Measured]], parts: Sequence[Split], data: Interactions) -> Iterator[Bin]:
    """The head's predictions in ten parts of like size."""
    at = _column(found, HEAD)
    predicted = np.concatenate([row[at].predicted for row in found])
    ratings = np.concatenate([data.ratings[part.test] for part in parts]).astype(np.float64)
    for rows in np.array_split(np.argsort(predicted, kind="stable"), _N_BINS):
        if len(rows):
            yield Bin(float(predicted[rows].mean()), float(ratings[rows].mean()), len(rows))


def _interval(found: metrics.Paired) -> tuple[float, float | None, float | None]:
    return (found.mean, found.low, found.high) if math.isfinite(found.low) else (found.mean, None, None)


def _column(found: Sequence[Sequence[Measured]], model: str) -> int:
    return next(i for i, one in enumerate(found[0]) if one.run.model == model)
