"""Labeled pairs: parts and histories."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loid_infer.data.clicks import TEST, TRAIN, VALID, read_clicks
from loid_infer.errors import BadSetting, BadTable
from loid_infer.settings import Workspace
from tests.clicks.worlds import clusters, write_pairs

PAIR = st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 1), st.integers(0, 5), st.sampled_from("012"))


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(PAIR, min_size=1, max_size=60, unique_by=lambda pair: pair[:2]))
def test_a_history_is_what_the_user_liked_earlier(tmp_path_factory, pairs) -> None:
    rows = [(f"u{u}", f"i{i}", label, at, ("train", "valid", "test")[int(part)]) for u, i, label, at, part in pairs]
    # Both labels in every part, of a user without other pairs.
    rows += [("x", f"x{k}", k % 2, 0, ("train", "valid", "test")[k // 2]) for k in range(6)]
    clicks = write_pairs(Workspace(tmp_path_factory.mktemp("ws")), "d", rows)
    histories = clicks.pairs(np.arange(len(rows))).histories
    for row, (user, _, _, at, _) in enumerate(rows):
        found = [clicks.item_ids[code] for code in histories.rows(np.array([row])).flat()[1]]
        times = {item: when for other, item, label, when, _ in rows if other == user and label}
        assert sorted(found) == sorted(item for item, when in times.items() if when < at)
        assert [times[item] for item in found] == sorted(times[item] for item in found)
    assert [(clicks.user_ids[u], clicks.item_ids[i]) for u, i in zip(clicks.users, clicks.items, strict=True)] == [
        row[:2] for row in rows
    ]
    assert [clicks.parts.tolist(), clicks.labels.tolist()] == [
        [("train", "valid", "test").index(row[4]) for row in rows],
        [row[2] > 0 for row in rows],
    ]


def test_without_parts_pairs_are_split_by_time(tmp_path) -> None:
    rows = [(*row[:3], at, "") for at, row in enumerate(clusters())]
    clicks = write_pairs(Workspace(tmp_path), "d", rows)
    n = len(rows)
    assert clicks.split == "time"
    assert [len(clicks.rows(part)) for part in (TRAIN, VALID, TEST)] == [
        int(0.8 * n),
        int(0.9 * n) - int(0.8 * n),
        n - int(0.9 * n),
    ]
    assert clicks.rows(TRAIN).max() < clicks.rows(VALID).min() < clicks.rows(TEST).min()


def test_the_order_of_ties_depends_on_the_seed_and_not_on_ids(tmp_path) -> None:
    ws = Workspace(tmp_path)
    first = write_pairs(ws, "d", [(user, item, label, 0, part) for user, item, label, _, part in clusters()], seed=0)
    second = read_clicks(ws.clicks("d"), "d", 1)
    ordered = first.liked.items[: first.liked.starts[1]]
    assert sorted(ordered) == sorted(second.liked.items[: second.liked.starts[1]])
    assert ordered.tolist() not in (sorted(ordered), second.liked.items[: second.liked.starts[1]].tolist())
    assert first.digest != second.digest


def test_unusable_pairs_are_refused(tmp_path) -> None:
    ws = Workspace(tmp_path)
    with pytest.raises(BadTable, match=r"no labeled pairs for domain 'd'.*ingest SRC --domain d --clicks"):
        read_clicks(ws.clicks("d"), "d", 0)
    only = [(user, item, 1 if part == "test" else label, at, part) for user, item, label, at, part in clusters()]
    with pytest.raises(BadSetting, match=r"the test part does not have both labels.*120 pairs, 120 of them positive"):
        write_pairs(ws, "d", only)
    assert len(read_clicks(ws.clicks("d"), "d", 0, to_fit=False).rows(TEST)) == 120  # enough to score
    ws.clicks("d").write_bytes(ws.clicks("d").read_bytes()[:-100])
    with pytest.raises(BadTable, match="cannot be read"):
        read_clicks(ws.clicks("d"), "d", 0)
