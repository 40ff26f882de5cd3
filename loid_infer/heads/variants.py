"""Ablations of the head, and a ridge regression on the text of the target review as an upper bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import structs

from loid_infer.evaluation import metrics
from loid_infer.heads.presets import HeadSettings
from loid_infer.heads.tokens import moments
from loid_infer.heads.units import STANDARD_RANGE, Unit
from loid_infer.types import Floats, Interactions, Ints, Split, Vectors

KS = (1, 3, 5, 10)
LAMS = (0.0, 0.2, 0.3, 0.5)
_PENALTIES = (0.1, 1.0, 10.0, 100.0)  # times the number of dimensions, for standardized vectors
_STEP = 1 << 14


@dataclass(frozen=True, slots=True)
class Variant:
    """A head with one setting changed."""

    name: str
    settings: HeadSettings
    vectors: str = "stored"  # stored | zeroed | shuffled between texts


def variants(settings: HeadSettings) -> list[Variant]:
    """All ablations of `settings`; those equal to `settings` are left out."""
    changed = [
        Variant("vectors zeroed", settings, "zeroed"),
        Variant("vectors shuffled", settings, "shuffled"),
        Variant("no IDs", structs.replace(settings, ids=False, lam=0.0)),
        Variant("mean of vectors for attention", structs.replace(settings, attention=False)),
        Variant("no residual", structs.replace(settings, residual=False)),
        Variant("no product", structs.replace(settings, product=False)),
        Variant("no ratings in histories", structs.replace(settings, history_ratings=False)),
    ]
    changed += [Variant(f"lam = {lam:g}" if lam else "no triplet", structs.replace(settings, lam=lam)) for lam in LAMS]
    for k in KS:  # prediction uses k reviews too, if it does in `settings`
        max_history = k if settings.max_history == settings.k else max(k, settings.max_history)
        changed.append(Variant(f"k = {k}", structs.replace(settings, k=k, max_history=max_history)))
    return [variant for variant in changed if variant.settings != settings or variant.vectors != "stored"]


class _Shuffled:
    """A permutation of vectors, without a copy."""

    def __init__(self, vectors: Vectors, permutation: Ints) -> None:
        self._vectors, self._permutation = vectors, permutation
        self.shape, self.dtype = vectors.shape, vectors.dtype

    def __getitem__(self, which: Any) -> Floats:
        return self._vectors[self._permutation[which]]


def vectors_of(variant: Variant, vectors: Vectors, seed: int) -> Vectors:
    """The input vectors of `variant`, from the `vectors [n_texts, d]` of a domain."""
    if variant.vectors == "zeroed":
        return np.zeros(vectors.shape, vectors.dtype)
    if variant.vectors == "shuffled":
        return _Shuffled(vectors, np.random.default_rng(seed).permutation(vectors.shape[0]))
    return vectors


def own_text(interactions: Interactions, split: Split, vectors: Vectors) -> Floats:
    """Ratings `[n_test]` of a ridge regression on the vector of the target review itself.

    No recommender can do this, because the review is not written yet: it is an upper bound of the information in the
    vectors. The penalty is the one with the lowest validation MSE.
    """
    d = vectors.shape[1]
    unit, texts = Unit.of(interactions.rating_range), interactions.texts
    ratings = unit.standard(interactions.ratings)
    train = np.flatnonzero(split.train)
    mean, spread = moments(vectors, texts[train])
    spread = np.maximum(spread, 1e-6)

    def features(rows: Ints) -> Floats:
        return np.hstack([(vectors[texts[rows]].astype(np.float64) - mean) / spread, np.ones((len(rows), 1))])

    left, right = np.zeros((d + 1, d + 1)), np.zeros(d + 1)
    for start in range(0, len(train), _STEP):
        part = features(train[start : start + _STEP])
        left += part.T @ part
        right += part.T @ ratings[train[start : start + _STEP]]
    penalty = np.append(np.full(d, float(d)), 1e-6)
    solutions = np.stack([np.linalg.solve(left + np.diag(factor * penalty), right) for factor in _PENALTIES], 1)
    valid = np.flatnonzero(split.valid)
    predicted = features(valid) @ solutions
    errors = [metrics.mse(metrics.clipped(column, STANDARD_RANGE), ratings[valid]) for column in predicted.T]
    return unit.ratings(features(np.flatnonzero(split.test)) @ solutions[:, int(np.argmin(errors))])
