import json
from dataclasses import replace

import numpy as np
import pytest
from msgspec import to_builtins

from loid_infer.data.splits import split
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import BadArtifact
from loid_infer.heads.presets import HeadOptions
from loid_infer.heads.saved import load_head, save_head
from loid_infer.heads.training import fit_head, pairs_of
from loid_infer.types import SILENT
from tests.heads.domains import noisy_ratings
from tests.verbs.toy_domain import SPEC

REPORT = {
    "head": "h",
    "domain": "d",
    "encoder": "made-up",
    "fingerprint": fingerprint(SPEC),
    "card": SPEC,
    "preset": "default",
    "protocol": "strict",
    "split": "random",
    "split_seed": 0,
    "split_digest": "s",
    "train_mse": 0.5,
    "bias_train_mse": 0.6,
    "val_mse": 0.7,
    "test_mse": 0.7,
    "test_mae": 0.6,
    "warm_test_mse": 0.7,
    "cold_test_mse": None,
    "n_train": 8,
    "n_valid": 1,
    "n_test": 1,
    "n_cold_test": 0,
    "baselines": {"global_mean": 0.9, "bias": 0.8, "mf": 0.8},
    "network_share": 0.5,
    "epochs": 2,
    "best_epoch": 1,
}


@pytest.fixture(scope="module")
def fit():
    data, vectors = noisy_ratings()
    data = replace(data, user_ids=[*data.user_ids[:-1], "ÿ, \n 名"])
    return data, vectors, fit_head(data, parts(data), vectors, HeadOptions(epochs=2).settings(), 0, SILENT)


def parts(data):
    return split(data, "random", 0)


def save(folder, data, fitted):
    head = replace(fitted.head, share=0.5)  # so that the network counts
    save_head(folder, head, data, parts(data).train, fitted.history, REPORT)


@pytest.fixture
def saved(fit, tmp_path):
    data, _, fitted = fit
    save(tmp_path / "h", data, fitted)
    return tmp_path / "h"


def test_saving_and_loading_changes_no_prediction(fit, saved):
    data, vectors, fitted = fit
    fitted.predictor.head = replace(fitted.head, share=0.5)
    loaded = load_head(saved, "fit")
    assert list(loaded.reviews.user_ids) == list(data.user_ids) and list(loaded.reviews.item_ids) == list(data.item_ids)
    texts, digests = loaded.training_digests()
    assert np.array_equal(digests, data.digests[texts])
    everything = np.ones(data.n, bool)
    expected = fitted.predictor.predict(pairs_of(data, parts(data), everything))
    predictions = loaded.predictor(vectors[texts]).predict(loaded.coder()(data.users, data.items))
    assert np.array_equal(predictions, expected)


def test_the_head_keeps_no_rating_outside_the_training_part(fit, saved):
    data, _, _ = fit
    ratings = load_head(saved, "fit").reviews.ratings
    assert np.array_equal(np.isfinite(ratings), parts(data).train)


def test_the_same_fit_writes_the_same_bytes(fit, saved, tmp_path):
    data, vectors, fitted = fit
    again = fit_head(data, parts(data), vectors, fitted.head.settings, 0, SILENT)
    save(tmp_path / "again", data, again)
    for name in ("head.safetensors", "manifest.json", "curve.json"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_another_seed_gives_another_head(fit):
    data, vectors, fitted = fit
    other = fit_head(data, parts(data), vectors, fitted.head.settings, 1, SILENT)
    assert not np.array_equal(other.head.net.users.weight.detach(), fitted.head.net.users.weight.detach())


def test_an_altered_head_is_refused(saved):
    path = saved / "head.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadArtifact, match="refit please"):
        load_head(saved, "refit please")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"kind": "encoder"},
        {"settings": {}},
        {"settings": {**to_builtins(HeadOptions().settings()), "of_tomorrow": 1}},
        {"share": None, "seed": None, "mean": None},
    ],
)
def test_an_inconsistent_manifest_is_refused(saved, change):
    path = saved / "manifest.json"
    manifest = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in manifest.items() if value is not None}))
    with pytest.raises(BadArtifact):
        load_head(saved, "fit")


def test_users_without_training_reviews_are_unknown(fit, saved):
    data, _, _ = fit
    loaded = load_head(saved, "fit")
    loaded.train[data.users == 3] = False
    pairs = loaded.coder()(np.array([3, 4, -1]), np.array([0, -1, 0]))
    assert pairs.users.tolist() == [-1, 4, -1] and pairs.items.tolist() == [0, -1, 0]
