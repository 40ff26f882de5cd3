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

    def take(self, rows: Ints | slice) -> CodePairs:
        """The selected `rows`."""
        times = None if self.timestamps is None else self.timestamps[rows]
        return CodePairs(self.users[rows], self.items[rows], self.texts[rows], times)


@dataclass(frozen=True, slots=True)
class Lists:
    """The reviews of each group (a user or an item) in CSR form, without empty texts."""

    starts: Ints  # [n_groups + 2], the reviews of group g are starts[g] .. starts[g + 1]; the last group is empty
    reviews: Ints  # [m], row numbers among the interactions
    texts: Ints  # [m], codes
    order: Ints  # [m], ascending: group * n_values + partner, or + rank of the time in `times`
    times: Ints | None  # [n_values], the different times, ascending; None: ordered by partner
    n_values: int  # of the second key of `order`

    def bounds(self, groups: Ints) -> tuple[Ints, Ints]:
        """First positions and numbers of the reviews of `groups [n]`; of -1, which is unknown, there are none."""
        groups = np.where(groups < 0, len(self.starts) - 2, groups)
        first = self.starts[groups]
        return first, self.starts[groups + 1] - first


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
        of_user, of_item = (self.draw_side(pairs, k, seed, epoch, of_item=of_item) for of_item in (False, True))
        return of_user, of_item

    def draw_side(self, pairs: CodePairs, k: int, seed: int, epoch: int, *, of_item: bool) -> Ints:
        """The user's or the item's half of `draw`."""
        key = sampling.keys(seed, pairs.users, pairs.items, epoch)
        if of_item:
            return _draw(self.by_item, pairs.items, pairs.users, pairs, sampling.mix(key), k, self.strict)
        return _draw(self.by_user, pairs.users, pairs.items, pairs, key, k, self.strict)

    def whole(self, pairs: CodePairs, k: int, *, of_item: bool) -> Bools:
        """For which pairs `[n]` `draw_side` surely gives every review of the user (of the item), none left out."""
        lists, groups = (self.by_item, pairs.items) if of_item else (self.by_user, pairs.users)
        if pairs.timestamps is not None:
            return np.zeros(len(groups), bool)
        short: Bools = lists.bounds(groups)[1] <= k
        return short & (pairs.texts < 0)


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
    first, sizes = lists.bounds(groups)
    own = np.full(len(groups), -1, np.int64)  # position of the pair's own review in its group; -1: none
    if lists.times is not None and pairs.timestamps is not None:
        rank = np.searchsorted(lists.times, pairs.timestamps)
        earlier = np.searchsorted(lists.order, groups * lists.n_values + rank) - first
        sizes = np.minimum(sizes, earlier)
    elif strict:
        rated = np.flatnonzero((pairs.texts >= 0) & (partners >= 0))
        at = positions(lists.order, groups[rated] * lists.n_values + partners[rated])
        own[rated] = np.where(at < 0, -1, at - first[rated])
    picks = sampling.choose(key, sizes - (own >= 0), k)
    skipped = np.flatnonzero(own >= 0)  # the pair's own review
    picks[skipped] += picks[skipped] >= own[skipped, None]
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
