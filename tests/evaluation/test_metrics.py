import math

import numpy as np
import pytest

from loid_infer.evaluation.metrics import METRICS, aucs, clipped, mse


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


def test_the_auc_of_each_group_is_the_share_of_ordered_pairs():
    rng = np.random.default_rng(0)
    groups = rng.integers(9, size=400)
    groups[groups == 4] = 5  # no rows of group 4
    scores, labels = rng.integers(6, size=400).astype(np.float32), rng.random(400) < 0.4
    labels[groups == 2], labels[groups == 7] = True, False  # one label only
    expected = []
    for group in (0, 1, 3, 5, 6, 8):
        positive, negative = (scores[(groups == group) & (labels == kind)] for kind in (True, False))
        differences = positive[:, None] - negative
        expected.append(np.mean((differences > 0) + 0.5 * (differences == 0)))
    assert aucs(scores, labels, groups) == pytest.approx(expected)
    constant = aucs(np.zeros(400), labels, np.zeros(400, np.int64))
    assert constant.tolist() == [0.5]
    assert aucs(scores[labels], labels[labels], groups[labels]).tolist() == []
    assert aucs(np.zeros(0), np.zeros(0, bool), np.zeros(0, np.int64)).tolist() == []
