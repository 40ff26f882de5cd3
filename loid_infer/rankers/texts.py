"""Ranks items by the similarity of their texts to those of the history, without training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from loid_infer.data.sequences import Histories
from loid_infer.rankers.joined import MAX_ITEMS
from loid_infer.rankers.ranking import padded, products
from loid_infer.types import Bools, Floats


class HistoryVectors(Protocol):
    """The vectors of histories that are joined to one text each."""

    def prepare(self, histories: Histories) -> None:
        """Called before the vectors of these histories are asked for in parts."""

    def __call__(self, histories: Histories) -> Floats:
        """`[n, d]`; 0 for a history without text."""


@dataclass(frozen=True, slots=True, eq=False)
class TextVectors:
    """The vectors of the texts of items and, if they are joined to one text, of histories."""

    items: Floats  # [n_items, d]
    has_text: Bools  # [n_items]
    histories: HistoryVectors | None = None


@dataclass(frozen=True, slots=True)
class TextRanker:
    """Ranks by cosine of whitened vectors (Su et al. 2021).

    A user is the mean direction of the texts of the last 10 items, or the vector of one text that joins them (LLM-Rec,
    Tang et al. 2023, section 3.2). The mean needs no further text, and ranks better where the encoder is frozen.
    """

    items: Floats  # [n_items, d], whitened, of length 1; 0 for an item without text; then `padded`
    has_text: Bools  # [n_items]
    joined: HistoryVectors | None = None
    whitening: Callable[[Floats], Floats] = lambda vectors: vectors  # of the vectors of joined histories

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", padded(self.items))

    def scores(self, histories: Histories) -> Floats:
        """See `Ranker`. Items without text are not ranked."""
        return products(self, histories)

    def queries(self, histories: Histories) -> Floats:
        """See `ProductRanker`."""
        if self.joined is None:
            return unit(self._mean(histories))
        vectors = self.joined(histories)
        return unit(np.where(vectors.any(axis=1, keepdims=True), self.whitening(vectors), np.float32(0)))

    def prepare(self, histories: Histories) -> None:
        """See `rankers.ranking.prepare`."""
        if self.joined is not None:
            self.joined.prepare(histories)

    def vectors(self) -> tuple[Floats, Bools]:
        """See `ProductRanker`."""
        return self.items, self.has_text

    def _mean(self, histories: Histories) -> Floats:
        rows, items = histories.last(MAX_ITEMS).flat()
        sums = np.zeros((histories.n, self.items.shape[1]), np.float32)
        np.add.at(sums, rows, self.items[items])
        return sums


def unit(vectors: Floats) -> Floats:
    """`vectors [n, d]` of length 1, float32; 0 stays 0."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1), np.float32)
