"""Lists the reviews of each user and item, and samples up to k of them as the histories of a pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loid_infer.kernels import sampling
from loid_infer.types import Array, Bools, Interactions, Ints


@dataclass(frozen=True, slots=True)
class CodePairs:
    """n (user, item) pairs, with the text and time of the pair's own review if there is one."""

    users: Ints  # [n], codes; -1 for an unknown user
    items: Ints  # [n], codes; -1 for an unknown item
    texts: Ints  # [n], code of the pair's own text; -1 if there is none
    timestamps: Ints | None = None  # [n], int64 seconds; None: histories are not limited in time


@dataclass(frozen=True, slots=True)
class Lists:
    """The reviews of each group (a user or an item) in CSR form, without empty texts."""

    starts: Ints  # [n_groups + 2], the reviews of group g are starts[g] .. starts[g + 1]; the last group is empty
    reviews: Ints  # [m], row numbers among the interactions
    texts: Ints  # [m], codes
    order: Ints  # [m], ascending: group * n_values + partner, or + rank of the time in `times`
    times: Ints | None  # [n_values], the different times, ascending; None: ordered by partner
    n_values: int  # of the second key of `order`


@dataclass(frozen=True, slots=True)
class Histories:
    """Lists of both sides.

    With `strict`, samples contain neither the pair's own review nor texts equal to it. Without, they are drawn as in
    LoID's paper, including the target review.
    """

    by_user: Lists
    by_item: Lists
    strict: bool

    def draw(self, pairs: CodePairs, k: int, seed: int, epoch: int) -> tuple[Ints, Ints]:
        """Up to `k` reviews of each pair's user and item: positions `[n, k]` in `by_user` and `by_item`, -1 for none.

        If there are more than `k`, the sample depends only on (seed, user, item, epoch). With `pairs.timestamps`, only
        strictly earlier reviews are used.
        """
        key = sampling.keys(seed, pairs.users, pairs.items, epoch)
        of_user = _draw(self.by_user, pairs.users, pairs.items, pairs, key, k, self.strict)
        of_item = _draw(self.by_item, pairs.items, pairs.users, pairs, sampling.mix(key), k, self.strict)
        return of_user, of_item


def histories(interactions: Interactions, rows: Bools, *, strict: bool, by_time: bool) -> Histories:
    """Histories from the reviews in `rows [n]`, ordered by time if samples will be limited to earlier reviews."""
    kept = rows & ~interactions.empty[interactions.texts]
    reviews = np.flatnonzero(kept)
    users, items = interactions.users[kept], interactions.items[kept]
    texts = interactions.texts[kept]
    times = interactions.timestamps[kept] if by_time else None
    n_users, n_items = len(interactions.user_ids), len(interactions.item_ids)
    return Histories(
        _lists(users, items, reviews, texts, times, n_users, n_items),
        _lists(items, users, reviews, texts, times, n_items, n_users),
        strict,
    )


def _lists(
    groups: Ints, partners: Ints, reviews: Ints, texts: Ints, times: Ints | None, n_groups: int, n_partners: int
) -> Lists:
    values, n_values, ranks = None, n_partners, partners.astype(np.int64)
    if times is not None:
        values, ranks = np.unique(times, return_inverse=True)
        n_values = len(values)
    order = groups.astype(np.int64) * n_values + ranks
    # Ties in time are ordered by partner, so that the result does not depend on the order of rows.
    by = np.lexsort((partners, order)) if times is not None else np.argsort(order, kind="stable")
    starts = np.r_[0, np.cumsum(np.bincount(groups, minlength=n_groups + 1))]
    return Lists(starts, reviews[by], texts[by], order[by], values, n_values)


def _draw(lists: Lists, groups: Ints, partners: Ints, pairs: CodePairs, key: Array, k: int, strict: bool) -> Ints:
    groups = np.where(groups < 0, len(lists.starts) - 2, groups)  # unknown: the empty list
    first, sizes = lists.starts[groups], lists.starts[groups + 1] - lists.starts[groups]
    own = np.full(len(groups), -1, np.int64)  # position of the pair's own review in its group; -1: none
    if lists.times is not None and pairs.timestamps is not None:
        rank = np.searchsorted(lists.times, pairs.timestamps)
        sizes = np.searchsorted(lists.order, groups * lists.n_values + rank) - first
    elif strict:
        at = positions(lists.order, np.where(partners < 0, -1, groups * lists.n_values + partners))
        own = np.where(at < 0, -1, at - first)
    picks = sampling.choose(key, sizes - (own >= 0), k)
    picks += (own[:, None] >= 0) & (picks >= own[:, None])  # skip the pair's own review
    chosen = np.where(picks >= 0, first[:, None] + picks, -1)
    if strict and len(lists.texts):
        rows = np.flatnonzero(pairs.texts >= 0)
        part = chosen[rows]
        part[(lists.texts[part] == pairs.texts[rows, None]) & (part >= 0)] = -1
        chosen[rows] = part
    return chosen


def positions(ascending: Ints, wanted: Ints) -> Ints:
    """The first position of each of `wanted [n]` in `ascending [m]`, -1 for those that are not in it.

    They are looked up in order, which is several times as fast in an array that no cache holds.
    """
    found = np.full(len(wanted), -1, np.int64)
    if len(ascending):
        order = np.argsort(wanted, kind="stable")
        at = np.minimum(np.searchsorted(ascending, wanted[order]), len(ascending) - 1)
        found[order] = np.where(ascending[at] == wanted[order], at, -1)
    return found
