import math

import numpy as np
import pytest

from loid_infer.kernels import metrics


def test_errors_are_means_in_float64():
    rng = np.random.default_rng(0)
    predictions, ratings = rng.normal(3, 1, 500).astype(np.float32), rng.integers(1, 6, 500).astype(np.float32)
    differences = [float(a) - float(b) for a, b in zip(predictions, ratings, strict=True)]
    assert metrics.mse(predictions, ratings) == pytest.approx(math.fsum(d * d for d in differences) / 500, rel=1e-12)
    assert metrics.mae(predictions, ratings) == pytest.approx(math.fsum(abs(d) for d in differences) / 500, rel=1e-12)
    large = np.full(2, 1e8, np.float32)  # float32 would lose the difference
    assert metrics.mse(large.astype(np.float64) + 0.25, large) == 0.0625


def test_nothing_to_measure():
    assert math.isnan(metrics.mse(np.zeros(0), np.zeros(0))) and math.isnan(metrics.mae(np.zeros(0), np.zeros(0)))


def test_clipping():
    assert metrics.clipped(np.array([-3.0, 2.5, 9.0]), (1, 5)).tolist() == [1, 2.5, 5]


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (100, 1.98397)]
)
def test_student_quantiles_of_the_tables(freedom, quantile):
    assert metrics.student_975(freedom) == pytest.approx(quantile, abs=1e-4)


def test_paired_interval_is_nadeau_and_bengios():
    found = metrics.paired(np.array([-0.02, 0.01, -0.03, -0.01, -0.02]), 1 / 8)
    values = [-0.02, 0.01, -0.03, -0.01, -0.02]
    mean = sum(values) / 5
    variance = sum((value - mean) ** 2 for value in values) / 4
    half = 2.776445 * math.sqrt(variance * (1 / 5 + 1 / 8))
    assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - half, mean + half), abs=1e-7)
    assert metrics.paired(np.array([1.0]), 1 / 8).high == math.inf
