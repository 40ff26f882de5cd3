"""Generates synthetic likes, half of which only interactions explain, and half only titles (docs/sample.md)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from loid_infer.data.kinds import PARTS
from loid_infer.data.sample import FIRST_SECOND, generator
from loid_infer.data.vocabulary import OPINIONS, aspects_of
from loid_infer.types import Array, Floats, Ints

PER_PART = (12, 2, 4)  # pairs of a user in the parts train, valid and test, of each kind of item
KIND_PAIRS = 18  # all of them
NOISE = 0.1  # share of labels that are the other one
ATTAINABLE_AUC = {"interactions": 0.8, "titles": 0.8, "both": 0.9}  # expected, on the test pairs
_MIN_PLAIN, _USERS_PER_PLAIN = 24, 2.5
_DAY, _MAX_START = 86_400, 1_700
_GROUP_ROWS = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class PlantedLikes:
    """Labeled pairs of users and items, by user and time.

    The first items are plain: all have one title, and users like those of their own one of two groups. Every other item
    is met once, so that only its title tells anything: it praises, which all users like, or blames, which none does.
    """

    titles: Sequence[str]  # [n_items]
    tones: Ints  # [n_items]: 1 where the title praises, -1 where it blames, 0 for plain items
    users: Ints  # [n], codes, ascending
    items: Ints  # [n]
    labels: Ints  # [n]
    parts: Ints  # [n], codes of PARTS
    timestamps: Ints  # [n], seconds since 1970
    by_interactions: Floats  # [n]: P(label = 1) as interactions know it, 0.5 where they know nothing
    by_titles: Floats  # [n]: the same of titles

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.users)

    @property
    def both(self) -> Floats:
        """P(label = 1), `[n]`."""
        return np.where(self.by_titles == 0.5, self.by_interactions, self.by_titles)

    def item_ids(self) -> list[str]:
        """`[n_items]`."""
        return [f"synthetic-i{code:06d}" for code in range(len(self.titles))]

    def columns(self, rows: Ints) -> Iterator[dict[str, Sequence[object]]]:
        """`rows` as columns, in groups."""
        item_ids = self.item_ids()
        for start in range(0, len(rows), _GROUP_ROWS):
            group = rows[start : start + _GROUP_ROWS]
            yield {
                "user_id": [f"synthetic-u{code:05d}" for code in self.users[group].tolist()],
                "item_id": [item_ids[code] for code in self.items[group].tolist()],
                "timestamp": self.timestamps[group].tolist(),
                "position": [None] * len(group),
                "label": self.labels[group].tolist(),
                "split": [PARTS[code] for code in self.parts[group].tolist()],
            }


def draw_likes(domain: str, n_pairs: int, seed: int) -> PlantedLikes:
    """At least `n_pairs >= 1` pairs of whole users, 36 each; deterministic."""
    draw = generator(seed, domain, "likes")
    n_users = math.ceil(n_pairs / (2 * KIND_PAIRS))
    n_plain = max(_MIN_PLAIN, round(n_users / _USERS_PER_PLAIN))
    plain = np.stack([draw.choice(n_plain, KIND_PAIRS, replace=False) for _ in range(n_users)])
    once = n_plain + np.arange(n_users * KIND_PAIRS).reshape(n_users, KIND_PAIRS)
    items = np.stack([plain, once], axis=2)  # [n_users, 18, 2]

    tones: Array = np.concatenate([np.zeros(n_plain, np.int64), 1 - 2 * (np.arange(n_users * KIND_PAIRS) % 2)])
    same_group = items % 2 == (np.arange(n_users) % 2)[:, None, None]
    known = tones[items] != 0
    likes = np.where(known, tones[items] > 0, same_group)
    chances = np.where(likes, 1 - NOISE, NOISE)
    labels = likes ^ (draw.random(items.shape) < NOISE)

    # Both kinds in every part; within a part, pairs in random order of time.
    parts = np.broadcast_to(np.repeat(np.arange(3), PER_PART)[None, :, None], items.shape)
    order = np.argsort((parts + draw.random(items.shape)).reshape(n_users, -1), axis=1)
    days = draw.integers(0, _MAX_START, (n_users, 1)) + np.arange(2 * KIND_PAIRS)

    def sorted_rows(values: Array) -> Array:
        return np.take_along_axis(values.reshape(n_users, -1), order, axis=1).ravel()

    return PlantedLikes(
        titles=_titles(domain, tones, draw),
        tones=tones,
        users=np.repeat(np.arange(n_users), 2 * KIND_PAIRS),
        items=sorted_rows(items),
        labels=sorted_rows(labels.astype(np.int64)),
        parts=sorted_rows(parts),
        timestamps=FIRST_SECOND + _DAY * days.ravel(),
        by_interactions=sorted_rows(np.where(known, 0.5, chances)),
        by_titles=sorted_rows(np.where(known, chances, 0.5)),
    )


def _titles(domain: str, tones: Ints, draw: np.random.Generator) -> list[str]:
    nouns = [noun for names in aspects_of(domain).values() for noun in names]
    words = draw.integers(0, [len(OPINIONS[0]), len(nouns)], (len(tones), 2)).tolist()
    plain = f"Assorted {domain.replace('_', ' ')}"
    return [
        f"{OPINIONS[-1 if tone > 0 else 0][opinion].capitalize()}: {nouns[noun]}" if tone else plain
        for tone, (opinion, noun) in zip(tones.tolist(), words, strict=True)
    ]
