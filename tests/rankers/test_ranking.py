"""Ranks of targets against a plain computation, and rankers that only count."""

import numpy as np
import pytest

from loid_infer.data.sequences import before, sequences_of, split_sequences
from loid_infer.errors import BadSetting
from loid_infer.evaluation.ranking import MISSED
from loid_infer.kernels.sampling import uniform
from loid_infer.rankers.candidates import draw_candidates, kept_candidates
from loid_infer.rankers.counts import WINDOW, co_occurrence, popularity
from loid_infer.rankers.ranking import target_ranks
from tests.rankers.worlds import clusters, events


class Random:
    """Scores that depend on user and item only."""

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items

    def scores(self, histories):
        cells = histories.users[:, None] * self.n_items + np.arange(self.n_items)
        return np.round(uniform(cells.astype(np.uint64)), 1).astype(np.float32)  # with ties


def two_domains():
    rng = np.random.default_rng(0)
    parts = {}
    for name in ("a", "b"):
        rows = [
            (f"u{user}", f"i{item}", int(rng.integers(1000))) for user in range(40) for item in rng.permutation(25)[:8]
        ]
        parts[name] = events(rows, digest=name)
    return sequences_of(parts, 0)


def test_a_repeated_target_competes_with_what_else_was_seen() -> None:
    rows = [(f"u{user}", f"i{item}", at) for user in range(20) for at, item in enumerate([*range(15), 3])]
    sequences = sequences_of({"d": events([*rows, *((f"v{n}", f"i{n}", 0) for n in range(15, 30))])}, 0)

    class Seen:
        def scores(self, histories):
            scores = np.zeros((histories.n, sequences.n_items), np.float32)
            scores[histories.flat()] = 1
            return scores

    ranks = target_ranks(Seen(), sequences, split_sequences(sequences, "leave-one-out").test)
    assert (ranks == 8).all()  # the mean of fifteen


@pytest.mark.parametrize("cells", [1 << 23, 100])
def test_ranks_are_among_unseen_items_of_the_targets_domain(cells, monkeypatch) -> None:
    monkeypatch.setattr("loid_infer.rankers.ranking._BLOCK_CELLS", cells)
    sequences = two_domains()
    targets = split_sequences(sequences, "leave-one-out").test
    ranker = Random(sequences.n_items)
    ranks = target_ranks(ranker, sequences, targets)
    scores = ranker.scores(before(sequences, targets))
    for row, (user, at) in enumerate(zip(targets.users, targets.at, strict=True)):
        target = sequences.items[at]
        seen = set(sequences.items[sequences.starts[user] : at].tolist())
        others = [
            scores[row, item]
            for item in range(sequences.n_items)
            if sequences.item_domains[item] == sequences.item_domains[target] and item not in seen and item != target
        ]
        own = scores[row, target]
        expected = 1 + sum(other > own for other in others) + sum(other == own for other in others) / 2
        assert ranks[row] == expected


def test_candidates_are_unseen_items_of_the_targets_domain_drawn_once(tmp_path) -> None:
    sequences = two_domains()
    split = split_sequences(sequences, "leave-one-out")
    drawn, path = kept_candidates(tmp_path, sequences, split, 9, 0)
    for row, (user, at) in enumerate(zip(split.test.users, split.test.at, strict=True)):
        assert len({*drawn[row].tolist()}) == 9
        assert {*sequences.item_domains[drawn[row]].tolist()} == {int(sequences.item_domains[sequences.items[at]])}
        own = sequences.items[sequences.starts[user] : sequences.starts[user + 1]]
        assert not {*drawn[row].tolist()} & {*own.tolist()}
    before_ = path.read_bytes()
    again, same = kept_candidates(tmp_path, sequences, split, 9, 0)
    assert np.array_equal(drawn, again)
    assert (same, same.read_bytes()) == (path, before_)
    assert kept_candidates(tmp_path, sequences, split, 9, 1)[1] != path
    ranks = target_ranks(Random(sequences.n_items), sequences, split.test, drawn)
    assert 1 <= ranks.min() <= ranks.max() <= 10


def test_candidates_are_uniform_and_too_few_items_are_refused() -> None:
    sequences = clusters(n_users=600, n_clusters=1, size=12, length=4)
    targets = split_sequences(sequences, "leave-one-out").test
    drawn = draw_candidates(sequences, targets, 2, 0)
    counts = np.bincount(drawn.ravel(), minlength=12)
    assert counts.min() > 60
    assert counts.max() < 140
    with pytest.raises(BadSetting, match="too few items for 9"):
        draw_candidates(sequences, targets, 9, 0)


def test_popularity_counts_training_interactions() -> None:
    rows = [(f"u{user}", item, at) for user in range(4) for at, item in enumerate("abc")]
    sequences = sequences_of({"d": events([*rows, ("v", "c", 0), ("v", "d", 1)])}, 0)
    split = split_sequences(sequences, "leave-one-out")
    assert popularity(sequences, split).weights.tolist() == [4, -np.inf, 1, 1]  # b and c are targets of the others
    ranks = target_ranks(popularity(sequences, split), sequences, split.valid)
    assert (ranks == MISSED).all()


def test_recent_interactions_count_more() -> None:
    rows = [(f"u{user}", f"old{user % 2}", 0) for user in range(6)] + [(f"u{user}", "new", 90) for user in range(3)]
    rows += [(f"u{user}", item, at) for user in range(6) for item, at in (("x", 200 + user), ("y", 300 + user))]
    sequences = sequences_of({"d": events(rows)}, 0)
    split = split_sequences(sequences, "leave-one-out")
    weights = dict(zip(sequences.item_ids, popularity(sequences, split, half_life=0.1).weights, strict=True))
    assert weights["new"] == pytest.approx(3)
    assert weights["old0"] < 0.01


def test_co_occurrence_equals_a_plain_count() -> None:
    sequences = clusters(n_users=30, n_clusters=2, size=15, length=14)
    split = split_sequences(sequences, "leave-one-out")
    model = co_occurrence(sequences, split, damping=0.5, decay=0.8)
    n = sequences.n_items
    counts, frequency = np.zeros((n, n)), np.zeros(n)
    for user in range(sequences.n_users):
        items = sequences.items[sequences.starts[user] : split.train_ends[user]]
        frequency[items] += 1
        for first in range(len(items)):
            for second in range(first + 1, min(first + 1 + WINDOW, len(items))):
                counts[items[first], items[second]] += 1
                counts[items[second], items[first]] += 1
    scale = np.maximum(frequency, 1) ** -0.5
    weights = counts * scale[:, None] * scale
    histories = before(sequences, split.test)
    scores = model.scores(histories)
    for row, (start, end) in enumerate(zip(histories.starts, histories.ends, strict=True)):
        items = sequences.items[max(start, end - WINDOW) : end]
        expected = sum(0.8 ** (len(items) - 1 - k) * weights[item] for k, item in enumerate(items))
        assert scores[row][frequency > 0] == pytest.approx(expected[frequency > 0], rel=1e-5)


def test_co_occurrence_finds_planted_clusters() -> None:
    sequences = clusters()
    split = split_sequences(sequences, "leave-one-out")
    ranks = target_ranks(co_occurrence(sequences, split, damping=0.5, decay=1.0), sequences, split.test)
    assert ranks.max() <= 12  # all items of the cluster come first
    assert np.median(target_ranks(popularity(sequences, split), sequences, split.test)) > 12
