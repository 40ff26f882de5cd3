from dataclasses import replace

import numpy as np
import pytest
import torch

from loid_infer.data.histories import CodePairs
from loid_infer.data.splits import split
from loid_infer.errors import BadSetting
from loid_infer.evaluation import metrics
from loid_infer.heads.foundation import _kept_share
from loid_infer.heads.presets import HeadOptions
from loid_infer.heads.tokens import tokens_of
from loid_infer.heads.training import Fitted, fit_head, pairs_of
from loid_infer.types import SILENT, Interactions
from tests.heads.domains import interactions, noisy_ratings, stated_ratings, symmetric


def fitted(world, preset="default", protocol="strict", kind="random", seed=0, **options) -> tuple[Fitted, Interactions]:
    data, vectors = world
    settings = HeadOptions(preset, protocol, **options).settings()
    return fit_head(data, split(data, kind, seed), vectors, settings, seed, SILENT), data


def error_on_test_part(fit: Fitted, data: Interactions, kind="random") -> tuple[float, float, float]:
    """Test MSE of the head and of the baselines mean and bias."""
    parts = split(data, kind, 0)
    pairs, ratings = pairs_of(data, parts, parts.test), data.ratings[parts.test]
    models = (fit.predictor, fit.baselines.mean, fit.baselines.bias)
    return tuple(metrics.mse(metrics.clipped(model.predict(pairs), (1, 5)), ratings) for model in models)


@pytest.mark.parametrize("kind", ["random", "time"])
def test_the_target_review_does_not_leak_under_the_strict_protocol(kind):
    fit, data = fitted(stated_ratings(), kind=kind)
    head, mean, _ = error_on_test_part(fit, data, kind)
    assert 0.96 * mean < head < 1.04 * mean


def test_the_network_alone_does_not_leak():
    fit, data = fitted(stated_ratings())
    parts = split(data, "random", 0)
    base, network = fit.predictor.components(pairs_of(data, parts, parts.test))
    ratings = data.ratings[parts.test]
    assert metrics.mse(base + network, ratings) > 0.96 * error_on_test_part(fit, data)[1]


def test_the_target_review_leaks_under_the_papers_protocol():
    fit, data = fitted(stated_ratings(), protocol="paper")
    head, mean, _ = error_on_test_part(fit, data)
    assert head < 0.7 * mean


def test_informative_texts_beat_the_biases():
    fit, data = fitted(noisy_ratings())
    head, mean, bias = error_on_test_part(fit, data)
    assert head < 0.92 * bias < 0.92 * mean


def test_shuffled_vectors_are_uninformative():
    data, vectors = noisy_ratings()
    shuffled = vectors[np.random.default_rng(0).permutation(len(vectors))]
    fit, _ = fitted((data, shuffled))
    head, _, bias = error_on_test_part(fit, data)
    assert head > 0.96 * bias


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_a_prediction_does_not_depend_on_other_pairs(protocol):
    fit, data = fitted(noisy_ratings(), protocol=protocol, epochs=1)
    fit.predictor.head = replace(fit.predictor.head, share=1.0)
    pairs = pairs_of(data, split(data, "random", 0), np.ones(data.n, bool))
    whole = fit.predictor.predict(pairs)
    order = np.random.default_rng(0).permutation(data.n)[:300]
    some = fit.predictor.predict(CodePairs(pairs.users[order], pairs.items[order], pairs.texts[order]))
    np.testing.assert_allclose(some, whole[order], atol=1e-5)
    for row in order[:20]:
        single = slice(row, row + 1)
        alone = fit.predictor.predict(CodePairs(pairs.users[single], pairs.items[single], pairs.texts[single]))
        np.testing.assert_allclose(alone, whole[single], atol=1e-5)


def test_predictions_equal_the_networks_own_forward_pass():
    """The predictor's projected, packed and sorted histories against the plain forward pass."""
    fit, data = fitted(noisy_ratings(), epochs=2)
    parts, head = split(data, "random", 0), fit.head
    pairs = pairs_of(data, parts, parts.test)
    histories, tokens = fit.predictor.histories, tokens_of(data, noisy_ratings()[1], head.scale)
    user_histories, item_histories = histories.draw(pairs, head.settings.max_history, head.seed, -1)

    def tokens_and_mask(lists, histories):
        return tokens.take(lists.reviews[histories]), torch.from_numpy(histories >= 0)

    foundation = head.foundation
    biases = foundation.bias_features(foundation.user_bias[pairs.users], foundation.item_bias[pairs.items])
    codes = [torch.from_numpy(part) for part in (pairs.users % (head.net.users.num_embeddings), pairs.items)]
    with torch.inference_mode():
        features = head.net.attend(
            *codes,
            tokens_and_mask(histories.by_user, user_histories),
            tokens_and_mask(histories.by_item, item_histories),
        )
        expected = head.net.predict(features, torch.from_numpy(biases).float())
    np.testing.assert_allclose(fit.predictor.components(pairs)[1], expected.numpy(), atol=1e-5)


