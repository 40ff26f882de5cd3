import math

import numpy as np
import pytest

from loid_infer.evaluation.metrics import METRICS, clipped, mse


def test_errors_are_computed_in_float64():
    rng = np.random.default_rng(0)
    predictions, ratings = rng.normal(3, 1, 500).astype(np.float32), rng.integers(1, 6, 500).astype(np.float32)
    differences = [float(a) - float(b) for a, b in zip(predictions, ratings, strict=True)]
    means = {name: metric(predictions, ratings).mean() for name, metric in METRICS.items()}
    assert means["mse"] == mse(predictions, ratings)
    assert means["mse"] == pytest.approx(math.fsum(d * d for d in differences) / 500, rel=1e-12)
    assert means["mae"] == pytest.approx(math.fsum(abs(d) for d in differences) / 500, rel=1e-12)
    large = np.full(2, 1e8, np.float32)  # float32 would lose the difference
    assert mse(large.astype(np.float64) + 0.25, large) == 0.0625


def test_mse_without_examples_is_nan():
    assert math.isnan(mse(np.zeros(0), np.zeros(0)))


def test_clipping_to_the_rating_range():
    assert clipped(np.array([-3.0, 2.5, 9.0]), (1, 5)).tolist() == [1, 2.5, 5]
