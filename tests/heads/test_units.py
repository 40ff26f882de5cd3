"""Results do not depend on the unit of ratings: on another scale, predictions are the same in that unit."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from loid_infer.data.splits import split
from loid_infer.evaluation.metrics import clipped
from loid_infer.evaluation.rows import Result, measure
from loid_infer.heads import training
from loid_infer.heads.comparison import BASELINES, HEAD, compare
from loid_infer.heads.judge import judge_by_heads
from loid_infer.heads.presets import HeadOptions
from loid_infer.heads.training import Fitted, fit_head, pairs_of
from loid_infer.heads.variants import own_text
from loid_infer.types import SILENT, Floats, Interactions
from tests.heads.domains import interactions, pairs

UNITS = [(1000, 0), (1000, -1000), (25, -25), (0.25, -0.25), (5, -15), (2.0**-20, 3)]


def world() -> tuple[Interactions, Floats]:
    """Tastes times kinds, half of which the vectors contain; ratings are multiples of a half from 1 to 5."""
    rng = np.random.default_rng(0)
    users, items = pairs(150, 80, 14, rng)
    taste, kind = rng.normal(0, 0.8, (150, 2)), rng.normal(0, 0.8, (80, 2))
    level = 3 + rng.normal(0, 0.4, 80)[items] + (taste[users] * kind[items]).sum(1) + rng.normal(0, 0.3, len(users))
    vectors = rng.normal(0, 1, (len(users), 16))
    vectors[:, 3], vectors[:, 5] = kind[items, 0], taste[users, 0]
    return interactions(users, items, np.clip(np.rint(2 * level) / 2, 1, 5)), vectors.astype(np.float16)


def in_unit(data: Interactions, scale: float, shift: float) -> Interactions:
    ratings = scale * data.ratings.astype(np.float64) + shift
    return replace(data, ratings=ratings.astype(np.float32), rating_range=(scale + shift, 5 * scale + shift))


@cache
def fitted(scale: float, shift: float, preset: str = "default", seed: int = 0) -> tuple[Fitted, dict[str, Floats]]:
    """A fit in a unit, and the test predictions of its models."""
    data, vectors = world()
    data, parts = in_unit(data, scale, shift), split(data, "random", seed)
    epochs = 4 if preset == "default" else 1
    fit = fit_head(data, parts, vectors, HeadOptions(preset, epochs=epochs).settings(), seed, SILENT)
    models = (fit.baselines.mean, fit.baselines.bias, fit.baselines.factors, fit.predictor)
    test = pairs_of(data, parts, parts.test)
    predictions = {name: model.predict(test) for name, model in zip((*BASELINES, HEAD), models, strict=True)}
    return fit, predictions | {"own text": own_text(data, parts, vectors)}


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize(("scale", "shift"), UNITS)
def test_every_model_predicts_the_same_in_another_unit(scale, shift, preset):
    reference, expected = fitted(1, 0, preset)
    fit, predictions = fitted(scale, shift, preset)
    for name, part in predictions.items():
        np.testing.assert_allclose((part - shift) / scale, expected[name], atol=1e-5, err_msg=name)
    assert fit.head.share == pytest.approx(reference.head.share, rel=1e-4)
    assert np.allclose(np.array(fit.history.eval_errors) / scale**2, reference.history.eval_errors, rtol=1e-5)
    assert np.allclose(np.array(fit.history.losses) / scale**2, reference.history.losses, rtol=1e-5)


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (1000, 0)])
def test_matrix_factorization_is_as_good_in_every_unit(scale, shift):
    data = in_unit(world()[0], scale, shift)
    ratings = data.ratings[split(data, "random", 0).test]
    mean, bias, factors = (np.mean((fitted(scale, shift)[1][name] - ratings) ** 2) for name in BASELINES)
    assert factors < 0.6 * bias < 0.6 * mean


def compared(scale: float, shift: float):
    """The runs, buckets, summary and calibration of the models on two splits."""
    data = in_unit(world()[0], scale, shift)
    parts, results = [split(data, "random", seed) for seed in (0, 1)], []
    for seed, part in enumerate(parts):
        predictions = fitted(scale, shift, seed=seed)[1]
        ratings = data.ratings[part.test].astype(np.float64)
        results.append([_measured(name, predictions[name], ratings, data) for name in (*BASELINES, HEAD)])
    return compare(results, HEAD, data, parts)


def _measured(name: str, predictions: Floats, ratings: Floats, data: Interactions) -> Result:
    return measure(name, "toys", "random-0", clipped(predictions, data.rating_range), ratings, {})


def test_differences_and_intervals_scale_with_the_unit():
    (_, buckets, reference, _), (_, scaled_buckets, scaled, _) = compared(1, 0), compared(1000, 0)
    for entry, of_1000 in zip(reference, scaled, strict=True):
        factor = 1000 ** (1 + (entry.metric == "mse"))
        expected = [entry.value, entry.difference, entry.low, entry.high]
        got = [of_1000.value, of_1000.difference, of_1000.low, of_1000.high]
        np.testing.assert_allclose(np.array(got) / factor, expected, rtol=1e-4, atol=1e-6)
    assert [row.group for row in buckets if row.group in ("rating=1", "rating=2.5")]
    assert [row.group for row in scaled_buckets if row.group in ("rating=1000", "rating=2500")]


def test_ratings_that_differ_in_the_seventh_digit_are_in_different_groups():
    groups = {row.group for row in compared(1, 10**6)[1] if row.group.startswith("rating=")}
    assert len(groups) == 9 and "rating=1000002.5" in groups


@pytest.mark.parametrize(
    ("levels", "rating_range"), [((3.0,), (1, 5)), ((0.1,), (0, 1)), ((0.0, 1.0), (0, 1)), ((0.5, 3.5, 5.0), (0.5, 5))]
)
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_ratings_of_few_levels_are_fitted(levels, rating_range, preset):
    rng = np.random.default_rng(0)
    users, items = pairs(40, 30, 5, rng)
    data = replace(interactions(users, items, rng.choice(levels, len(users))), rating_range=rating_range)
    parts, vectors = split(data, "random", 0), rng.normal(0, 1, (len(users), 16)).astype(np.float16)
    fit = fit_head(data, parts, vectors, HeadOptions(preset, epochs=1).settings(), 0, SILENT)
    for model in (fit.baselines.mean, fit.baselines.bias, fit.baselines.factors, fit.predictor):
        predictions = clipped(model.predict(pairs_of(data, parts, parts.test)), rating_range)
        assert np.isfinite(predictions).all()
        if len(levels) == 1 and preset == "default":
            np.testing.assert_allclose(predictions, levels[0], atol=1e-6)


def test_the_head_gate_passes_where_all_ratings_are_equal(monkeypatch):
    rng = np.random.default_rng(0)
    users, items = pairs(40, 30, 5, rng)
    data = interactions(users, items, np.full(len(users), 3.0))
    vectors = rng.normal(0, 1, (len(users), 16)).astype(np.float16)
    quick, settings = training.fit_head, HeadOptions(epochs=1).settings()
    monkeypatch.setattr(training, "fit_head", lambda *a: quick(*a[:3], settings, *a[4:]))
    assert judge_by_heads(data, vectors, vectors, SILENT).change == 0
