"""The first items from an index, against scores of all items."""

from dataclasses import dataclass

import numpy as np
import pytest

from loid_infer import neighbors
from loid_infer.data.sequences import Histories
from loid_infer.evaluation.ranking import top
from loid_infer.rankers import nearest
from loid_infer.rankers.nearest import NearestItems, is_worthwhile
from loid_infer.rankers.ranking import ProductRanker, padded, products

N_ITEMS, N_USERS = 4_000, 300


@dataclass
class Vectors:
    users: np.ndarray
    items: np.ndarray
    is_ranked: np.ndarray

    def scores(self, histories):
        return products(self, histories)

    def queries(self, histories):
        return self.users[histories.users]

    def vectors(self):
        return padded(self.items), self.is_ranked


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 1, (80, 16))
    items = (centers[rng.integers(80, size=N_ITEMS)] + rng.normal(0, 0.3, (N_ITEMS, 16))).astype(np.float32)
    items *= rng.uniform(0.5, 2, (N_ITEMS, 1)).astype(np.float32)  # products, not cosines
    items[1000:1040] = 4 * items[1000]  # equal scores, above all others
    users = (centers[rng.integers(80, size=N_USERS)] + rng.normal(0, 0.3, (N_USERS, 16))).astype(np.float32)
    users[0] = items[1000]
    starts = np.arange(N_USERS) * 5
    seen = top(users @ items.T, 5)[0].ravel()  # the best five of each user were seen
    return Vectors(users, items, rng.random(N_ITEMS) < 0.95), Histories(np.arange(N_USERS), starts, starts + 5, seen)


@pytest.fixture
def indexed(world, monkeypatch):
    monkeypatch.setattr(neighbors.build, "__defaults__", (1_000, *neighbors.build.__defaults__[1:]))
    ranker, histories = world
    return NearestItems(ranker, 500, 3_500, histories)


def exact(world, n, *, with_seen):
    ranker, histories = world
    scores = ranker.scores(histories)
    if not with_seen:
        scores[histories.flat()] = -np.inf
    return top(scores[:, 500:3_500], n)


@pytest.mark.parametrize("with_seen", [False, True])
def test_almost_all_of_the_first_items_are_found_with_their_exact_scores(world, indexed, with_seen) -> None:
    assert isinstance(world[0], ProductRanker)
    assert indexed._index.kind == "inverted lists"
    assert indexed._index.faiss_index.nprobe < indexed._index.faiss_index.nlist
    columns, scores = indexed.first(world[1], 20, with_seen=with_seen)
    expected, values = exact(world, 20, with_seen=with_seen)
    shares = [len({*a} & {*b}) / 20 for a, b in zip(columns.tolist(), expected.tolist(), strict=True)]
    assert np.mean(shares) >= 0.97
    assert indexed.recall >= neighbors.MIN_RECALL
    same = columns == expected
    np.testing.assert_allclose(scores[same], values[same], rtol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_seen_items_and_those_that_cannot_be_ranked_are_left_out(world, indexed) -> None:
    ranker, histories = world
    columns, _ = indexed.first(histories, 50, with_seen=False)
    for row, own in enumerate(histories.padded()):
        assert not {*(columns[row] + 500).tolist()} & {*own.tolist()}
    assert ranker.is_ranked[columns[columns >= 0] + 500].all()


def test_equal_items_are_in_the_order_of_their_codes_however_many_are_asked_for(world, indexed) -> None:
    many, _ = indexed.first(world[1], 60, with_seen=True)
    few, _ = indexed.first(world[1], 7, with_seen=True)
    assert (many[:, :7] == few).mean() > 0.99
    equal = np.flatnonzero(world[0].is_ranked[1_000:1_040]) + 500
    assert few[0].tolist() == equal[:7].tolist()
    assert many[0, : len(equal)].tolist() == equal.tolist()


def test_few_items_or_users_need_no_index() -> None:
    assert is_worthwhile(neighbors.EXACT_ROWS + 1, nearest.MIN_USERS)
    assert not is_worthwhile(neighbors.EXACT_ROWS, 10**6)
    assert not is_worthwhile(10**6, nearest.MIN_USERS - 1)


@pytest.mark.parametrize("n_users", [1, 2, 3, 5, 9])
def test_equal_items_have_equal_scores_for_few_users(n_users) -> None:
    """A product of few rows rounds its last columns apart; see findings/one-query-ties.sh."""
    rng = np.random.default_rng(0)
    users = rng.normal(size=(n_users, 128)).astype(np.float32)
    ranker = Vectors(users, np.empty(0), np.ones(5_003, bool))
    ranker.items = np.tile(rng.normal(size=128).astype(np.float32), (5_003, 1))
    nothing = np.zeros(n_users, np.int64)
    scores = ranker.scores(Histories(np.arange(n_users), nothing, nothing, np.zeros(0, np.int64)))
    assert scores.shape == (n_users, 5_003)
    assert (scores == scores[:, :1]).all()
