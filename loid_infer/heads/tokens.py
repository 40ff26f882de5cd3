"""The features of a history review: its standardized vector and, depending on the settings, its rating."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loid_infer.heads.presets import HeadSettings
from loid_infer.heads.units import Unit
from loid_infer.types import Bools, Floats, Interactions, Ints, Vectors

N_LEVELS = 5
_MAX_SAMPLE = 100_000  # training texts for mean and scale
_STEP = 8_192


@dataclass(frozen=True, slots=True)
class TokenScale:
    """The transformation of vectors and ratings to tokens, fitted on the training part and saved in the head."""

    center: Tensor  # [d]
    scale: Tensor  # [d], factor of the centered vector
    levels: Tensor  # [N_LEVELS, 5 or 0], rating features by level

    @property
    def token_dim(self) -> int:
        """Width of a token."""
        return len(self.center) + self.levels.shape[1]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The reviews of one table as tokens, computed on access; vectors keep their stored dtype until then."""

    vectors: Vectors  # [n_texts, d]
    texts: Ints  # [n], code of each review's text
    levels: Tensor  # [n], rating level of each review, 0..N_LEVELS-1
    scale: TokenScale

    def take(self, reviews: Ints) -> Tensor:
        """Tokens `[.., token_dim]` float32 of review numbers `[..]`."""
        flat = np.ascontiguousarray(reviews).reshape(-1)
        tokens = torch.empty((len(flat), self.scale.token_dim))
        text = tokens[:, : self.vectors.shape[1]]
        text.copy_(torch.from_numpy(self.vectors[self.texts[flat]]))
        text.sub_(self.scale.center).mul_(self.scale.scale)
        if self.scale.levels.shape[1]:
            tokens[:, self.vectors.shape[1] :] = self.scale.levels.index_select(0, self.levels[torch.from_numpy(flat)])
        return tokens.view(*reviews.shape, self.scale.token_dim)


def tokens_of(interactions: Interactions, vectors: Vectors, scale: TokenScale) -> Tokens:
    """The tokens of `interactions` from the vectors `[n_texts, d]` of its texts."""
    return Tokens(vectors, interactions.texts, torch.from_numpy(_levels(interactions)), scale)


def token_scale(
    interactions: Interactions, train: Bools, vectors: Vectors, settings: HeadSettings, seed: int
) -> TokenScale:
    """Fit the transformation on the training texts; the preset `paper` does not standardize.

    The rating features together have as much variance as the text features.
    """
    d = vectors.shape[1]
    if not settings.with_biases:
        return TokenScale(torch.zeros(d), torch.ones(d), torch.zeros(N_LEVELS, 0))
    texts = np.unique(interactions.texts[train])
    if len(texts) > _MAX_SAMPLE:
        texts = np.sort(np.random.default_rng(seed).choice(texts, _MAX_SAMPLE, replace=False))
    center, spread = moments(vectors, texts)
    # Nearly constant dimensions are not scaled up to unit variance: they would be noise.
    spread = np.maximum(spread, 0.05 * np.sqrt(np.mean(spread**2)) + 1e-6)
    levels = np.zeros((N_LEVELS, 0))
    if settings.history_ratings:
        share = np.bincount(_levels(interactions)[train], minlength=N_LEVELS) / max(int(train.sum()), 1)
        levels = (np.eye(N_LEVELS) - share) * np.sqrt(d)
    return TokenScale(*(torch.from_numpy(part.astype(np.float32)) for part in (center, 1 / spread, levels)))


def moments(vectors: Vectors, texts: Ints) -> tuple[Floats, Floats]:
    """Mean and standard deviation `[d]` float64 of the rows `texts [m]` of `vectors [n_texts, d]`."""
    total, squares = np.zeros((2, vectors.shape[1]))
    for start in range(0, len(texts), _STEP):
        part = vectors[texts[start : start + _STEP]].astype(np.float64)
        total, squares = total + part.sum(0), squares + np.square(part).sum(0)
    mean = total / len(texts)
    return mean, np.sqrt(np.maximum(squares / len(texts) - mean**2, 0))


def _levels(interactions: Interactions) -> Ints:
    standard = np.nan_to_num(Unit.of(interactions.rating_range).standard(interactions.ratings))
    levels: Ints = np.clip(np.rint(standard - 1), 0, N_LEVELS - 1).astype(np.int64)
    return levels
