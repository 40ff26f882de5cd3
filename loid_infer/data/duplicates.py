"""Finds (user, item) pairs that occur more than once, in 16 bytes a row.

This file sees hashes of ids and row numbers; it knows neither the ids nor the files they came from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash

from loid_infer.types import Array, Bools, Ints

POLICIES = ("keep-last", "keep-first", "error")
_ODD = 0x9E3779B97F4A7C15  # odd, so that multiplying by it loses nothing


class PairHashes:
    """The pairs of a table in row order, each id as its xxh3-64.

    Two different pairs are taken for one only if both ids collide, which at 10 million rows has a chance below 1e-24.
    """

    def __init__(self) -> None:
        self._users: list[Array] = []
        self._items: list[Array] = []

    def add(self, user_ids: Sequence[str], item_ids: Sequence[str]) -> None:
        """Append rows."""
        self._users.append(_hashes(user_ids))
        self._items.append(_hashes(item_ids))

    def keep(self, policy: str) -> tuple[Bools, tuple[int, int] | None]:
        """Which rows `[n]` stay under `policy`, and the first row that repeats a pair after the row it repeats.

        `keep-last` keeps the last row of each pair, anything else the first.
        """
        users, items = self._ids()
        keep = np.ones(len(users), np.bool_)
        rows = _rows_of_repeated(users ^ (items * np.uint64(_ODD)))
        order = rows[np.lexsort((items[rows], users[rows]))]  # stable: rows of one pair stay in their order
        changes = (np.diff(users[order]) != 0) | (np.diff(items[order]) != 0)
        starts = np.r_[np.ones(min(len(order), 1), np.bool_), changes]
        keep[rows] = False
        keep[order[starts if policy != "keep-last" else np.r_[starts[1:], starts[:1]]]] = True
        repeats = np.flatnonzero(~starts)
        if not len(repeats):
            return keep, None
        at = repeats[np.argmin(order[repeats])]
        # The earliest repeat follows its pair's first row directly, for any row between them would be earlier.
        return keep, (int(order[at - 1]), int(order[at]))

    def counts(self, keep: Bools) -> tuple[int, int]:
        """Numbers of distinct users and distinct items among the kept rows."""
        users, items = self._ids()
        return _n_distinct(users[keep]), _n_distinct(items[keep])

    def _ids(self) -> tuple[Ints, Ints]:
        if len(self._users) != 1:
            none = [np.zeros(0, np.uint64)]
            self._users = [np.concatenate(self._users or none)]
            self._items = [np.concatenate(self._items or none)]
        return self._users[0], self._items[0]


def _hashes(ids: Sequence[str]) -> Array:
    hash64 = xxhash.xxh3_64_intdigest
    return np.fromiter((hash64(id_.encode()) for id_ in ids), np.uint64, len(ids))


def _rows_of_repeated(keys: Array) -> Ints:
    """Ascending rows whose key occurs more than once. Sorting values alone is many times faster than sorting rows, so
    the exact comparison of pairs is left for these few."""
    ordered = np.sort(keys)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated):
        return np.zeros(0, np.int64)
    at = np.minimum(np.searchsorted(repeated, keys), len(repeated) - 1)
    return np.flatnonzero(repeated[at] == keys)


def _n_distinct(keys: Array) -> int:
    ordered = np.sort(keys)
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + min(len(ordered), 1)
