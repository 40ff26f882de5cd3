"""Results of systems on the same test examples: rows, paired differences and their intervals, groups, calibration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from loid_infer.evaluation.metrics import METRICS
from loid_infer.types import Floats, Ints

_N_BINS = 10
_NORMAL = 1_000  # degrees of freedom from which Student's t equals the normal distribution to three digits


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
        kind: name of the partition into groups.
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


def paired(differences: Floats, test_share: float = 0.0) -> tuple[float, float | None, float | None]:
    """Mean of `differences [n]` and both ends of its 95 % interval, which are None if n = 1.

    For one difference per split this is the corrected resampled t interval (Nadeau & Bengio 2003, section 3, estimator
    7): random splits overlap, so the variance of the mean is `s^2 (1/n + n_test/n_train)`. With `test_share` 0 it is
    Student's t interval, for one difference per test example. In a split of 8:1:1 it is `n_test / n_train` = 1/8.
    """
    n, mean = len(differences), float(np.mean(differences, dtype=np.float64))
    if n < 2:
        return mean, None, None
    variance = float(np.var(differences.astype(np.float64), ddof=1))
    half_width = student_975(min(n - 1, _NORMAL)) * math.sqrt(variance * (1 / n + test_share))
    return mean, mean - half_width, mean + half_width


def student_975(freedom: int) -> float:
    """The 97.5 % quantile of Student's t with `freedom >= 1` degrees of freedom, by bisection.

    The distribution function is Abramowitz & Stegun 26.7.3 and 26.7.4.
    """
    low, high = 0.0, 13.0  # 12.706 for one degree, smaller for more
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _two_sided(middle, freedom) < 0.95 else (low, middle)
    return (low + high) / 2


def _two_sided(t: float, freedom: int) -> float:
    theta = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(theta) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for j in range(3 if odd else 2, freedom - 1, 2):
        term *= (j - 1) / j * math.cos(theta) ** 2
        total += term
    return 2 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total
