"""Finds (user, item) pairs that occur more than once, with 16 bytes of memory per row."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from loid_infer.kernels.unique import first_rows
from loid_infer.types import Bools, Ints

POLICIES = ("keep-last", "keep-first", "error")
KEEP_ALL = "keep-all"  # of interactions, which may repeat
_ODD = 0x9E3779B97F4A7C15  # odd, so that multiplication is invertible


class PairHashes:
    """The pairs of a table in row order, each id as its xxh3-64.

    Two pairs are confused only if both ids collide: at 10 million rows, a probability below 1e-24.
    """

    def __init__(self) -> None:
        self._users, self._items = array("Q"), array("Q")

    def add(self, user_ids: Sequence[str], item_ids: Sequence[str]) -> None:
        """Append rows."""
        hash64 = xxhash.xxh3_64_intdigest
        for hashes, ids in ((self._users, user_ids), (self._items, item_ids)):
            hashes.frombytes(np.fromiter((hash64(id_.encode()) for id_ in ids), np.uint64, len(ids)).tobytes())

    def keep(self, policy: str, order: Sequence[Ints] = ()) -> Bools:
        """Which rows `[n]` to keep: of each pair the last one for `keep-last`, else the first.

        Rows of a pair are compared by the arrays `[n]` of `order`, the last of them first, and then by their number.
        """
        users, items = self.codes()
        keys = users ^ (items * np.uint64(_ODD))
        # Sorting integers is much faster than sorting pairs, so only pairs with repeated keys are compared.
        ordered = np.sort(keys)
        repeated = pc.is_in(pa.array(keys), pa.array(ordered[1:][ordered[1:] == ordered[:-1]]))
        rows = np.flatnonzero(repeated)
        if order:
            rows = rows[np.lexsort([part[rows] for part in order])]
        rows = rows[:: -1 if policy == "keep-last" else 1]
        keep = np.ones(len(keys), np.bool_)
        keep[rows] = False
        keep[rows[first_rows(np.stack([users[rows], items[rows]], axis=1).view(np.uint8))]] = True
        return keep

    def first_repeat(self, keep: Bools) -> tuple[int, int]:
        """The first row that repeats a pair, after the row it repeats. `keep` is `self.keep("error")`."""
        (users, items), row = self.codes(), int(np.argmin(keep))
        return int(np.argmax((users == users[row]) & (items == items[row]))), row

    def codes(self) -> tuple[Ints, Ints]:
        """The hashes of users and items, `[n]` each."""
        return np.asarray(self._users), np.asarray(self._items)

    def counts(self, keep: Bools) -> tuple[int, int]:
        """Numbers of distinct users and items in the kept rows."""
        users, items = self.codes()
        return _n_distinct(users[keep]), _n_distinct(items[keep])


def _n_distinct(hashes: Ints) -> int:
    ordered = np.sort(hashes)  # a hash table would take four times the memory
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + min(len(ordered), 1)
