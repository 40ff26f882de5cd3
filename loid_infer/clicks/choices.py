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
from loid_infer.types import Bools, Floats, Ints

MAX_LISTS = MAX_VALID // 5  # lists of candidates of a validation; a prompt is several times as long
# Pairs in groups with one user and one history, the titles of their items, and where groups begin -> logits [n].
Chooser: TypeAlias = Callable[[Pairs, Sequence[str], Ints], Floats]


def n_candidates(clicks: Clicks) -> int:
    """The number of candidates of every target.

    Raises:
        BadSetting: users do not have one positive pair among equally many in validation and in test.
    """
    found: set[int] = set()
    for part in (VALID, TEST):
        rows = clicks.rows(part)
        users = clicks.users[rows]
        found |= {*np.unique(users, return_counts=True)[1].tolist()} if is_ranking(clicks.labels[rows], users) else {0}
    if len(found) > 1 or 0 in found:
        what, expected = "there are no candidates to choose from", "one liked item among equally many for every user"
        fix = f"Run: loid-infer bdlm pairs --domain {clicks.domain}"
        raise BadSetting(
            what, where=f"--task choose, validation and test pairs of {clicks.domain}", expected=expected, fix=fix
        )
    return found.pop()


def valid_lists(clicks: Clicks, seed: int) -> Ints:
    """The rows of at most MAX_LISTS users of the validation part, those of each user together."""
    rows = clicks.rows(VALID)
    rows = rows[np.argsort(clicks.users[rows], kind="stable")]
    return rows[np.isin(clicks.users[rows], drawn(np.unique(clicks.users[rows]), MAX_LISTS, seed))]


def choices_of(
    clicks: Clicks, titles: Sequence[str], prompts: Prompts, settings: BdlmSettings
) -> tuple[Questions, Questions]:
    """Those of training, whose other candidates are drawn evenly from the items that no pair of the user has in any
    part, and of some validation lists."""
    each, targets = prompts.candidates, clicks.rows(TRAIN)
    targets = drawn(targets[clicks.labels[targets]], settings.samples, settings.seed)
    of_targets = clicks.pairs(np.repeat(targets, each))
    items, labels = of_targets.items.reshape(-1, each).copy(), np.zeros((len(targets), each), bool)
    items[:, 1:], labels[:, 0] = _others(clicks, targets, each - 1, settings.seed), True
    train = Pairs(of_targets.users, items.ravel(), of_targets.histories)
    rows = valid_lists(clicks, settings.seed)
    parts = ((train, labels.ravel()), (clicks.pairs(rows), clicks.labels[rows]))
    of_train, of_valid = (
        Questions.of(pairs, truth, [titles[item] for item in pairs.items.tolist()], prompts, each)
        for pairs, truth in parts
    )
    return of_train, of_valid


def _others(clicks: Clicks, targets: Ints, n: int, seed: int) -> Ints:
    """`n` items for each of the rows `targets [m]`, `[m, n]`."""
    rng = np.random.default_rng([seed, n])
    order = np.argsort(clicks.users, kind="stable")
    starts = np.searchsorted(clicks.users[order], np.arange(len(clicks.user_ids) + 1))
    found = np.empty((len(targets), n), np.int64)
    for row, user in enumerate(clicks.users[targets].tolist()):
        free: Bools = np.ones(len(clicks.item_ids), bool)
        free[clicks.items[order[starts[user] : starts[user + 1]]]] = False
        if np.count_nonzero(free) < n:
            what, name = "too few items that a user never met", clicks.user_ids[user]
            fix = "Draw pairs with fewer --negatives."
            raise BadSetting(
                what, where=f"user {name!r}", expected=f"at least {n}", got=str(np.count_nonzero(free)), fix=fix
            )
        found[row] = rng.choice(np.flatnonzero(free), n, replace=False)
    return found


def log_odds(logits: Floats, starts: Ints) -> Floats:
    """The logit `[n]` of each candidate's probability, -80 to 40, from logits `[n]` in groups."""
    logits = logits.astype(np.float64)
    sums = np.logaddexp.reduceat(logits, starts[:-1])
    gaps = np.minimum(logits - np.repeat(sums, np.diff(starts)), -1e-18)
    found: Floats = np.clip(gaps - np.log(-np.expm1(gaps)), -80, 40).astype(np.float32)
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