def test_unknown_users_and_items():
    fit, data = fitted(noisy_ratings())
    unknown = np.array([-1])
    none = fit.predictor.predict(CodePairs(unknown, unknown, unknown))
    assert abs(none[0] - fit.baselines.mean.mean) < 0.3
    items = np.arange(300)
    known_item = fit.predictor.predict(CodePairs(np.full(300, -1), items, np.full(300, -1)))
    assert np.isfinite(known_item).all()
    mean_by_item = np.array([data.ratings[data.items == item].mean() for item in items])
    assert np.corrcoef(known_item, mean_by_item)[0, 1] > 0.6  # the item's history still has an effect


def test_cold_test_rows_are_predicted():
    data, vectors = noisy_ratings()
    parts = split(data, "random", 0)
    cold = parts.train & (data.users == data.users[parts.test][0])
    parts = replace(parts, train=parts.train & ~cold, valid=parts.valid | cold)
    fit = fit_head(data, parts, vectors, HeadOptions(epochs=1).settings(), 0, SILENT)
    pairs = pairs_of(data, parts, parts.test)
    assert pairs.users[0] == -1 and np.isfinite(fit.predictor.predict(pairs)).all()


def test_the_paper_preset_trains_without_biases():
    rng = np.random.default_rng(0)
    data = interactions(np.repeat(np.arange(60), 5), rng.permutation(300) % 60, rng.integers(1, 6, 300))
    fit, _ = fitted((data, rng.normal(0, 1, (300, 16)).astype(np.float16)), preset="paper", epochs=1)
    assert fit.head.settings.batch == 4 and fit.head.settings.learning_rate == 1e-5 and fit.head.share == 1.0
    assert not fit.head.foundation.user_bias.any() and not fit.head.foundation.on_user.any()
    head, mean, _ = error_on_test_part(fit, data)
    assert head < 1.5 * mean


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"preset": "best"}, "--preset"),
        ({"protocol": "lax"}, "--protocol"),
        ({"k": 0}, "--k"),
        ({"lam": -1.0}, "--lam"),
        ({"epochs": 0}, "--epochs"),
        ({"margin": -0.1}, "--margin"),
        ({"n_heads": 0}, "--n-heads"),
        ({"dropout": 1.0}, "--dropout"),
    ],
)
def test_invalid_options_are_refused(options, where):
    with pytest.raises(BadSetting, match=where):
        HeadOptions(**options).settings()


def test_users_and_items_are_treated_symmetrically():
    data, vectors = symmetric()
    parts = split(data, "random", 0)
    swapped = replace(data, users=data.items, items=data.users, user_ids=data.item_ids, item_ids=data.user_ids)
    predicted, errors = [], []
    for domain in (data, swapped):
        fitted = fit_head(domain, parts, vectors, HeadOptions().settings(), 0, SILENT)
        predicted.append(fitted.predictor.predict(pairs_of(domain, parts, parts.test)))
        errors.append(metrics.mse(predicted[-1], data.ratings[parts.test]))
    assert np.corrcoef(predicted)[0, 1] > 0.98
    assert errors[0] == pytest.approx(errors[1], rel=0.03)
    assert max(errors) < 0.75 * data.ratings[parts.test].var()


def test_attention_heads_and_dropout_are_configurable():
    one_head, data = fitted(noisy_ratings(), n_heads=1, dropout=0.0, epochs=1)
    four_heads, _ = fitted(noisy_ratings(), epochs=1)
    assert one_head.head.net.of_user.n_heads == 1 and one_head.head.net.hidden[0].p == 0.0
    pairs = pairs_of(data, split(data, "random", 0), np.ones(data.n, bool))
    assert not np.array_equal(one_head.predictor.components(pairs)[1], four_heads.predictor.components(pairs)[1])
    with pytest.raises(BadSetting, match=r"--n-heads.*divisor of 64"):
        fitted(noisy_ratings(), n_heads=3, epochs=1)


def test_the_share_of_the_network_depends_on_its_noise():
    rng = np.random.default_rng(0)
    readout = rng.normal(0, 1, 2_000)
    noise = rng.normal(0, 1, 2_000)
    assert _kept_share(readout, readout + noise) == pytest.approx(0.95, abs=0.04)
    assert _kept_share(0.01 * readout[:50], noise[:50]) == pytest.approx(0.6, abs=0.01)  # uninformative: the prior
    assert _kept_share(readout, -readout + noise) == 0.0
    assert _kept_share(readout, 2 * readout + noise) == 1.0
