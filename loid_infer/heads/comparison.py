"""The systems that `evaluate` compares, its result, and the groups of test pairs."""

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
NO_VARIANTS = (*BASELINES, HEAD, OWN_TEXT, STRICT)  # all systems that are not ablations of the head
_AT = " @ "  # between a model and its encoder, in the name of a system
_HISTORY = ("0", "1-2", "3-5", "more")
_MAX_LENGTHS = (0, 2, 5)  # of the first three groups


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """The result of `evaluate`. Errors are of clipped predictions, in float64.

    The name of a system is its model, followed by ` @ ` and its encoder if it has one.
    """

    domain: str
    encoders: tuple[str, ...]
    preset: str
    protocol: str
    split: str
    split_seed: int  # the first
    n_seeds: int
    interval: str | None  # what the 95 % intervals are over; None: no intervals, with one split
    runs: tuple[Row, ...]  # per split; for heads and baselines also the training error
    buckets: tuple[Row, ...]  # per group of test pairs, over all splits
    summary: tuple[Difference, ...]  # from the bias model and the first head
    calibration: tuple[Bin, ...]  # of the first head
    path: str  # of this result as JSON
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
    train_mse: float | None  # of heads and biases, in-sample
    network_share: float | None  # see FitResult
    seconds: float


@dataclass(frozen=True, slots=True)
class ModelErrors:
    """One model over all splits. Differences are this model's MSE minus the other's; negative is better."""

    model: str
    encoder: str | None
    mse: float  # mean over splits
    mae: float
    against_bias: float
    against_bias_low: float | None  # 95 % interval; None with a single random split
    against_bias_high: float | None
    against_head: float
    against_head_low: float | None
    against_head_high: float | None


@dataclass(frozen=True, slots=True)
class Bucket:
    """MSE over one group of test pairs, over all splits."""

    by: str  # history (the smaller number of training reviews of user and item) | rating
    bucket: str
    n_test: int
    global_mean: float
    bias: float
    mf: float
    head: float


def file_names(domain: str, split: str, protocol: str) -> tuple[str, ...]:
    """What the name of an evaluation's file begins with, between dots: one file per domain, protocol, kind of split."""
    marks = ("time" if split == "time" else "", "paper" if protocol == "paper" else "")
    return (domain, *filter(None, marks))


def system(model: str, encoder: str | None) -> str:
    """The name of a model on the vectors of an encoder; baselines have no encoder."""
    return f"{model}{_AT}{encoder}" if encoder else model


def model_and_encoder(system: str) -> tuple[str, str | None]:
    """The inverse of `system`."""
    model, _, encoder = system.partition(_AT)
    return model, encoder or None


def compare(
    results: Sequence[Sequence[Result]], head: str, data: Interactions, parts: Sequence[Split]
) -> tuple[tuple[Row, ...], tuple[Row, ...], tuple[Difference, ...], tuple[Bin, ...]]:
    """The runs, buckets, summary and calibration of an `EvaluateResult`.

    Args:
        results: one sequence per split, with the same systems in the same order.
        head: the reference system, besides the bias model.
        parts: the splits; splits by time are all equal, and their test pairs count once.
    """
    by_time = parts[0].kind == "time"
    share = None if by_time else float(parts[0].test.sum() / parts[0].train.sum())
    runs = tuple(row for result in chain(*results) for row in result.rows())
    summary = tuple(differences(results, (BASELINES[1], head), share))
    if by_time:
        results, parts = [[averaged(runs) for runs in zip(*results, strict=True)]], parts[:1]
    grouped = [[result for result in row if result.system in (*BASELINES, head)] for row in results]
    lengths = np.concatenate([_shorter_history(data, part) for part in parts])
    buckets = [*group_rows(grouped, "history", _HISTORY, np.searchsorted(_MAX_LENGTHS, lengths))]
    ratings = np.concatenate([data.ratings[part.test] for part in parts]).astype(np.float64)
    levels, codes = np.unique(ratings, return_inverse=True)
    buckets += group_rows(grouped, "rating", [f"{level:g}" for level in levels], codes)
    predictions = np.concatenate([next(r.predictions for r in row if r.system == head) for row in results])
    return runs, tuple(buckets), summary, tuple(calibration(predictions, ratings))


def _shorter_history(data: Interactions, part: Split) -> Ints:
    """The smaller number of training reviews of user and item, `[n_test]`."""
    counts = [
        np.bincount(codes[part.train], minlength=len(names))[codes[part.test]]
        for codes, names in ((data.users, data.user_ids), (data.items, data.item_ids))
    ]
    lengths: Ints = np.minimum(*counts)
    return lengths


def records(result: EvaluateResult) -> dict[str, list[dict[str, Any]]]:
    """The rows of a result as the fields of `Run`, `ModelErrors` and `Bucket`."""
    runs: dict[tuple[str, str], dict[str, Any]] = {}
    splits = list(dict.fromkeys(row.split for row in result.runs))
    for row in result.runs:
        model, encoder = model_and_encoder(row.system)
        seed = result.split_seed + splits.index(row.split)
        encoder = encoder and encoder.replace("{seed}", str(result.split_seed if result.split == "time" else seed))
        run = {"seed": seed, "model": model, "encoder": encoder, "n_test": row.n}
        run |= {"train_mse": None, "network_share": None, "seconds": 0.0}  # if there is no such row
        runs.setdefault((row.split, row.system), run)[row.metric] = row.value
    buckets: dict[str, dict[str, Any]] = {}
    for row in result.buckets:
        if row.metric == "mse":
            by, _, name = row.group.partition("=")
            bucket = buckets.setdefault(row.group, {"by": by, "bucket": name, "n_test": row.n})
            bucket[model_and_encoder(row.system)[0].replace(" ", "_")] = row.value
    models: dict[str, dict[str, Any]] = {}
    for entry in result.summary:
        model, encoder = model_and_encoder(entry.system)
        errors = models.setdefault(entry.system, {"model": model, "encoder": encoder})
        errors[entry.metric] = entry.value
        if entry.metric == "mse":
            against = f"against_{model_and_encoder(entry.reference)[0]}"
            errors |= {against: entry.difference, f"{against}_low": entry.low, f"{against}_high": entry.high}
    return {"runs": [*runs.values()], "summary": [*models.values()], "buckets": [*buckets.values()]}
