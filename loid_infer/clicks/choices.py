"""Which of some candidates will a user like? BDLM's second task (arXiv 2311.03778, table 2), as pairs in groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from loid_infer.clicks.answers import MAX_VALID, Questions, drawn
from loid_infer.clicks.candidates import is_ranking
from loid_infer.clicks.prompts import Prompts
from loid_infer.clicks.settings import BdlmSettings
from loid_infer.data.clicks import TEST, TRAIN, VALID, Clicks, Pairs
from loid_infer.errors import BadSetting
from loid_infer.types import Bools, Floats, Ints, Progress

_DRAWS = 4  # of a candidate, at most
MAX_LISTS = MAX_VALID // 5  # lists of candidates of a validation; a prompt is several times as long
# Pairs in groups with one user and one history, the titles of their items, and where groups begin -> logits [n].
Chooser: TypeAlias = Callable[[Pairs, Sequence[str], Ints], Floats]


def n_candidates(clicks: Clicks) -> int:
    """The number of candidates of every target.

    Raises:
        BadSetting: users do not have one positive pair among equally many in validation and in test, all with the same
            history: else it might show which is positive.
    """
    rows = np.concatenate([clicks.rows(VALID), clicks.rows(TEST)])
    lists = clicks.users[rows] * 2 + (clicks.parts[rows] == TEST)
    sizes, histories = np.unique(lists, return_counts=True)[1], np.unique([lists, clicks.n_before[rows]], axis=1)
    if not is_ranking(clicks.labels[rows], lists) or len({*sizes.tolist()}) > 1 or histories.shape[1] > len(sizes):
        expected = "one liked item among equally many, at one time, for every user"
        where, fix = "--task choose, validation and test pairs", f"Run: loid-infer bdlm pairs --domain {clicks.domain}"
        raise BadSetting("there are no candidates to choose from", where=where, expected=expected, fix=fix)
    return int(sizes[0])


def valid_lists(clicks: Clicks, seed: int) -> Ints:
    """The rows of at most MAX_LISTS users of the validation part, those of each user together."""
    rows = clicks.rows(VALID)
    rows = rows[np.argsort(clicks.users[rows], kind="stable")]
    return rows[np.isin(clicks.users[rows], drawn(np.unique(clicks.users[rows]), MAX_LISTS, seed))]


def choices_of(
    clicks: Clicks, titles: Sequence[str], prompts: Prompts, settings: BdlmSettings, progress: Progress
) -> tuple[Questions, Questions]:
    """Those of training, and of some validation lists. The other candidates of training are items of its negative
    pairs, drawn as often as they stand there, with which the user has no pair in any part. Users with too few items
    are left out of training.

    Raises:
        BadSetting: no user has enough of them.
    """
    each = prompts.candidates
    targets = drawn(_targets(clicks, each, progress), settings.samples, settings.seed)
    of_targets = clicks.pairs(np.repeat(targets, each))
    items, labels = of_targets.items.reshape(-1, each).copy(), np.zeros((len(targets), each), bool)
    items[:, 1:], labels[:, 0] = _others(clicks, targets, each - 1, settings.seed), True
    train = Pairs(of_targets.users, items.ravel(), of_targets.histories)
    rows = valid_lists(clicks, settings.seed)
    parts = ((train, labels.ravel()), (clicks.pairs(rows), clicks.labels[rows]))
    of_train, of_valid = (
        Questions.of(pairs, truth, [titles[item] for item in pairs.items.tolist()], prompts) for pairs, truth in parts
    )
    return of_train, of_valid


def _targets(clicks: Clicks, each: int, progress: Progress) -> Ints:
    """The rows of positive training pairs whose users have no pair with at least `each - 1` items."""
    rows = clicks.rows(TRAIN)
    rows = rows[clicks.labels[rows]]
    n_items = len(clicks.item_ids)
    met = np.unique(clicks.users * n_items + clicks.items) // n_items
    enough = n_items - np.bincount(met, minlength=len(clicks.user_ids)) >= each - 1
    kept = rows[enough[clicks.users[rows]]]
    if not len(kept):
        what, where = "no user has enough items that it never met", f"--task choose, {clicks.domain}"
        fix = "Ingest more items, or draw pairs with fewer --negatives."
        raise BadSetting(what, where=where, expected=f"at least {each - 1}", fix=fix)
    if len(kept) < len(rows):
        progress.say(f"{len(rows) - len(kept):,} liked pairs are left out: their users met nearly all items")
    return kept


def _others(clicks: Clicks, targets: Ints, n: int, seed: int) -> Ints:
    """`n` items for each of the rows `targets [m]`, `[m, n]`."""
    rng = np.random.default_rng([seed, n])
    order = np.argsort(clicks.users, kind="stable")
    starts = np.searchsorted(clicks.users[order], np.arange(len(clicks.user_ids) + 1))
    negatives = clicks.items[clicks.rows(TRAIN)[~clicks.labels[clicks.rows(TRAIN)]]]
    found = np.empty((len(targets), n), np.int64)
    for row, user in enumerate(clicks.users[targets].tolist()):
        free: Bools = np.ones(len(clicks.item_ids), bool)
        free[clicks.items[order[starts[user] : starts[user + 1]]]] = False
        others = negatives[rng.integers(len(negatives), size=_DRAWS * n)]
        others = others[free[others]]
        picked = others[np.sort(np.unique(others, return_index=True)[1])[:n]]
        free[picked] = False
        found[row, : len(picked)] = picked
        if len(picked) < n:  # the user met most of them
            found[row, len(picked) :] = rng.choice(np.flatnonzero(free), n - len(picked), replace=False)
    return found


def by_user(choose: Chooser) -> Callable[[Pairs, Sequence[str]], Floats]:
    """The same for pairs in any order, whose groups are those of one user."""

    def score(pairs: Pairs, titles: Sequence[str]) -> Floats:
        order = np.argsort(pairs.users, kind="stable")
        starts = np.append(np.unique(pairs.users[order], return_index=True)[1], pairs.n)
        found = np.empty(pairs.n, np.float32)
        found[order] = choose(pairs.take(order), [titles[row] for row in order.tolist()], starts)
        return found

    return score
