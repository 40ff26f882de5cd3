import math

import numpy as np
import pytest

from loid_infer.evaluation.rows import paired, student_975


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (100, 1.98397)]
)
def test_quantiles_match_published_tables(freedom, quantile):
    assert student_975(freedom) == pytest.approx(quantile, abs=1e-4)


def test_the_corrected_resampled_interval_of_nadeau_and_bengio():
    interval = paired(np.array([-0.02, 0.01, -0.03, -0.01, -0.02]), 1 / 8)
    values = [-0.02, 0.01, -0.03, -0.01, -0.02]
    mean = sum(values) / 5
    variance = sum((value - mean) ** 2 for value in values) / 4
    half = 2.776445 * math.sqrt(variance * (1 / 5 + 1 / 8))
    assert interval == pytest.approx((mean, mean - half, mean + half), abs=1e-7)
    assert paired(np.array([1.0]), 1 / 8) == (1.0, None, None)
