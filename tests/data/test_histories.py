import time

import numpy as np
import pytest

from loid_infer.data.histories import CodePairs, Histories, Lists, histories
from loid_infer.types import Interactions


def make_interactions(n_users=30, n_items=20, share=0.4, n_texts=None, seed=0) -> Interactions:
    rng = np.random.default_rng(seed)
    users, items = np.nonzero(rng.random((n_users, n_items)) < share)
    shuffle = rng.permutation(len(users))
    users, items = users[shuffle], items[shuffle]
    texts = rng.permutation(len(users)) if n_texts is None else rng.integers(0, n_texts, len(users))
    n_texts = n_texts or len(users)
    return Interactions(
        user_ids=[f"u{i:06}" for i in range(n_users)],
        item_ids=[f"i{i:06}" for i in range(n_items)],
        users=users,
        items=items,
        ratings=rng.integers(1, 6, len(users)).astype(np.float32),
        timestamps=rng.integers(0, 12, len(users)),
        texts=texts,
        digests=np.arange(n_texts * 16, dtype=np.uint8).reshape(n_texts, 16),
        empty=rng.random(n_texts) < 0.1,
        rating_range=(1.0, 5.0),
        digest="",
    )


def pairs_of(data: Interactions, *, timed=False) -> CodePairs:
    return CodePairs(data.users, data.items, data.texts, data.timestamps if timed else None)


def allowed(data: Interactions, train, row: int, side: str, *, timed: bool) -> set[int]:
    """Reference: the rows that a strict history of `row` may contain."""
    groups = getattr(data, side)
    return {
        other
        for other in range(data.n)
        if train[other]
        and groups[other] == groups[row]
        and other != row
        and data.texts[other] != data.texts[row]
        and not data.empty[data.texts[other]]
        and (not timed or data.timestamps[other] < data.timestamps[row])
    }


def reviews(lists: Lists, positions: np.ndarray) -> list[int]:
    return [int(lists.reviews[position]) for position in positions if position >= 0]


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("n_texts", [None, 12])
def test_strict_histories_contain_exactly_the_allowed_reviews(timed, n_texts):
    data = make_interactions(n_texts=n_texts)
    train = np.random.default_rng(1).random(data.n) < 0.8
    drawn = histories(data, train, strict=True, by_time=timed)
    everything = drawn.draw(pairs_of(data, timed=timed), data.n, 0, 0)
    few = drawn.draw(pairs_of(data, timed=timed), 3, 0, 0)
    for row in range(data.n):
        for side, lists, full, part in zip(
            ("users", "items"), (drawn.by_user, drawn.by_item), everything, few, strict=True
        ):
            permitted = allowed(data, train, row, side, timed=timed)
            assert sorted(reviews(lists, full[row])) == sorted(permitted)
            got = reviews(lists, part[row])
            assert len(set(got)) == len(got) and set(got) <= permitted
            if n_texts is None:  # without equal texts the draw is as large as it can be
                assert len(got) == min(3, len(permitted))


def test_paper_histories_contain_the_target():
    data = make_interactions()
    drawn = histories(data, np.ones(data.n, bool), strict=False, by_time=False)
    of_user, of_item = drawn.draw(pairs_of(data), data.n, 0, 0)
    for row in np.flatnonzero(~data.empty[data.texts]):
        assert row in reviews(drawn.by_user, of_user[row])
        assert row in reviews(drawn.by_item, of_item[row])


def drawn_reviews(histories_: Histories, pairs: CodePairs, k: int) -> tuple[list[set[int]], list[set[int]]]:
    of_user, of_item = histories_.draw(pairs, k, 7, 3)
    return [set(reviews(histories_.by_user, row)) for row in of_user], [
        set(reviews(histories_.by_item, row)) for row in of_item
    ]


@pytest.mark.parametrize("timed", [False, True])
def test_a_sample_depends_only_on_the_pair(timed):
    data = make_interactions(share=0.8)
    train = np.ones(data.n, bool)
    drawn = histories(data, train, strict=True, by_time=timed)
    pairs = pairs_of(data, timed=timed)
    expected = drawn_reviews(drawn, pairs, 4)
    some = np.random.default_rng(0).permutation(data.n)[:37]
    times = pairs.timestamps[some] if timed else None
    part = drawn_reviews(drawn, CodePairs(data.users[some], data.items[some], data.texts[some], times), 4)
    assert part[0] == [expected[0][row] for row in some] and part[1] == [expected[1][row] for row in some]

    order = np.random.default_rng(1).permutation(data.n)  # the same table, rows shuffled
    fields = ("users", "items", "ratings", "timestamps", "texts")
    moved = Interactions(
        **{name: getattr(data, name)[order] for name in fields},
        **{
            name: getattr(data, name) for name in ("user_ids", "item_ids", "digests", "empty", "rating_range", "digest")
        },
    )
    again = drawn_reviews(histories(moved, train, strict=True, by_time=timed), pairs_of(moved, timed=timed), 4)
    back = [{int(order[review]) for review in found} for found in again[0]]
    assert back == [expected[0][row] for row in order]


def test_epochs_and_seeds_change_the_sample():
    data = make_interactions(share=0.9)
    drawn = histories(data, np.ones(data.n, bool), strict=True, by_time=False)
    base = drawn.draw(pairs_of(data), 3, 0, 0)[0]
    assert (base != drawn.draw(pairs_of(data), 3, 0, 1)[0]).any(axis=1).mean() > 0.9
    assert (base != drawn.draw(pairs_of(data), 3, 1, 0)[0]).any(axis=1).mean() > 0.9


def test_unknown_sides_have_no_history_and_the_known_side_keeps_its_own():
    data = make_interactions()
    drawn = histories(data, np.ones(data.n, bool), strict=True, by_time=False)
    none = np.array([-1])
    of_user, of_item = drawn.draw(CodePairs(none, np.array([3]), none), 5, 0, 0)
    assert (of_user == -1).all() and (of_item >= 0).any()
    of_user, of_item = drawn.draw(CodePairs(none, none, none), 5, 0, 0)
    assert (of_user == -1).all() and (of_item == -1).all()


def test_empty_histories():
    data = make_interactions()
    drawn = histories(data, np.zeros(data.n, bool), strict=True, by_time=False)
    assert all((side == -1).all() for side in drawn.draw(pairs_of(data), 5, 0, 0))


def test_at_least_100_thousand_pairs_of_histories_are_sampled_per_second():
    data = make_interactions(n_users=2_000, n_items=1_000, share=0.05)
    drawn = histories(data, np.ones(data.n, bool), strict=True, by_time=False)
    start = time.perf_counter()
    drawn.draw(pairs_of(data), 5, 0, 0)
    assert data.n / (time.perf_counter() - start) > 100_000
