"""Random splits and splits by time."""

import dataclasses
import struct

import numpy as np
import pytest
import xxhash

from loid_infer.data.splits import split
from loid_infer.errors import BadSetting
from loid_infer.types import NO_TIME, Interactions


def make_interactions(n, seed=0, times=None):
    draw = np.random.default_rng(seed)
    codes = draw.permutation(200 * 100)[:n]
    users, items = codes // 100, codes % 100
    return Interactions(
        user_ids=[f"u{i:04d}" for i in range(200)],
        item_ids=[f"é{i:04d}" for i in range(100)],
        users=users,
        items=items,
        ratings=np.ones(n, np.float32),
        timestamps=draw.integers(0, 500, n) if times is None else times,
        texts=np.zeros(n, np.int64),
        digests=np.zeros((1, 16), np.uint8),
        empty=np.zeros(1, bool),
        rating_range=(1.0, 5.0),
        digest="0",
    )


def take(interactions, rows):
    return dataclasses.replace(
        interactions,
        users=interactions.users[rows],
        items=interactions.items[rows],
        ratings=interactions.ratings[rows],
        timestamps=interactions.timestamps[rows],
        texts=interactions.texts[rows],
    )


@pytest.mark.parametrize("kind", ["random", "time"])
def test_parts_partition_the_reviews_in_about_8_1_1(kind):
    parts = split(make_interactions(10_000), kind, 3)
    assert np.array_equal(parts.train.astype(int) + parts.valid + parts.test, np.ones(10_000))
    assert abs(parts.train.mean() - 0.8) < 0.02
    assert abs(parts.valid.mean() - 0.1) < 0.02


def test_a_random_split_equals_a_reference_implementation():
    data = make_interactions(300)
    parts = split(data, "random", -7)
    for row in range(data.n):
        user = data.user_ids[data.users[row]].encode()
        item = data.item_ids[data.items[row]].encode()
        x = xxhash.xxh3_64_intdigest(struct.pack("<qQ", -7, len(user)) + user + item) / 2**64
        assert parts.train[row] == (x < 0.8)
        assert parts.valid[row] == (0.8 <= x < 0.9)


def test_a_random_split_does_not_depend_on_row_order_or_other_rows():
    data = make_interactions(5_000)
    expected = split(data, "random", 0)
    rows = np.random.default_rng(1).permutation(5_000)[:3_000]
    part = split(take(data, rows), "random", 0)
    assert np.array_equal(part.train, expected.train[rows])
    assert np.array_equal(part.test, expected.test[rows])
    assert part.digest == expected.digest


def test_the_seed_changes_the_split_and_its_digest():
    first, second = split(make_interactions(5_000), "random", 0), split(make_interactions(5_000), "random", 1)
    assert not np.array_equal(first.train, second.train)
    assert first.digest != second.digest


def test_time_split_is_ordered_and_keeps_ties_together():
    data = make_interactions(5_000)
    parts = split(data, "time", 0)
    times = data.timestamps
    assert times[parts.train].max() < times[parts.valid].min()
    assert times[parts.valid].max() < times[parts.test].min()


def test_the_digest_of_a_time_split_covers_its_cutoffs_and_seed():
    data = make_interactions(5_000)
    later = dataclasses.replace(data, timestamps=data.timestamps + 1)
    digests = {split(data, "time", 0).digest, split(later, "time", 0).digest, split(data, "time", 1).digest}
    assert len(digests) == 3


def test_a_time_split_refuses_missing_timestamps():
    times = np.arange(100, dtype=np.int64)
    times[5] = NO_TIME
    with pytest.raises(BadSetting, match="1 of 100 reviews without one"):
        split(make_interactions(100, times=times), "time", 0)


def test_equal_timestamps_cannot_be_split():
    with pytest.raises(BadSetting, match=r"100 reviews: 0 training, 0 validation, 100 test"):
        split(make_interactions(100, times=np.full(100, 9)), "time", 0)


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("kind", ["random", "time"])
def test_too_few_reviews_are_reported(kind, n):
    with pytest.raises(BadSetting, match=f"got {n} reviews"):
        split(make_interactions(n), kind, 0)


def test_an_unknown_split_or_a_seed_out_of_range_is_refused():
    with pytest.raises(BadSetting, match=r"expected random \| time, got 'alphabetical'"):
        split(make_interactions(10), "alphabetical", 0)
    with pytest.raises(BadSetting, match="64-bit"):
        split(make_interactions(10), "random", 1 << 63)
