"""Duplicate pairs, compared with a slow reference."""

import numpy as np
import pytest

from loid_infer.data.duplicates import PairHashes


@pytest.mark.parametrize(("n", "n_ids"), [(0, 1), (1, 1), (5, 1), (500, 20), (500, 400), (40, 10_000)])
@pytest.mark.parametrize("policy", ["keep-last", "keep-first", "error"])
def test_duplicates_equal_a_dictionary_reference(n, n_ids, policy):
    draw = np.random.default_rng(n + n_ids)
    users = [f"u{code}" for code in draw.integers(0, n_ids, n)]
    items = [f"u{code}" for code in draw.integers(0, max(n_ids // 10, 1), n)]
    hashes = PairHashes()
    for start in range(0, n, 7):
        hashes.add(users[start : start + 7], items[start : start + 7])
    kept_rows, repeat = {}, None
    for row, pair in enumerate(zip(users, items, strict=True)):
        if pair in kept_rows:
            repeat = repeat or (kept_rows[pair], row)
            kept_rows[pair] = row if policy == "keep-last" else kept_rows[pair]
        else:
            kept_rows[pair] = row
    keep = hashes.keep(policy)
    assert np.flatnonzero(keep).tolist() == sorted(kept_rows.values())
    assert keep.all() == (repeat is None)
    if repeat and policy != "keep-last":
        assert hashes.first_repeat(keep) == repeat
    kept = np.flatnonzero(keep)
    assert hashes.counts(keep) == (len({users[row] for row in kept}), len({items[row] for row in kept}))


def test_pairs_with_equal_keys_are_distinguished(monkeypatch):
    monkeypatch.setattr("loid_infer.data.duplicates._ODD", 0)  # the key is then the user alone
    hashes = PairHashes()
    hashes.add(["a", "a", "b", "a"], ["x", "y", "x", "x"])
    assert hashes.keep("keep-last").tolist() == [False, True, True, True]
    assert hashes.first_repeat(hashes.keep("error")) == (0, 3)
