"""Results of systems on the same test examples: rows, paired differences, groups of examples, calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from loid_infer.evaluation.intervals import paired
from loid_infer.evaluation.metrics import METRICS
from loid_infer.types import Floats, Ints

_N_BINS = 10


@dataclass(frozen=True, slots=True)
class Row:
    """One number of one system."""

    system: str
    domain: str
    split: str  # empty: over all splits
    metric: str
    value: float
    n: int  # test examples
    group: str = ""  # of test examples, `kind=name`; empty: all


@dataclass(frozen=True, slots=True)
class Difference:
    """A system compared with a reference by one metric; means over splits."""

    system: str
    reference: str
    metric: str
    value: float  # of the system
    difference: float  # value of the system minus value of the reference
    low: float | None  # 95 % interval of the difference; None with a single random split
    high: float | None


@dataclass(frozen=True, slots=True)
class Bin:
    """Test examples with similar predictions."""

    predicted: float  # mean
    rated: float  # mean
    n_test: int


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A system's predictions and metrics on the test examples of one split."""

    system: str
    domain: str
    split: str
    predictions: Floats  # [n]
    values: Mapping[str, Floats]  # by metric, [n]
    figures: Mapping[str, float]  # other numbers of the run, e.g. seconds

    def rows(self) -> Iterator[Row]:
        """The mean of each metric, and the figures."""
        means = {metric: float(values.mean()) for metric, values in self.values.items()}
        for name, value in {**means, **self.figures}.items():
            yield Row(self.system, self.domain, self.split, name, value, len(self.predictions))


def measure(
    system: str, domain: str, split: str, predictions: Floats, truth: Floats, figures: Mapping[str, float]
) -> Result:
    """Evaluate `predictions [n]` against the labels `truth [n]` with every metric."""
    values = {name: metric(predictions, truth) for name, metric in METRICS.items()}
    return Result(system, domain, split, predictions, values, figures)


def averaged(results: Sequence[Result]) -> Result:
    """Average several runs on one split, example by example."""
    values = {name: np.mean([result.values[name] for result in results], axis=0) for name in results[0].values}
    return replace(results[0], predictions=np.mean([result.predictions for result in results], axis=0), values=values)


def differences(
    results: Sequence[Sequence[Result]], references: Sequence[str], test_share: float | None
) -> Iterator[Difference]:
    """Compare every system with every reference by every metric.

    Args:
        results: one sequence per split, with the same systems in the same order.
        test_share: `n_test / n_train` of random splits; None: all runs are on one split, and intervals are over its
            examples.
    """
    systems = [result.system for result in results[0]]
    for column, system in enumerate(systems):
        for metric in METRICS:
            values = [row[column].values[metric] for row in results]
            mean = float(np.mean([part.mean() for part in values]))
            for reference in references:
                reference_column = systems.index(reference)
                parts = [part - row[reference_column].values[metric] for part, row in zip(values, results, strict=True)]
                if test_share is None:
                    interval = paired(np.mean(parts, axis=0))
                else:
                    interval = paired(np.array([part.mean() for part in parts]), test_share)
                yield Difference(system, reference, metric, mean, *interval)


def group_rows(results: Sequence[Sequence[Result]], kind: str, names: Sequence[str], codes: Ints) -> Iterator[Row]:
    """Mean of every metric of every system in each nonempty group of examples, over all splits.

    Args:
        results: one sequence per split, with the same systems in the same order.
        kind: name of the partition.
        names: of the groups.
        codes: `[n]`, the group of each example of the concatenated splits.
    """
    for code, name in enumerate(names):
        selected = codes == code
        for column, first in enumerate(results[0]) if selected.any() else ():
            for metric in METRICS:
                values = np.concatenate([row[column].values[metric] for row in results])[selected]
                mean = float(values.mean())
                yield Row(first.system, first.domain, "", metric, mean, len(values), f"{kind}={name}")


def calibration(predictions: Floats, ratings: Floats) -> Iterator[Bin]:
    """Mean prediction and mean rating in ten bins of similar size, sorted by the prediction `[n]`."""
    for selected in np.array_split(np.argsort(predictions, kind="stable"), _N_BINS):
        if len(selected):
            yield Bin(float(predictions[selected].mean()), float(ratings[selected].mean()), len(selected))
