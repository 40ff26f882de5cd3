"""Labeled pairs of interactions: each with items that its user never met, drawn as BDLM does (arXiv 2311.03778).

Of every user the last interaction is for test and the one before for validation, each among `n` negatives: half are
drawn by popularity (count^0.75 in the training part), half from the nearest titles, equal ones never twice. Every
training interaction gets one negative, drawn evenly or by popularity. No negative was ever met by its user, in whatever
part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from loid_infer.data.kinds import PARTS
from loid_infer.data.sequences import Sequences, SequenceSplit, Targets
from loid_infer.errors import BadSetting
from loid_infer.types import Array, Bools, Floats, Ints

N_NEAREST = 50  # titles from which the nearest are drawn
TRAINING = ("even", "popular")
_POWER = 0.75


@dataclass(frozen=True, slots=True)
class DrawnPairs:
    """Labeled pairs, those of a user and part in random order. Those drawn for an interaction have its position."""

    users: Ints  # [n], codes
    items: Ints  # [n], codes
    labels: Ints  # [n], 1 or 0
    positions: Ints  # [n], of the interaction in its user's sequence
    parts: Ints  # [n], codes of PARTS


def draw_pairs(
    sequences: Sequences,
    split: SequenceSplit,
    nearest: Callable[[Ints], Ints],
    n_negatives: int,
    n_users: int | None,
    seed: int,
    training: str = "even",
) -> DrawnPairs:
    """Draw the pairs of one domain.

    Args:
        split: leave-one-out.
        nearest: items `[m]` -> the `N_NEAREST` with the nearest titles, nearest first, -1 where there are fewer.
        n_negatives: of each target of validation and test.
        n_users: number of users, drawn at random, whose targets are tested; None: all.
        training: one of TRAINING, how the negatives of training are drawn.

    Raises:
        BadSetting: the domain has too few items that a user never met.
    """
    rng = np.random.default_rng([seed, n_negatives])
    chosen = split.test.users
    if n_users is not None and n_users < len(chosen):
        chosen = np.sort(rng.choice(chosen, n_users, replace=False))
    drawer = _Drawer(sequences, split, nearest, rng)
    for part, targets in (("test", split.test), ("valid", split.valid)):
        drawer.targets(part, targets.where(np.isin(targets.users, chosen)), n_negatives)
    drawer.training(training)
    return drawer.pairs()


class _Drawer:
    def __init__(
        self, sequences: Sequences, split: SequenceSplit, nearest: Callable[[Ints], Ints], rng: np.random.Generator
    ) -> None:
        self._sequences, self._split, self._nearest, self._rng = sequences, split, nearest, rng
        n_items = len(sequences.item_ids)
        self._n_items = n_items
        self._drawn: dict[int, list[int]] = {}
        trained = np.concatenate(
            [sequences.items[start:end] for start, end in zip(sequences.starts[:-1], split.train_ends, strict=True)]
        )
        self._weights: Floats = np.bincount(trained, minlength=n_items) ** _POWER
        self._rows: list[tuple[int, int, int, int, int]] = []

    def _met(self, user: int) -> Bools:
        """Whether each item was met by the user, or drawn for it, `[n_items]`."""
        met = np.zeros(self._n_items, np.bool_)
        met[self._sequences.items[self._sequences.starts[user] : self._sequences.starts[user + 1]]] = True
        met[self._drawn.get(user, [])] = True
        return met

    def targets(self, part: str, targets: Targets, n: int) -> None:
        """Draw `n` negatives of each target; they are not drawn again for its user."""
        neighbors = self._nearest(self._sequences.items[targets.at])
        for user, at, near in zip(targets.users.tolist(), targets.at.tolist(), neighbors, strict=True):
            met = self._met(user)
            titles = [item for item in near.tolist() if item >= 0 and not met[item]]
            similar = self._rng.permutation(titles)[: n // 2].astype(np.int64)
            weights = np.where(met, 0.0, self._weights)
            weights[similar] = 0.0
            n_popular = n - len(similar)
            if np.count_nonzero(weights) < n_popular:
                weights = np.where(met, 0.0, self._weights + 1.0)
                weights[similar] = 0.0
            self._check(user, int(np.count_nonzero(weights)) + len(similar), n)
            popular = self._rng.choice(len(weights), n_popular, replace=False, p=weights / weights.sum())
            self._drawn.setdefault(user, []).extend([*similar.tolist(), *popular.tolist()])
            self._add(user, at, self._sequences.items[at], np.concatenate([similar, popular]), part)

    def training(self, how: str) -> None:
        """Draw one negative of each training interaction."""
        for user in range(self._sequences.n_users):
            start, end = int(self._sequences.starts[user]), int(self._split.train_ends[user])
            free = np.flatnonzero(~self._met(user))
            self._check(user, len(free), 1)
            weights = self._weights[free]
            by = weights / weights.sum() if how == "popular" and weights.any() else None
            items = self._rng.choice(free, end - start, p=by).tolist()
            for at, item in zip(range(start, end), items, strict=True):
                self._add(user, at, self._sequences.items[at], np.array([item]), "train")

    def _check(self, user: int, n_free: int, n: int) -> None:
        if n_free < n:
            what, name = "too few items that a user never met", self._sequences.user_ids[user]
            fix = "Give fewer --negatives." if n > 1 else "Ingest more items, or leave that user out."
            raise BadSetting(what, where=f"user {name!r}", expected=f"at least {n}", got=str(n_free), fix=fix)

    def _add(self, user: int, at: int, item: int, negatives: Array, part: str) -> None:
        position, code = at - int(self._sequences.starts[user]), PARTS.index(part)
        rows = [(user, int(item), 1, position, code)]
        rows += [(user, int(other), 0, position, code) for other in negatives.tolist()]
        self._rows += [rows[i] for i in self._rng.permutation(len(rows)).tolist()]

    def pairs(self) -> DrawnPairs:
        """All that was drawn."""
        return DrawnPairs(*np.array(self._rows, np.int64).reshape(-1, 5).T)
