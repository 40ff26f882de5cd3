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
    unwritten: str | None = None  # the error for which that file was not written

    @property
    def file_names(self) -> tuple[str, ...]:
        """What the name of its file begins with, between dots."""
        return file_names(self.domain, self.split, self.protocol)

    def against(self, reference: str) -> tuple[Difference, ...]:
        """Test MSE of every system minus that of `reference`: the bias model, or `HEAD`, the first head."""
        mse = [entry for entry in self.summary if entry.metric == "mse"]
        return tuple(entry for entry in mse if model_and_encoder(entry.reference)[0] == reference)

    def named(self, model: str) -> Difference | None:
        """The first system with that model, compared with the bias model."""
        entries = self.against(BASELINES[1])
        return next((entry for entry in entries if model_and_encoder(entry.system)[0] == model), None)

    @property
    def headline(self) -> Difference | None:
        """The first head whose error is a valid result: one that never saw the review to be predicted."""
        return self.named(STRICT if self.protocol == "paper" else HEAD)

    @property
    def variants(self) -> tuple[Difference, ...]:
        """The ablations of the first head, compared with it."""
        return tuple(entry for entry in self.against(HEAD) if model_and_encoder(entry.system)[0] not in NO_VARIANTS)

    def by_run(self) -> list[dict[str, Any]]:
        """Each run of a system on a split: seed, model, encoder, n_test, and the value of each metric."""
        runs: dict[tuple[str, str], dict[str, Any]] = {}
        for row in self.runs:
            model, encoder = model_and_encoder(row.system)
            seed = row.split.rpartition("-")[2]
            encoder = encoder and encoder.replace("{seed}", str(self.split_seed) if self.split == "time" else seed)
            run = {"seed": seed, "model": model, "encoder": encoder, "n_test": row.n}
            runs.setdefault((row.split, row.system), run)[row.metric] = row.value
        return [*runs.values()]

    def by_bucket(self) -> list[dict[str, Any]]:
        """Each group of test pairs, over all splits: kind, name, number of pairs, and the MSE of each model."""
        buckets: dict[str, dict[str, Any]] = {}
        for row in self.buckets:
            if row.metric == "mse":
                by, _, name = row.group.partition("=")
                bucket = buckets.setdefault(row.group, {"by": by, "bucket": name, "n_test": row.n})
                bucket[model_and_encoder(row.system)[0]] = row.value
        return [*buckets.values()]


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
    names = [np.format_float_positional(level, trim="-") for level in levels.astype(np.float32)]
    buckets += group_rows(grouped, "rating", names, codes)
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
