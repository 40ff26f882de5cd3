"""Results of systems on the same test examples: long rows of figures, paired differences, groups of examples."""

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
    """One figure of one system."""

    system: str
    domain: str
    split: str  # empty: all splits together
    metric: str
    value: float
    n: int  # test examples
    group: str = ""  # of test examples, as `kind=name`; empty: all


@dataclass(frozen=True, slots=True)
class Difference:
    """A system compared with a reference by one metric, means over splits."""

    system: str
    reference: str
    metric: str
    value: float  # of the system
    difference: float  # the system's value less the reference's
    low: float | None  # 95 % interval of the difference; None: one split says nothing of others
    high: float | None


@dataclass(frozen=True, slots=True)
class Bin:
    """Test examples with similar predictions."""

    predicted: float  # mean
    rated: float  # mean
    n_test: int


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A system's predictions for the test examples of one split, by every metric."""

    system: str
    domain: str
    split: str
    predictions: Floats  # [n]
    values: Mapping[str, Floats]  # by metric, [n]
    figures: Mapping[str, float]  # other figures of the run

    def rows(self) -> Iterator[Row]:
        """The mean of every metric, and the other figures."""
        means = {metric: float(values.mean()) for metric, values in self.values.items()}
        for name, value in {**means, **self.figures}.items():
            yield Row(self.system, self.domain, self.split, name, value, len(self.predictions))


def measure(
    system: str, domain: str, split: str, predictions: Floats, truth: Floats, figures: Mapping[str, float]
) -> Result:
    """The result of `predictions [n]` for examples with the ratings, or other labels, `truth [n]`."""
    values = {name: metric(predictions, truth) for name, metric in METRICS.items()}
    return Result(system, domain, split, predictions, values, figures)


def averaged(results: Sequence[Result]) -> Result:
    """Several runs on one split as one result: means for each example."""
    values = {name: np.mean([one.values[name] for one in results], axis=0) for name in results[0].values}
    return replace(results[0], predictions=np.mean([one.predictions for one in results], axis=0), values=values)


def differences(
    results: Sequence[Sequence[Result]], references: Sequence[str], test_share: float | None
) -> Iterator[Difference]:
    """Every system against every reference by every metric, in the order of the systems.

    Args:
        results: one sequence a split, of the same systems in the same order.
        test_share: `n_test / n_train` of random splits; None: all are runs on one split, and intervals are over its
            examples.
    """
    systems = [one.system for one in results[0]]
    for column, system in enumerate(systems):
        for metric in METRICS:
            values = [row[column].values[metric] for row in results]
            mean = float(np.mean([part.mean() for part in values]))
            for reference in references:
                other = systems.index(reference)
                parts = [part - row[other].values[metric] for part, row in zip(values, results, strict=True)]
                if test_share is None:
                    interval = paired(np.mean(parts, axis=0))
                else:
                    interval = paired(np.array([part.mean() for part in parts]), test_share)
                yield Difference(system, reference, metric, mean, *interval)


def group_rows(results: Sequence[Sequence[Result]], kind: str, names: Sequence[str], codes: Ints) -> Iterator[Row]:
    """Every metric of every system in each group that has examples, all splits together.

    Args:
        results: one sequence a split, of the same systems in the same order.
        kind, names, codes: a partition of the examples of all splits, one split after another, by codes `[n]` of names.
    """
    for code, name in enumerate(names):
        chosen = codes == code
        for column, first in enumerate(results[0]) if chosen.any() else ():
            for metric in METRICS:
                values = np.concatenate([row[column].values[metric] for row in results])[chosen]
                mean = float(values.mean())
                yield Row(first.system, first.domain, "", metric, mean, len(values), f"{kind}={name}")


def calibration(predictions: Floats, ratings: Floats) -> Iterator[Bin]:
    """Predictions `[n]` and what was rated `[n]`, in ten bins of similar size by the prediction."""
    for chosen in np.array_split(np.argsort(predictions, kind="stable"), _N_BINS):
        if len(chosen):
            yield Bin(float(predictions[chosen].mean()), float(ratings[chosen].mean()), len(chosen))
