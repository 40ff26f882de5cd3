from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from loid_infer.data.splits import split
from loid_infer.evaluation.metrics import clipped
from loid_infer.evaluation.rows import measure, paired
from loid_infer.heads.comparison import BASELINES, HEAD, EvaluateResult, compare, model_and_encoder, system
from tests.heads.domains import noisy_ratings

SYSTEMS = (*BASELINES, system(HEAD, "base"))


def make_results(n_seeds: int, kind: str = "random"):
    """Models with known absolute errors: about 0.1 for the head, 0.4, 0.3 and 0.2 for the others."""
    data, _ = noisy_ratings()
    parts = [split(data, kind, seed * (kind == "random")) for seed in range(n_seeds)]
    results = []
    for seed, part in enumerate(parts):
        rng = np.random.default_rng(seed)
        ratings = data.ratings[part.test].astype(np.float64)
        signs = np.where(ratings > 3, -1, 1)  # towards the middle, so that no prediction is clipped
        results.append([])
        for name, error in zip(SYSTEMS, (0.4, 0.3, 0.2, 0.1), strict=True):
            predictions = clipped(ratings + signs * (error + rng.uniform(0, 0.05, len(ratings))), data.rating_range)
            results[-1].append(measure(name, "toys", f"{kind}-{seed + 5}", predictions, ratings, {"train_mse": error}))
    return data, parts, results


def result(n_seeds: int, kind: str = "random") -> EvaluateResult:
    data, parts, results = make_results(n_seeds, kind)
    runs, buckets, summary, bins = compare(results, SYSTEMS[3], data, parts)
    return EvaluateResult(
        domain="toys",
        encoders=("base",),
        preset="default",
        protocol="strict",
        split=kind,
        split_seed=5,
        n_seeds=n_seeds,
        interval=None,
        runs=runs,
        buckets=buckets,
        summary=summary,
        calibration=bins,
        path="",
        seconds=0.0,
    )


def test_a_system_name_is_parsed_to_model_and_encoder():
    for model, encoder in ((HEAD, "own-{seed}"), ("bias", None)):
        assert model_and_encoder(system(model, encoder)) == (model, encoder)


def test_differences_are_paired_by_split():
    _, parts, results = make_results(4)
    evaluation = result(4)
    head, bias = evaluation.named(HEAD), evaluation.named("bias")
    differences = np.array([(row[3].values["mse"] - row[1].values["mse"]).mean() for row in results])
    expected = paired(differences, parts[0].test.sum() / parts[0].train.sum())
    assert (head.difference, head.low, head.high) == pytest.approx(expected)
    _, _, mf_to_head, head_to_head = evaluation.against(HEAD)
    assert head.high < 0 == head_to_head.difference == bias.difference
    assert (head.system, bias.system) == ("head @ base", "bias")
    assert mf_to_head.difference == pytest.approx(mf_to_head.value - head.value)
    mae = next(one for one in evaluation.summary if (one.system, one.metric) == ("mf", "mae"))
    assert mae.value == pytest.approx(np.mean([row[2].values["mae"].mean() for row in results]))
    assert evaluation.headline == head and evaluation.variants == ()
    assert replace(evaluation, protocol="paper").headline is None


def test_intervals_of_a_single_split():
    _, _, results = make_results(1, "time")
    head = result(1, "time").named(HEAD)
    differences = results[0][3].values["mse"] - results[0][1].values["mse"]
    half = 1.96 * differences.std(ddof=1) / np.sqrt(len(differences))
    assert head.high - head.difference == pytest.approx(half, rel=0.05)
    alone = result(1).named(HEAD)
    assert alone.low is alone.high is None


def test_each_test_pair_is_in_one_bucket_per_kind():
    data, parts, results = make_results(3)
    buckets = result(3).by_bucket()
    for by in ("history", "rating"):
        mine = [bucket for bucket in buckets if bucket["by"] == by]
        assert sum(bucket["n_test"] for bucket in mine) == sum(part.test.sum() for part in parts)
        total = sum(bucket["n_test"] * bucket[HEAD] for bucket in mine)
        assert total == pytest.approx(sum(row[3].values["mse"].sum() for row in results))
        assert all(bucket[HEAD] < bucket["mf"] < bucket["bias"] < bucket["global mean"] for bucket in mine)
    part, few = parts[0], 0
    for user, item in zip(data.users[part.test], data.items[part.test], strict=True):
        seen = min((data.users[part.train] == user).sum(), (data.items[part.train] == item).sum())
        few += 3 <= seen <= 5
    alone = [row for row in result(1).by_bucket() if row["bucket"] == "3-5"]
    assert sum(row["n_test"] for row in alone) == few


def test_runs_have_their_seed_model_encoder_and_error():
    _, _, results = make_results(2)
    evaluation = result(2)
    runs = [SimpleNamespace(**run) for run in evaluation.by_run()]
    assert [(run.seed, run.model) for run in runs] == [(seed, name) for seed in "56" for name in (*BASELINES, HEAD)]
    assert [run.mse for run in runs] == [result.values["mse"].mean() for row in results for result in row]
    assert (runs[3].train_mse, runs[3].n_test) == (0.1, len(results[0][3].predictions))
    renamed = tuple(replace(row, system=row.system.replace("base", "own-{seed}")) for row in evaluation.runs)
    assert [run["encoder"] for run in replace(evaluation, runs=renamed).by_run()][3::4] == ["own-5", "own-6"]
    by_time = replace(evaluation, runs=renamed, split="time").by_run()
    assert [(run["seed"], run["encoder"]) for run in by_time][3::4] == [("5", "own-5"), ("6", "own-5")]


def test_pairs_of_a_split_by_time_count_once():
    _, parts, _ = make_results(2, "time")
    evaluation = result(2, "time")
    buckets = [row for row in evaluation.by_bucket() if row["by"] == "rating"]
    assert sum(row["n_test"] for row in buckets) == parts[0].test.sum()
    assert sum(part.n_test for part in evaluation.calibration) == parts[0].test.sum()
    assert len(evaluation.by_run()) == 8
