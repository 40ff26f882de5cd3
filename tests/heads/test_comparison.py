from dataclasses import replace

import numpy as np
import pytest

from loid_infer.data.splits import split
from loid_infer.evaluation.intervals import paired
from loid_infer.evaluation.metrics import clipped
from loid_infer.evaluation.rows import measure
from loid_infer.heads.comparison import (
    BASELINES,
    HEAD,
    Bucket,
    EvaluateResult,
    ModelErrors,
    Run,
    compare,
    model_and_encoder,
    records,
    system,
)
from tests.heads.worlds import telling

SYSTEMS = (*BASELINES, system(HEAD, "base"))


def made(n_seeds: int, kind: str = "random"):
    """Models that are off by known amounts: the head by 0.1, the others by 0.4, 0.3 and 0.2 more or less."""
    data, _ = telling()
    parts = [split(data, kind, seed * (kind == "random")) for seed in range(n_seeds)]
    results = []
    for seed, part in enumerate(parts):
        rng = np.random.default_rng(seed)
        ratings = data.ratings[part.test].astype(np.float64)
        signs = np.where(ratings > 3, -1, 1)  # towards the middle, so that nothing is outside the range of ratings
        results.append([])
        for name, off in zip(SYSTEMS, (0.4, 0.3, 0.2, 0.1), strict=True):
            predictions = clipped(ratings + signs * (off + rng.uniform(0, 0.05, len(ratings))), data.rating_range)
            results[-1].append(measure(name, "toys", f"{kind}-{seed}", predictions, ratings, {"train_mse": off}))
    return data, parts, results


def result(n_seeds: int, kind: str = "random") -> EvaluateResult:
    data, parts, results = made(n_seeds, kind)
    rows, summary, bins = compare(results, SYSTEMS[3], data, parts)
    return EvaluateResult(
        domain="toys",
        encoders=("base",),
        preset="default",
        protocol="strict",
        split=kind,
        split_seed=5,
        n_seeds=n_seeds,
        interval=None,
        rows=rows,
        summary=summary,
        calibration=bins,
        path="",
        seconds=0.0,
    )


def test_a_system_is_called_as_its_model_and_encoder():
    for model, encoder in ((HEAD, "own-{seed}"), ("bias", None)):
        assert model_and_encoder(system(model, encoder)) == (model, encoder)


def test_differences_are_paired_by_split_and_their_interval_is_nadeau_and_bengios():
    _, parts, results = made(4)
    models = {row["model"]: ModelErrors(**row) for row in records(result(4))["summary"]}
    head = models[HEAD]
    differences = np.array([(row[3].values["mse"] - row[1].values["mse"]).mean() for row in results])
    expected = paired(differences, parts[0].test.sum() / parts[0].train.sum())
    assert (head.against_bias, head.against_bias_low, head.against_bias_high) == pytest.approx(expected)
    assert head.against_bias_high < 0 == head.against_head
    assert head.encoder == "base" and models["bias"].encoder is None
    assert models["bias"].against_bias == 0
    assert models["mf"].against_head == pytest.approx(models["mf"].mse - head.mse)
    assert models["mf"].mae == pytest.approx(np.mean([row[2].values["mae"].mean() for row in results]))


def test_one_split_has_an_interval_over_its_pairs():
    _, _, results = made(1, "time")
    head = ModelErrors(**records(result(1, "time"))["summary"][3])
    differences = results[0][3].values["mse"] - results[0][1].values["mse"]
    half = 1.96 * differences.std(ddof=1) / np.sqrt(len(differences))
    assert head.against_bias_high - head.against_bias == pytest.approx(half, rel=0.05)
    alone = ModelErrors(**records(result(1))["summary"][3])
    assert alone.against_bias_low is alone.against_bias_high is None  # one split says nothing of others


def test_every_test_pair_is_in_one_bucket_of_each_kind():
    data, parts, results = made(3)
    buckets = [Bucket(**row) for row in records(result(3))["buckets"]]
    for by in ("history", "rating"):
        mine = [bucket for bucket in buckets if bucket.by == by]
        assert sum(bucket.n_test for bucket in mine) == sum(part.test.sum() for part in parts)
        total = sum(bucket.n_test * bucket.head for bucket in mine)
        assert total == pytest.approx(sum(row[3].values["mse"].sum() for row in results))
        assert all(bucket.head < bucket.mf < bucket.bias < bucket.global_mean for bucket in mine)
    part, few = parts[0], 0
    for user, item in zip(data.users[part.test], data.items[part.test], strict=True):
        seen = min((data.users[part.train] == user).sum(), (data.items[part.train] == item).sum())
        few += 3 <= seen <= 5
    alone = [row for row in records(result(1))["buckets"] if row["bucket"] == "3-5"]
    assert sum(row["n_test"] for row in alone) == few


def test_a_run_is_a_system_on_a_split():
    _, _, results = made(2)
    one = result(2)
    runs = [Run(**row) for row in records(one)["runs"]]
    assert [(run.seed, run.model) for run in runs] == [(seed, name) for seed in (5, 6) for name in (*BASELINES, HEAD)]
    assert [run.mse for run in runs] == [found.values["mse"].mean() for row in results for found in row]
    assert (runs[3].train_mse, runs[3].n_test, runs[3].network_share) == (0.1, len(results[0][3].predictions), None)
    rows = tuple(replace(row, system=row.system.replace("base", "own-{seed}")) for row in one.rows)
    assert [run["encoder"] for run in records(replace(one, rows=rows))["runs"]][3::4] == ["own-5", "own-6"]
    by_time = records(replace(one, rows=rows, split="time"))["runs"]
    assert [(run["seed"], run["encoder"]) for run in by_time][3::4] == [(5, "own-5"), (6, "own-5")]


def test_by_time_a_pair_counts_once_however_many_seeds():
    _, parts, _ = made(2, "time")
    one = result(2, "time")
    buckets = [row for row in records(one)["buckets"] if row["by"] == "rating"]
    assert sum(row["n_test"] for row in buckets) == parts[0].test.sum()
    assert sum(part.n_test for part in one.calibration) == parts[0].test.sum()
    assert len(records(one)["runs"]) == 8
