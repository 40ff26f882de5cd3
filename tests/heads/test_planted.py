"""The error of the head on synthetic data of `sample` is close to the optimum."""

import numpy as np
import pytest
from msgspec.structs import replace

from bench.planted import DOMAIN, N_REVIEWS, contents, expected_mse, optimum
from loid_infer.data.sample import draw_world
from loid_infer.data.splits import split
from loid_infer.evaluation.metrics import clipped
from loid_infer.heads.presets import HeadOptions
from loid_infer.heads.training import fit_head, pairs_of
from loid_infer.types import SILENT
from tests.heads import domains

SETTINGS = HeadOptions().settings()


@pytest.fixture(scope="module")
def planted():
    world = draw_world(DOMAIN, N_REVIEWS, 0)
    data = domains.interactions(world.users, world.items, world.ratings)
    return world, data, split(data, "random", 0)


@pytest.mark.parametrize(
    ("settings", "texts", "ratings"),
    [
        (SETTINGS, True, True),
        (SETTINGS, False, True),
        (replace(SETTINGS, ids=False, lam=0.0, history_ratings=False), True, False),
    ],
    ids=["all", "without texts", "without ids and ratings"],
)
def test_the_error_is_close_to_the_optimum(planted, settings, texts, ratings):
    world, data, parts = planted
    best = optimum(world, parts.train, parts.test, texts=texts, ratings=ratings, n_sweeps=300)
    fitted = fit_head(data, parts, contents(world) * texts, settings, 0, SILENT)
    pairs = pairs_of(data, parts, parts.test)
    least, error, biases = (
        expected_mse(world, parts.test, clipped(part, data.rating_range))
        for part in (best, fitted.predictor.predict(pairs), fitted.baselines.bias.predict(pairs))
    )
    assert 0.97 < error / least < 1.15
    assert error < (0.94 if texts else 1.01) * biases


def test_order_of_the_optimal_errors(planted):
    world, _, parts = planted
    rows = parts.test
    both, rated = (optimum(world, parts.train, rows, texts=texts, n_sweeps=80) for texts in (True, False))
    predicted = (world.expected()[rows], both, rated, world.ratings[parts.train].mean())
    errors = [expected_mse(world, rows, part) for part in predicted]
    assert errors[0] < 0.9 * errors[1] < 0.8 * errors[2] < 0.7 * errors[3]


def test_expected_error_matches_sampled_ratings(planted):
    world, _, _ = planted
    guess = np.full(world.n, 3.7)
    drawn = np.mean((guess - world.ratings) ** 2)
    assert expected_mse(world, np.ones(world.n, bool), guess) == pytest.approx(drawn, rel=0.02)
