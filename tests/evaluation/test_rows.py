import numpy as np
import pytest

from loid_infer.evaluation import rows
from loid_infer.evaluation.rows import Row, averaged, calibration, differences, group_rows, measure

TRUTH = np.array([1.0, 2.0, 4.0, 5.0])


def result(system: str, *errors: float, split: str = "random-0"):
    return measure(system, "toys", split, TRUTH + np.array(errors), TRUTH, {"seconds": 2.0})


def test_each_metric_and_figure_has_a_row():
    assert list(result("a", 1, -1, 2, 0).rows()) == [
        Row("a", "toys", "random-0", "mse", 1.5, 4),
        Row("a", "toys", "random-0", "mae", 1.0, 4),
        Row("a", "toys", "random-0", "seconds", 2.0, 4),
    ]


def test_a_registered_metric_is_in_every_table(monkeypatch):
    monkeypatch.setattr(rows, "METRICS", {"hit": lambda predictions, truth: (predictions == truth).astype(float)})
    grid = [[result("a", 0, 0, 0, 0), result("b", 0, 1, 0, 1)]]
    assert [(row.metric, row.value) for system in grid[0] for row in system.rows()][::2] == [("hit", 1.0), ("hit", 0.5)]
    (first, second) = differences(grid, ["a"], 1 / 8)
    assert (first.difference, second.metric, second.value, second.difference) == (0.0, "hit", 0.5, -0.5)
    assert second.low is second.high is None  # one split
    groups = ("kind", ["even", "odd", "none"], np.array([0, 1, 0, 1]))
    assert [(row.group, row.system, row.value, row.n) for row in group_rows(grid, *groups)] == [
        ("kind=even", "a", 1.0, 2),
        ("kind=even", "b", 1.0, 2),
        ("kind=odd", "a", 1.0, 2),
        ("kind=odd", "b", 0.0, 2),
    ]


def test_groups_cover_all_splits():
    grid = [[result("a", 0, 0, 0, 0)], [result("a", 1, 2, 3, 4)]]
    groups = list(group_rows(grid, "kind", ["x", "y"], np.array([0, 0, 0, 0, 0, 1, 1, 1])))
    assert [(row.group, row.metric, row.value, row.n, row.split) for row in groups] == [
        ("kind=x", "mse", 0.2, 5, ""),
        ("kind=x", "mae", 0.2, 5, ""),
        ("kind=y", "mse", 29 / 3, 3, ""),
        ("kind=y", "mae", 3.0, 3, ""),
    ]


def test_intervals_over_splits_and_over_examples():
    grid = [[result("a", 1, 1, 1, 1), result("b", 1, 2, 3, 4)], [result("a", 0, 0, 0, 0), result("b", 1, 0, 0, 0)]]
    over_splits = [d for d in differences(grid, ["a"], 1 / 8) if (d.system, d.metric) == ("b", "mae")]
    over_examples = [d for d in differences(grid, ["a"], None) if (d.system, d.metric) == ("b", "mae")]
    assert over_splits[0].difference == over_examples[0].difference == pytest.approx((1.5 + 0.25) / 2)
    half = 12.7062 * np.sqrt(np.var([1.5, 0.25], ddof=1) * (1 / 2 + 1 / 8))
    assert over_splits[0].high - over_splits[0].difference == pytest.approx(half, rel=1e-4)
    half = 3.18245 * np.std([0.5, 0.5, 1, 1.5], ddof=1) / 2
    assert over_examples[0].difference - over_examples[0].low == pytest.approx(half, rel=1e-4)


def test_runs_on_one_split_are_averaged_per_example():
    mean = averaged([result("a", 0, 0, 0, 0), result("a", 1, 2, 3, 4)])
    np.testing.assert_allclose(mean.predictions, TRUTH + np.array([0.5, 1, 1.5, 2]))
    np.testing.assert_allclose(mean.values["mse"], [0.5, 2, 4.5, 8])


def test_calibration_bins_of_perfect_predictions():
    rng = np.random.default_rng(0)
    ratings = rng.integers(1, 6, 203).astype(float)
    bins = list(calibration(ratings, ratings))
    assert len(bins) == 10 and sum(part.n_test for part in bins) == 203
    predicted = [part.predicted for part in bins]
    assert predicted == [part.rated for part in bins]
    assert predicted == sorted(predicted)
    assert len(list(calibration(ratings[:3], ratings[:3]))) == 3
