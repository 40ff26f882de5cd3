import numpy as np
import pytest
from msgspec import to_builtins

from loid_infer.data.splits import split
from loid_infer.evaluation import metrics
from loid_infer.heads.presets import HeadOptions
from loid_infer.heads.training import fit_head, pairs_of
from loid_infer.heads.variants import own_text, variants, vectors_of
from loid_infer.types import SILENT
from tests.heads.domains import noisy_ratings, stated_ratings


@pytest.mark.parametrize(("preset", "protocol"), [("default", "strict"), ("default", "paper"), ("paper", "strict")])
def test_a_variant_changes_only_what_its_name_states(preset, protocol):
    settings = HeadOptions(preset, protocol).settings()
    ablations = variants(settings)
    assert len({variant.name for variant in ablations}) == len(ablations) >= 10
    for variant in ablations:
        other = to_builtins(variant.settings)
        changed = {name for name, value in to_builtins(settings).items() if value != other[name]}
        assert changed or variant.vectors != "stored"
        assert changed <= {"ids", "lam"} or len(changed - {"max_history"}) == 1
    names = [variant.name for variant in ablations]
    assert "k = 5" not in names and "lam = 0.2" not in names  # the settings themselves
    assert "no triplet" in names


def test_zeroed_and_shuffled_vectors():
    settings = HeadOptions().settings()
    by_name = {variant.name: variant for variant in variants(settings)}
    vectors = np.arange(12, dtype=np.float16).reshape(6, 2)
    assert not vectors_of(by_name["vectors zeroed"], vectors, 0).any()
    shuffled = vectors_of(by_name["vectors shuffled"], vectors, 0)[:]
    assert sorted(shuffled.tolist()) == vectors.tolist() != shuffled.tolist()
    assert vectors_of(by_name["no IDs"], vectors, 0) is vectors


def test_own_text_predicts_stated_ratings():
    data, vectors = stated_ratings()
    part = split(data, "random", 0)
    predicted = own_text(data, part, vectors)
    ratings = data.ratings[part.test].astype(np.float64)
    assert metrics.mse(metrics.clipped(predicted, data.rating_range), ratings) < 0.1 * ratings.var()


def test_without_ids_predictions_depend_on_histories_only():
    data, vectors = noisy_ratings()
    part = split(data, "random", 0)
    by_name = {variant.name: variant for variant in variants(HeadOptions(epochs=2).settings())}
    fitted = fit_head(data, part, vectors, by_name["no IDs"].settings, 0, SILENT)
    pairs = pairs_of(data, part, part.test)
    before = fitted.predictor.predict(pairs)
    assert not fitted.head.foundation.user_bias.any() and not fitted.head.foundation.item_bias.any()
    fitted.head.net.users.weight.data[:-1] += 1
    fitted.head.net.items.weight.data[:-1] += 1
    np.testing.assert_array_equal(fitted.predictor.predict(pairs), before)


def test_without_attention_reviews_have_equal_weights():
    data, vectors = noisy_ratings()
    part = split(data, "random", 0)
    by_name = {variant.name: variant for variant in variants(HeadOptions(epochs=1).settings())}
    fitted = fit_head(data, part, vectors, by_name["mean of vectors for attention"].settings, 0, SILENT)
    pairs = pairs_of(data, part, part.test)
    before = fitted.predictor.components(pairs)[1]
    fitted.head.net.of_user.key.weight.data.normal_()
    fitted.head.net.of_item.query.weight.data.normal_()
    np.testing.assert_array_equal(fitted.predictor.components(pairs)[1], before)
