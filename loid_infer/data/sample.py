"""Generates synthetic reviews with a known structure (docs/sample.md), so that the best possible error is known."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from loid_infer.data.vocabulary import FILLERS, N_LEVELS, OVERALL, SHORT, aspects_of, sentences
from loid_infer.types import Array, Floats, Ints

RATING_MEAN = 4.0
USER_STD, ITEM_STD, ASPECT_STD, NOISE_STD = 0.3, 0.5, 0.9, 0.6
TASTE = 0.5  # Dirichlet concentration; gives two or three important aspects per user
OPINION_NOISE_STD = 0.4
OPINION_CUTS = (-1.2, -0.4, 0.4, 1.2)
REVIEWS_PER_USER, REVIEWS_PER_ITEM = 7, 11
MAX_MENTIONS = 4
LONG_SHARE, SHORT_SHARE, EMPTY_SHARE, OVERALL_SHARE = 0.03, 0.02, 0.002, 0.35
FIRST_SECOND, _DAYS = 1_546_300_800, 1_800  # from the first of January 2019
_CHUNK_ROWS = 16_384


@dataclass(frozen=True, slots=True, eq=False)
class SampleWorld:
    """The random variables of a synthetic domain, except its texts."""

    domain: str
    seed: int
    aspects: Sequence[str]  # [k]
    users: Ints  # [n], codes; (user, item) is unique
    items: Ints  # [n], codes
    ratings: Ints  # [n], 1..5
    timestamps: Ints  # [n], seconds since 1970
    levels: Floats  # [n], mean of the rating before noise, rounding and clipping
    tastes: Floats  # [n_users, k], each row sums to 1
    qualities: Floats  # [n_items, k]

    @property
    def n(self) -> int:
        """Number of reviews."""
        return len(self.users)

    def ids(self, rows: slice) -> tuple[list[str], list[str]]:
        """User and item ids of `rows`."""
        users = [f"synthetic-u{code:05d}" for code in self.users[rows].tolist()]
        return users, [f"synthetic-i{code:05d}" for code in self.items[rows].tolist()]

    def expected(self) -> Floats:
        """`E[r | u, i]`, `[n]`: the best prediction without the review itself."""
        return rating_moments(self.levels)[0]

    def attainable_mse(self) -> float:
        """Mean variance of the rating given user and item: the lowest possible MSE without the review itself."""
        first, second = rating_moments(self.levels)
        return float((second - first**2).mean())

    def texts(self) -> Iterator[tuple[slice, list[str]]]:
        """The texts in order, in batches (rows, texts); deterministic."""
        phrases = [[sentences(nouns, level) for level in range(N_LEVELS)] for nouns in aspects_of(self.domain).values()]
        for rows, contents in _contents(self):
            yield rows, _texts(contents, (self.ratings[rows] - 1).tolist(), phrases)

    def opinions(self) -> tuple[Ints, Ints]:
        """Aspects mentioned in each text (-1: none), and opinions on them, 0 (worst) to 4; both `[n, MAX_MENTIONS]`."""
        contents = [part for _, part in _contents(self)]
        return np.concatenate([part.aspects for part in contents]), np.concatenate([part.degrees for part in contents])


def rating_moments(levels: Floats) -> tuple[Floats, Floats]:
    """`E r` and `E r^2`, `[n]` each, of ratings whose mean before noise, rounding and clipping is `levels [n]`."""
    # r = 1 + sum over c of [latent > c + 1/2], c = 1..4, so both are sums of normal tail probabilities.
    first, second = np.ones(len(levels)), np.ones(len(levels))
    for cut in range(1, N_LEVELS):
        z = (levels - cut - 0.5) / (NOISE_STD * math.sqrt(2))
        tail = np.fromiter((0.5 * (1 + math.erf(value)) for value in z.tolist()), np.float64, len(z))
        first += tail
        second += (2 * cut + 1) * tail
    return first, second


def draw_world(domain: str, n_reviews: int, seed: int) -> SampleWorld:
    """Users, items and ratings of a synthetic domain; deterministic.

    `r = clip(round(4 + b_u + sum_k t_uk q_ik + noise), 1, 5)`: user bias b, tastes t (Dirichlet), item qualities q
    (one level per item plus one per aspect), normal noise. `n_reviews >= 1`, `seed >= 0`.
    """
    draw = generator(seed, domain, "world")
    aspects = tuple(aspects_of(domain))
    n_users, n_items = math.ceil(n_reviews / REVIEWS_PER_USER) + 4, math.ceil(n_reviews / REVIEWS_PER_ITEM) + 4
    users, items = _pairs(n_reviews, _popularity(n_users, draw), _popularity(n_items, draw), draw)
    tastes = draw.dirichlet(np.full(len(aspects), TASTE), n_users)
    biases = draw.normal(0, USER_STD, n_users)
    qualities = draw.normal(0, ITEM_STD, (n_items, 1)) + draw.normal(0, ASPECT_STD, (n_items, len(aspects)))
    levels = RATING_MEAN + biases[users] + (tastes[users] * qualities[items]).sum(axis=1)
    latent = levels + draw.normal(0, NOISE_STD, n_reviews)
    ratings = np.clip(np.floor(latent + 0.5), 1, N_LEVELS).astype(np.int64)
    times = FIRST_SECOND + 86_400 * draw.integers(0, _DAYS, n_reviews)
    return SampleWorld(domain, seed, aspects, users, items, ratings, times, levels, tastes, qualities)


def generator(seed: int, domain: str, purpose: str) -> np.random.Generator:
    """Random numbers of one purpose in a synthetic domain, independent of those of others."""
    name = hashlib.sha256(f"{domain}/{purpose}".encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(name[:16], "little")])


def _popularity(n: int, draw: np.random.Generator) -> Floats:
    # Log-normal, like activity in review data; the constant keeps every probability positive.
    weights = 0.3 + draw.lognormal(0, 1, n)
    return np.asarray(weights / weights.sum())


def _pairs(n: int, user_weights: Floats, item_weights: Floats, draw: np.random.Generator) -> tuple[Ints, Ints]:
    """`n` distinct (user, item) pairs, both sides drawn by weight."""
    n_items = len(item_weights)
    pairs: Array = np.zeros(0, np.int64)
    while len(pairs) < n:
        users = draw.choice(len(user_weights), n, p=user_weights)
        items = draw.choice(n_items, n, p=item_weights)
        pairs = np.concatenate([pairs, users * n_items + items])
        pairs = pairs[np.sort(np.unique(pairs, return_index=True)[1])]
    return pairs[:n] // n_items, pairs[:n] % n_items


@dataclass(frozen=True, slots=True, eq=False)
class _Contents:
    aspects: Ints  # [n, MAX_MENTIONS], -1: no more
    degrees: Ints  # [n, MAX_MENTIONS]
    variants: Ints  # [n, MAX_MENTIONS]
    fillers: list[list[int]]
    ends: Ints  # [n]
    kinds: Floats  # [n, 2]: for the kind of text, and of ending


def _contents(world: SampleWorld) -> Iterator[tuple[slice, _Contents]]:
    """The random variables of all texts in order, in batches."""
    k, n_variants = len(world.aspects), len(sentences(aspects_of(world.domain)[world.aspects[0]], 0))
    for start in range(0, world.n, _CHUNK_ROWS):
        rows = slice(start, min(start + _CHUNK_ROWS, world.n))
        n, draw = rows.stop - start, generator(world.seed, world.domain, f"texts {start}")
        # Aspects sampled without replacement by taste (Gumbel trick): important ones come first.
        tastes = np.log(world.tastes[world.users[rows]] + 1e-12) + draw.gumbel(size=(n, k))
        order = np.argsort(-tastes, axis=1)[:, :MAX_MENTIONS]
        opinions = world.qualities[world.items[rows]] + draw.normal(0, OPINION_NOISE_STD, (n, k))
        degrees = np.take_along_axis(np.digitize(opinions, OPINION_CUTS), order, axis=1)
        n_mentions = draw.integers(1, MAX_MENTIONS + 1, n)
        variants = draw.integers(0, n_variants, (n, MAX_MENTIONS))
        n_fillers = np.where(draw.random(n) < LONG_SHARE, draw.integers(15, 60, n), draw.geometric(0.45, n) - 1)
        numbers = iter(draw.integers(0, len(FILLERS), int(n_fillers.sum())).tolist())
        fillers = [list(islice(numbers, m)) for m in n_fillers.tolist()]
        ends, kinds = draw.integers(0, 12, n), draw.random((n, 2))
        n_mentions[kinds[:, 0] < EMPTY_SHARE + SHORT_SHARE] = 0
        aspects = np.where(np.arange(MAX_MENTIONS) < n_mentions[:, None], order, -1)
        yield rows, _Contents(aspects, degrees, variants, fillers, ends, kinds)


def _texts(contents: _Contents, ratings: list[int], phrases: list[list[list[str]]]) -> list[str]:
    """The texts of reviews with `ratings` (0 to 4)."""
    texts = []
    kinds, ends = contents.kinds.tolist(), contents.ends.tolist()
    named = zip(contents.aspects.tolist(), contents.degrees.tolist(), contents.variants.tolist(), strict=True)
    for row, ((aspects, degrees, variants), rating) in enumerate(zip(named, ratings, strict=True)):
        kind, ending = kinds[row]
        if kind < EMPTY_SHARE:
            texts.append("")
        elif kind < EMPTY_SHARE + SHORT_SHARE:
            texts.append(SHORT[rating][ends[row] % 3])
        else:
            parts = [FILLERS[filler] for filler in contents.fillers[row]]
            picks = zip(aspects, degrees, variants, strict=True)
            parts[1:1] = [phrases[aspect][degree][variant] for aspect, degree, variant in picks if aspect >= 0]
            if ending < OVERALL_SHARE:
                parts.append(OVERALL[rating][ends[row] % 4])
            texts.append(" ".join(parts))
    return texts
