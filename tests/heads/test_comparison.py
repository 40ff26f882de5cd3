from dataclasses import replace

import numpy as np
import pytest

from loid_infer.data.splits import split
from loid_infer.heads.comparison import BASELINES, HEAD, averaged, buckets, calibration, measured, summary
from loid_infer.kernels import metrics
from tests.heads.worlds import telling

MODELS = (*BASELINES, HEAD)


def made(n_seeds: int, kind: str = "random"):
    """Models that are off by known amounts: the head by 0.1, the others by 0.4, 0.3 and 0.2 more or less."""
    data, _ = telling()
    parts = [split(data, kind, seed) for seed in range(n_seeds)]
    rows = []
    for seed, part in enumerate(parts):
        rng = np.random.default_rng(seed)
        ratings = data.ratings[part.test].astype(np.float64)
        signs = np.where(ratings > 3, -1, 1)  # towards the middle, so that nothing is clipped
        rows.append([
            measured(data, part, seed, model, ratings + signs * (off + rng.uniform(0, 0.05, len(ratings))))
            for model, off in zip(MODELS, (0.4, 0.3, 0.2, 0.1), strict=True)
        ])  # fmt: skip
    return data, parts, rows


def test_a_run_is_measured_on_clipped_predictions():
    data, _ = telling()
    part = split(data, "random", 0)
    far = np.full(part.test.sum(), 99.0)
    one = measured(data, part, 0, "far", far, before=np.full(part.train.sum(), -99.0), seconds=2.0)
    ratings = data.ratings[part.test].astype(np.float64)
    assert one.run.mse == pytest.approx(np.mean((5 - ratings) ** 2))
    assert one.run.mae == pytest.approx(np.mean(5 - ratings))
    assert one.run.train_mse == pytest.approx(np.mean((1 - data.ratings[part.train].astype(np.float64)) ** 2))
    assert (one.run.n_test, one.run.seconds, one.run.network_share) == (len(ratings), 2.0, None)


def test_differences_are_paired_by_split_and_their_interval_is_nadeau_and_bengios():
    _, parts, rows = made(4)
    found = {errors.model: errors for errors in summary(rows, parts[0], by_rows=False)}
    head = found[HEAD]
    differences = np.array([row[3].run.mse - row[1].run.mse for row in rows])
    expected = metrics.paired(differences, parts[0].test.sum() / parts[0].train.sum())
    assert (head.against_bias, head.against_bias_low, head.against_bias_high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )
    assert head.against_bias_high < 0 == head.against_head
    assert found["bias"].against_bias == 0
    assert found["mf"].against_head == pytest.approx(found["mf"].mse - head.mse)
    assert found["mf"].mae == pytest.approx(np.mean([row[2].run.mae for row in rows]))


def test_one_split_has_an_interval_over_its_pairs():
    _, parts, rows = made(1, "time")
    head = list(summary(rows, parts[0], by_rows=True))[3]
    differences = rows[0][3].squares - rows[0][1].squares
    half = 1.96 * differences.std(ddof=1) / np.sqrt(len(differences))
    assert head.against_bias_high - head.against_bias == pytest.approx(half, rel=0.05)
    alone = list(summary(rows, parts[0], by_rows=False))[3]
    assert alone.against_bias_low is alone.against_bias_high is None  # one split says nothing of others


def test_every_test_pair_is_in_one_bucket_of_each_kind():
    data, parts, rows = made(3)
    found = list(buckets(rows, parts, data))
    for by in ("history", "rating"):
        mine = [bucket for bucket in found if bucket.by == by]
        assert sum(bucket.n_test for bucket in mine) == sum(part.test.sum() for part in parts)
        total = sum(bucket.n_test * bucket.head for bucket in mine)
        assert total == pytest.approx(sum(row[3].squares.sum() for row in rows))
        assert all(bucket.head < bucket.mf < bucket.bias < bucket.global_mean for bucket in mine)
    part, few = parts[0], 0
    for user, item in zip(data.users[part.test], data.items[part.test], strict=True):
        seen = min((data.users[part.train] == user).sum(), (data.items[part.train] == item).sum())
        few += 3 <= seen <= 5
    alone = [bucket for bucket in buckets(rows[:1], parts[:1], data) if bucket.bucket == "3-5"]
    assert sum(bucket.n_test for bucket in alone) == few


def test_a_calibrated_head_is_rated_as_it_predicts():
    data, _ = telling()
    part = split(data, "random", 0)
    ratings = data.ratings[part.test].astype(np.float64)
    rows = [[measured(data, part, 0, HEAD, ratings)]]
    bins = list(calibration(rows, [part], data))
    assert len(bins) == 10 and sum(one.n_test for one in bins) == len(ratings)
    assert [one.predicted for one in bins] == pytest.approx([one.rated for one in bins])
    assert [one.predicted for one in bins] == sorted(one.predicted for one in bins)


def test_by_time_a_pair_counts_once_however_many_seeds():
    data, parts, rows = made(1, "time")
    other = [replace(one, squares=one.squares + 1, predicted=one.predicted + 1) for one in rows[0]]
    (row,) = [averaged([rows[0], other])]
    np.testing.assert_allclose(row[3].squares, rows[0][3].squares + 0.5)
    np.testing.assert_allclose(row[3].predicted, rows[0][3].predicted + 0.5)
    found = [bucket for bucket in buckets([row], parts, data) if bucket.by == "rating"]
    assert sum(bucket.n_test for bucket in found) == parts[0].test.sum()
