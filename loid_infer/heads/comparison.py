"""What `evaluate` compares: the names of the systems, its result, and the groups of test pairs that it tells apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from loid_infer.evaluation.rows import Bin, Difference, Result, Row, averaged, calibration, differences, group_rows
from loid_infer.types import Interactions, Ints, Split

HEAD = "head"
BASELINES = ("global mean", "bias", "mf")
OWN_TEXT, STRICT = "reads the target's own text (impossible)", "head, strict protocol"
NO_VARIANTS = (*BASELINES, HEAD, OWN_TEXT, STRICT)  # what is not the head with one thing changed
_AT = " @ "  # between a model and its encoder, in the name of a system
_HISTORY = ("0", "1-2", "3-5", "more")
_LONGEST = (0, 2, 5)  # of the first three


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """How good a head is, and how sure that is. Errors are of clipped predictions, in float64.

    A system is called as its model, with ` @ ` and its encoder if it has one.
    """

    domain: str
    encoders: tuple[str, ...]
    preset: str
    protocol: str
    split: str
    split_seed: int  # the first
    n_seeds: int
    interval: str | None  # what the 95 % intervals are taken over; None: one split gives none
    runs: tuple[Row, ...]  # by split; for heads and baselines also the error in training
    buckets: tuple[Row, ...]  # of groups of test pairs, all splits together
    summary: tuple[Difference, ...]  # from the bias model and from the first head
    calibration: tuple[Bin, ...]  # of the first head
    path: str  # of all this as JSON
    seconds: float


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


def system(model: str, encoder: str | None) -> str:
    """The name of a model on the vectors of an encoder, if it sees any."""
    return f"{model}{_AT}{encoder}" if encoder else model


def model_and_encoder(system: str) -> tuple[str, str | None]:
    """The parts of the name of a system."""
    model, _, encoder = system.partition(_AT)
    return model, encoder or None


def compare(
    results: Sequence[Sequence[Result]], head: str, data: Interactions, parts: Sequence[Split]
) -> tuple[tuple[Row, ...], tuple[Row, ...], tuple[Difference, ...], tuple[Bin, ...]]:
    """The runs, buckets, summary and calibration of an `EvaluateResult`.

    Groups of test pairs are by the fewer training reviews of the user's and the item's, and by rating.

    Args:
        results: one sequence a split, of the same systems in the same order.
        head: the system that the others are compared with, besides the bias model.
        parts: the splits; those by time are all the same one, and its test pairs count once.
    """
    by_time = parts[0].kind == "time"
    share = None if by_time else float(parts[0].test.sum() / parts[0].train.sum())
    runs = tuple(row for one in chain(*results) for row in one.rows())
    summary = tuple(differences(results, (BASELINES[1], head), share))
    if by_time:
        results, parts = [[averaged(runs) for runs in zip(*results, strict=True)]], parts[:1]
    grouped = [[one for one in row if one.system in (*BASELINES, head)] for row in results]
    fewest = np.concatenate([_fewest(data, part) for part in parts])
    buckets = [*group_rows(grouped, "history", _HISTORY, np.searchsorted(_LONGEST, fewest))]
    ratings = np.concatenate([data.ratings[part.test] for part in parts]).astype(np.float64)
    levels, codes = np.unique(ratings, return_inverse=True)
    buckets += group_rows(grouped, "rating", [f"{level:g}" for level in levels], codes)
    predictions = np.concatenate([next(one.predictions for one in row if one.system == head) for row in results])
    return runs, tuple(buckets), summary, tuple(calibration(predictions, ratings))


def _fewest(data: Interactions, part: Split) -> Ints:
    """Training reviews `[n_test]` of each test pair's user or item, whichever has fewer."""
    counts = [
        np.bincount(codes[part.train], minlength=len(names))[codes[part.test]]
        for codes, names in ((data.users, data.user_ids), (data.items, data.item_ids))
    ]
    fewest: Ints = np.minimum(*counts)
    return fewest


def records(result: EvaluateResult) -> dict[str, list[dict[str, Any]]]:
    """The rows of a result as the fields of `Run`, `ModelErrors` and `Bucket`."""
    runs: dict[tuple[str, str], dict[str, Any]] = {}
    splits = list(dict.fromkeys(row.split for row in result.runs))
    for row in result.runs:
        model, encoder = model_and_encoder(row.system)
        seed = result.split_seed + splits.index(row.split)
        encoder = encoder and encoder.replace("{seed}", str(result.split_seed if result.split == "time" else seed))
        run = {"seed": seed, "model": model, "encoder": encoder, "n_test": row.n}
        run |= {"train_mse": None, "network_share": None, "seconds": 0.0}  # where there is no such row
        runs.setdefault((row.split, row.system), run)[row.metric] = row.value
    buckets: dict[str, dict[str, Any]] = {}
    for row in result.buckets:
        if row.metric == "mse":
            by, _, name = row.group.partition("=")
            bucket = buckets.setdefault(row.group, {"by": by, "bucket": name, "n_test": row.n})
            bucket[model_and_encoder(row.system)[0].replace(" ", "_")] = row.value
    models: dict[str, dict[str, Any]] = {}
    for one in result.summary:
        model, encoder = model_and_encoder(one.system)
        errors = models.setdefault(one.system, {"model": model, "encoder": encoder})
        errors[one.metric] = one.value
        if one.metric == "mse":
            against = f"against_{model_and_encoder(one.reference)[0]}"
            errors |= {against: one.difference, f"{against}_low": one.low, f"{against}_high": one.high}
    return {"runs": [*runs.values()], "summary": [*models.values()], "buckets": [*buckets.values()]}
