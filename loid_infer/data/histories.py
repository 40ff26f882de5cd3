"""Whose reviews a head may look at: lists of reviews by user and by item, and draws of up to k of them for each pair.

This file knows codes of users, items and texts. It knows no vector and no rating, so none can leak through it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loid_infer.kernels import sampling
from loid_infer.types import Array, Bools, Interactions, Ints


@dataclass(frozen=True, slots=True)
class CodePairs:
    """What is asked about: n pairs, and the review of each where there is one."""

    users: Ints  # [n], codes; -1 for an unknown user
    items: Ints  # [n], codes; -1 for an unknown item
    texts: Ints  # [n], code of the pair's own text; -1 where there is none
    timestamps: Ints | None = None  # [n], int64 seconds; None lets a history reach over all time


@dataclass(frozen=True, slots=True)
class Lists:
    """The reviews of each group (a user or an item) as compressed rows, empty texts left out."""

    starts: Ints  # [n_groups + 1], the reviews of group g are starts[g] .. starts[g + 1]
    reviews: Ints  # [m], row numbers among the interactions
    texts: Ints  # [m], codes
    order: Ints  # [m], ascending: group * n_values + partner, or + rank of the time in `times`
    times: Ints | None  # [n_values], the different times, ascending; None: ordered by partner
    n_values: int  # of the second key of `order`


@dataclass(frozen=True, slots=True)
class Histories:
    """Both sides' lists, and whether the pair's own review is kept out of them.

    `strict` leaves out the pair's own review and every text equal to it. Without it a history is drawn as LoID's paper
    does, target review and all.
    """

    by_user: Lists
    by_item: Lists
    strict: bool

    def draw(self, pairs: CodePairs, k: int, seed: int, epoch: int) -> tuple[Ints, Ints]:
        """Up to `k` reviews of each pair's user and of its item: places `[n, k]` in `by_user` and `by_item`, else -1.

        All of a history of at most `k` reviews, else a draw that depends on (seed, user, item, epoch) only. With
        `pairs.timestamps`, only reviews strictly earlier than the pair's.
        """
        key = sampling.keys(seed, pairs.users, pairs.items, epoch)
        of_user = _draw(self.by_user, pairs.users, pairs.items, pairs, key, k, self.strict)
        of_item = _draw(self.by_item, pairs.items, pairs.users, pairs, sampling.mix(key), k, self.strict)
        return of_user, of_item


def histories(interactions: Interactions, rows: Bools, *, strict: bool, by_time: bool) -> Histories:
    """Lists over the reviews in `rows [n]`.

    Args:
        rows: the training part; all reviews for the paper's protocol.
        strict: keep the pair's own review and texts equal to it out of every draw.
        by_time: order by time, so that draws can be limited to earlier reviews.
    """
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
    # The partner breaks ties of time, so that the order of the table's rows changes nothing.
    by = np.lexsort((partners, order)) if times is not None else np.argsort(order, kind="stable")
    starts = np.r_[0, np.cumsum(np.bincount(groups, minlength=n_groups))]
    return Lists(starts, reviews[by], texts[by], order[by], values, n_values)


def _draw(lists: Lists, groups: Ints, partners: Ints, pairs: CodePairs, key: Array, k: int, strict: bool) -> Ints:
    groups = np.where(groups < 0, len(lists.starts) - 1, groups)  # the unknown one: an empty list behind the last
    ends = np.append(lists.starts, lists.starts[-1])
    first, sizes = ends[groups], ends[groups + 1] - ends[groups]
    own = np.full(len(groups), -1, np.int64)  # place of the pair's own review among the group's; -1: not there
    if lists.times is not None and pairs.timestamps is not None:
        rank = np.searchsorted(lists.times, pairs.timestamps)
        sizes = np.searchsorted(lists.order, groups * lists.n_values + rank) - first
    elif strict and len(lists.order):
        wanted = np.where(partners < 0, -1, groups * lists.n_values + partners)
        at = np.minimum(np.searchsorted(lists.order, wanted), len(lists.order) - 1)
        own = np.where(lists.order[at] == wanted, at - first, -1)
    picks = sampling.choose(key, sizes - (own >= 0), k)
    picks += (own[:, None] >= 0) & (picks >= own[:, None])  # step over the pair's own review
    places = np.where(picks >= 0, first[:, None] + picks, -1)
    if strict and len(lists.texts):
        places[(lists.texts[places] == pairs.texts[:, None]) & (places >= 0)] = -1
    return places
