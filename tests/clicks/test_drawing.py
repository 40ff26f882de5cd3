"""`bdlm pairs`, and the metrics of one positive pair among negatives."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from loid_infer import bdlm_pairs, cf_fit_clicks, evaluate_clicks, ingest_implicit, ingest_items
from loid_infer.clicks.candidates import Ratios, balanced, best_threshold, hits, is_ranking
from loid_infer.clicks.drawing import N_NEAREST
from loid_infer.data.clicks import TEST, read_clicks
from loid_infer.data.events import read_events
from loid_infer.errors import BadSetting, BadTable
from loid_infer.settings import Workspace
from loid_infer.verbs import drawing

N_USERS, N_ITEMS, LENGTH = 40, 120, 8


@pytest.fixture
def movies(workspace: Workspace) -> Workspace:
    """A domain in which the items of a user are neighbors, with titles of ten kinds, every item in one."""
    rng, rows = np.random.default_rng(0), []
    for user in range(N_USERS):
        items = (user * 3 + rng.permutation(20)[:LENGTH]) % N_ITEMS
        rows += [f"u{user},i{item},{at * 10}" for at, item in enumerate(items)]
    rows += ["short,i0,1"]
    interactions = workspace.root / "interactions.csv"
    interactions.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    ingest_implicit([interactions], "movies", workspace=workspace)
    kinds = ["great", "good", "fine", "bad", "awful", "sound", "string", "guitar", "case", "cable"]
    titles = workspace.root / "titles.csv"
    lines = [f"i{i},{' '.join([kinds[i % 10]] * 6)} {i}" for i in range(N_ITEMS)]
    titles.write_text("item_id,title\n" + "\n".join(lines) + "\n")
    ingest_items([titles], "movies", workspace=workspace)
    return workspace


def rows_of(workspace: Workspace) -> list[dict]:
    return pq.read_table(workspace.clicks("movies")).to_pylist()


def test_targets_have_negatives_that_their_user_never_met(movies: Workspace) -> None:
    result = bdlm_pairs("movies", negatives=9, workspace=movies)
    rows = rows_of(movies)
    assert (result.n_tested, result.n_test, result.n_valid) == (N_USERS, N_USERS * 10, N_USERS * 10)
    assert result.n_rows == len(rows) == N_USERS * (10 + 10 + 2 * (LENGTH - 2)) + 2
    met = {}
    for row in rows:
        if row["label"]:
            met.setdefault(row["user_id"], []).append(row)
    for user, positives in met.items():
        order = sorted(positives, key=lambda row: row["position"])
        assert [row["split"] for row in order] == (["train"] * (LENGTH - 2) + ["valid", "test"])[: len(order)]
        own = [row for row in rows if row["user_id"] == user]
        negatives = [row for row in own if not row["label"]]
        assert not {row["item_id"] for row in negatives} & {row["item_id"] for row in positives}
        for part in ("valid", "test"):
            drawn = [row["item_id"] for row in negatives if row["split"] == part]
            assert len(drawn) == len({*drawn})
        tested = {row["item_id"] for row in negatives if row["split"] != "train"}
        assert not tested & {row["item_id"] for row in negatives if row["split"] == "train"}


def test_half_of_the_negatives_are_of_the_nearest_titles_and_half_are_popular(movies: Workspace, monkeypatch) -> None:
    ids = read_events(movies.table("movies"), "movies").item_ids

    class SameKind:
        def __init__(self, vectors) -> None:
            self._kinds = np.array([int(name[1:]) % 10 for name in ids])

        def __call__(self, items):
            found = np.full((len(items), N_NEAREST), -1)
            for row, item in enumerate(items.tolist()):
                same = np.setdiff1d(np.flatnonzero(self._kinds == self._kinds[item]), [item])
                found[row, : len(same)] = same
            return found

    monkeypatch.setattr(drawing, "_Nearest", SameKind)
    bdlm_pairs("movies", negatives=8, workspace=movies)
    rows = rows_of(movies)
    same = []
    for user in range(N_USERS):
        test = [row for row in rows if row["user_id"] == f"u{user}" and row["split"] == "test"]
        (target,) = [int(row["item_id"][1:]) for row in test if row["label"]]
        same.append(np.mean([int(row["item_id"][1:]) % 10 == target % 10 for row in test if not row["label"]]))
    assert min(same) >= 0.5 and 0.5 < np.mean(same) < 0.6  # a tenth of the popular ones are, too


def test_negatives_of_training_are_drawn_evenly_or_by_popularity(movies: Workspace) -> None:
    def drawn(training: str) -> list[int]:
        bdlm_pairs("movies", negatives=3, training=training, workspace=movies)
        rows = [row for row in rows_of(movies) if row["split"] == "train"]
        counts = Counter(row["item_id"] for row in rows if row["label"])
        negatives = [row for row in rows if not row["label"]]
        assert len(negatives) == counts.total()
        met = {(row["user_id"], row["item_id"]) for row in rows_of(movies) if row["label"]}
        assert not met & {(row["user_id"], row["item_id"]) for row in negatives}
        return [counts[row["item_id"]] for row in negatives]

    even, popular = drawn("even"), drawn("popular")
    assert 0 in even  # also items that nobody met in training
    assert 0 not in popular
    assert np.mean(popular) > np.mean(even) + 0.2
    with pytest.raises(BadSetting, match=r"--training.*even \| popular"):
        bdlm_pairs("movies", training="most", workspace=movies)


def test_the_nearest_titles_are_those_of_the_largest_cosine() -> None:
    vectors = np.random.default_rng(0).standard_normal((80, 16)).astype(np.float32)
    found = drawing._Nearest(vectors)(np.array([3, 70]))
    centered = vectors - vectors.mean(axis=0)
    centered /= np.linalg.norm(centered, axis=1, keepdims=True)
    for row, item in enumerate((3, 70)):
        order = [other for other in np.argsort(-(centered @ centered[item])).tolist() if other != item]
        assert found[row].tolist() == order[:N_NEAREST]


def test_the_order_tells_nothing_and_the_draw_depends_on_the_seed(movies: Workspace) -> None:
    first = bdlm_pairs("movies", negatives=9, workspace=movies)
    places = []
    for user in range(N_USERS):
        test = [row for row in rows_of(movies) if row["user_id"] == f"u{user}" and row["split"] == "test"]
        places.append([row["label"] for row in test].index(1))
    assert len({*places}) > 5
    assert bdlm_pairs("movies", negatives=9, workspace=movies).digest == first.digest
    assert bdlm_pairs("movies", negatives=9, seed=1, workspace=movies).digest != first.digest


def test_the_history_of_a_negative_ends_where_that_of_its_positive_does(movies: Workspace) -> None:
    bdlm_pairs("movies", negatives=9, workspace=movies)
    clicks = read_clicks(movies.clicks("movies"), "movies", 0)
    rows = clicks.rows(TEST)
    assert (clicks.n_before[rows] == LENGTH - 1).all()


def test_some_users_are_tested_and_all_train(movies: Workspace) -> None:
    result = bdlm_pairs("movies", negatives=5, users=7, workspace=movies)
    rows = rows_of(movies)
    assert result.n_tested == 7 == len({row["user_id"] for row in rows if row["split"] == "test"})
    assert len({row["user_id"] for row in rows if row["split"] == "train"}) == N_USERS + 1


def test_heads_are_compared_by_hits_and_f1(movies: Workspace) -> None:
    bdlm_pairs("movies", negatives=19, workspace=movies)
    head = cf_fit_clicks("movies", model="mf", workspace=movies).head
    result = evaluate_clicks("movies", workspace=movies)
    found = {(row.system, row.metric): row for row in result.summary}
    for metric in ("auc", "uauc", "hr@1", "hr@2", "precision", "recall", "f1"):
        row = found[head, metric]
        assert row.low <= row.value <= row.high
    assert found[head, "hr@2"].value >= found[head, "hr@1"].value
    assert {row.metric for row in result.differences} == {metric for _, metric in found}
    written = json.loads(Path(result.path).read_text())
    assert written["summary"] == json.loads(json.dumps(asdict(result)["summary"]))


def test_bad_input(movies: Workspace) -> None:
    with pytest.raises(BadSetting, match="too few items") as error:
        bdlm_pairs("movies", negatives=N_ITEMS, workspace=movies)
    assert "--negatives" in error.value.fix
    movies.items("movies").unlink()
    with pytest.raises(BadTable):
        bdlm_pairs("movies", workspace=movies)


def test_hits_by_hand() -> None:
    scores = np.array([3.0, 2, 1, 2, 2, 1, 0, 5, 6])
    labels = np.array([0, 1, 0, 1, 0, 0, 0, 1, 0], bool)
    users = np.array([7, 7, 7, 3, 3, 3, 3, 9, 9])
    found = hits(scores, labels, users)  # users 3, 7, 9: ranks 1.5, 2, 2
    assert found["hr@1"].tolist() == [0.0, 0.0, 0.0]
    assert found["hr@2"].tolist() == [1.0, 1.0, 1.0]
    assert is_ranking(labels, users)
    assert not is_ranking(np.array([1, 1, 0], bool), np.zeros(3))
    assert not is_ranking(np.array([1], bool), np.zeros(1))
    assert balanced(labels, users).tolist() == [0, 1, 3, 4, 7, 8]


def test_thresholds_and_ratios_by_hand() -> None:
    scores, labels = np.array([0.9, 0.8, 0.4, 0.4, 0.1]), np.array([1, 0, 1, 1, 0], bool)
    assert best_threshold(scores, labels) == 0.4  # F1 6 / 7
    ratios = Ratios.of(scores, labels, np.array([0, 0, 1, 2, 1]), 0.4, 50, 0)
    assert ratios.values == {"precision": 0.75, "recall": 1.0, "f1": pytest.approx(6 / 7)}
    assert ratios.draws["f1"].shape == (50,)
