import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loid_infer.data.sequences import before, sequences_of, split_sequences, training_histories, within
from loid_infer.errors import BadSetting, BadTable
from tests.rankers.worlds import events


def ids(sequences, user: str) -> list[str]:
    row = list(sequences.user_ids).index(user)
    return [sequences.item_ids[code] for code in sequences.items[sequences.starts[row] : sequences.starts[row + 1]]]


@pytest.mark.parametrize("timed", [True, False])
def test_interactions_are_in_order_of_time_or_position(timed) -> None:
    sequences = sequences_of(
        {"d": events([("b", "x", 3), ("a", "y", 9), ("b", "z", 1), ("b", "y", 2)], timed=timed)}, 0
    )
    assert ids(sequences, "b") == ["z", "y", "x"]
    assert ids(sequences, "a") == ["y"]
    assert (sequences.is_timed, sequences.n_tied) == (timed, 0)


def test_ties_are_ordered_by_a_hash_and_not_by_id() -> None:
    rows = [(f"u{user}", f"i{item}", 5) for user in range(300) for item in range(2)]
    sequences = sequences_of({"d": events(rows)}, 0)
    first = [ids(sequences, f"u{user}")[0] for user in range(300)]
    assert 100 < first.count("i0") < 200
    assert sequences.n_tied == 600
    assert np.array_equal(sequences.items, sequences_of({"d": events(rows[::-1])}, 0).items)
    assert not np.array_equal(sequences.items, sequences_of({"d": events(rows)}, 1).items)


def test_domains_are_joined_by_user_and_keep_their_items_apart() -> None:
    parts = {"a": events([("u", "x", 1), ("u", "y", 3), ("v", "x", 1)]), "b": events([("u", "x", 2)], digest="e")}
    sequences = sequences_of(parts, 0)
    assert sequences.bounds.tolist() == [0, 2, 3]
    assert sequences.items[: sequences.starts[1]].tolist() == [0, 2, 1]
    assert sequences.item_domains.tolist() == [0, 0, 1]


def test_what_cannot_be_ordered_is_refused() -> None:
    timed, placed = events([("u", "x", 1)]), events([("u", "x", 1)], timed=False)
    with pytest.raises(BadTable, match="across domains is unknown"):
        sequences_of({"a": timed, "b": placed}, 0)
    neither = events([("u", "x", 1)])
    neither.times[:] = placed.times
    with pytest.raises(BadTable, match="neither a time nor a position"):
        sequences_of({"a": neither}, 0)


def test_leave_one_out_holds_out_the_last_two_of_users_with_three() -> None:
    rows = [("a", item, at) for at, item in enumerate("vwxyz")] + [("b", "v", 0), ("b", "w", 1)]
    sequences = sequences_of({"d": events(rows)}, 0)
    split = split_sequences(sequences, "leave-one-out")
    assert [sequences.item_ids[sequences.items[at]] for at in (*split.valid.at, *split.test.at)] == ["y", "z"]
    histories = before(sequences, split.test)
    assert histories.padded().tolist() == [[0, 1, 2, 3]]
    assert training_histories(sequences, split).padded().tolist() == [[0, 1, 2], [0, 1, -1]]
    assert split.train(sequences).tolist() == [True, True, True, False, False, True, True]


def test_a_split_by_time_has_one_cut_for_all_users() -> None:
    rows = [(f"u{user}", f"i{item}", 10 * item + user) for user in range(5) for item in range(20)]
    sequences = sequences_of({"d": events(rows)}, 0)
    split = split_sequences(sequences, "time")
    train, times = split.train(sequences), sequences.times
    assert times[train].max() < times[split.valid.at].min()
    assert times[split.valid.at].max() < times[split.test.at].min()
    assert split.valid.n == split.test.n == 5
    # The history of a test target contains what its user did in the validation period.
    assert (before(sequences, split.test).lengths > split.train_ends - sequences.starts[:-1]).all()


def test_a_split_by_time_needs_times_and_enough_interactions() -> None:
    with pytest.raises(BadSetting, match="needs times"):
        split_sequences(sequences_of({"d": events([("u", "x", 1)], timed=False)}, 0), "time")
    with pytest.raises(BadSetting, match="validation part would be empty"):
        split_sequences(sequences_of({"d": events([("u", "x", 1), ("u", "y", 2)])}, 0), "leave-one-out")


def test_one_domain_of_a_joint_split_has_its_own_targets_only() -> None:
    rng = np.random.default_rng(0)
    rows = [[(f"u{user}", f"i{item}", int(at))] for user in range(40) for item, at in enumerate(rng.permutation(12))]
    parts = {
        name: events([row for (row,) in rows if (int(row[1][1:]) % 2 == 0) is even], digest=name)
        for name, even in (("a", True), ("b", False))
    }
    sequences = sequences_of(parts, 0)
    split = split_sequences(sequences, "leave-one-out")
    only, part = within(sequences, split, "b")
    assert only.item_ids == parts["b"].item_ids
    wanted = sequences.items[split.test.at] >= sequences.bounds[1]
    assert 0 < part.test.n == wanted.sum() < split.test.n
    assert np.array_equal(only.items[part.test.at], sequences.items[split.test.at[wanted]] - sequences.bounds[1])
    assert part.train(only).sum() == (split.train(sequences) & (sequences.items >= sequences.bounds[1])).sum()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=60), st.data())
def test_histories_equal_plain_lists(rows, data) -> None:
    sequences = sequences_of({"d": events([*{(u, i): (u, i, t) for u, i, t in rows}.values()])}, 0)
    n_last = data.draw(st.integers(1, 5))
    users = np.arange(sequences.n_users)
    from loid_infer.data.sequences import Histories

    histories = Histories(users, sequences.starts[:-1], sequences.starts[1:], sequences.items).last(n_last)
    lists = [ids(sequences, user)[-n_last:] for user in sequences.user_ids]
    rows_, items = histories.flat()
    assert [[sequences.item_ids[code] for code in items[rows_ == row]] for row in users] == lists
    padded = histories.padded()
    assert [[sequences.item_ids[code] for code in line if code >= 0] for line in padded] == lists
