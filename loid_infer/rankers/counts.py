"""Rankers that only count: popularity and co-occurrence. They are the least that a trained one has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loid_infer.data.sequences import Histories, Sequences, SequenceSplit
from loid_infer.types import Array, Bools, Floats, Ints

WINDOW = 10  # interactions of one user within this distance count as occurring together


@dataclass(frozen=True, slots=True)
class Popularity:
    """Ranks items by how often they were in the training part, the same for all users."""

    weights: Floats  # [n_items], -inf for items without training interactions

    def scores(self, histories: Histories) -> Floats:
        """See `Ranker`."""
        return np.repeat(self.weights[None].astype(np.float32), histories.n, axis=0)

    def tensors(self) -> dict[str, Array]:
        """What `Popularity(**tensors)` restores."""
        return {"weights": self.weights}


@dataclass(frozen=True, slots=True)
class CoOccurrence:
    """Ranks items by how often users had them near the items of the history (item-item neighborhoods).

    The score is the sum over the history of `decay^age * c[i, j] / n[i]^a / n[j]^a`, with age 0 for the last item and
    `c` how often `i` was before `j` or after it in a sequence, at most `WINDOW` interactions apart (Linden et al. 2003,
    with the normalization of Deshpande & Karypis 2004, eq. 3 and section 4.1.2).
    """

    starts: Ints  # [n_items + 1], the neighbors of item i are starts[i] .. starts[i + 1]
    neighbors: Ints  # [m], codes
    counts: Floats  # [m], normalized
    known: Bools  # [n_items], items with training interactions
    decay: Floats  # []

    def scores(self, histories: Histories) -> Floats:
        """See `Ranker`."""
        n_items = len(self.known)
        recent = histories.last(WINDOW)
        rows, items = recent.flat()
        age = np.repeat(recent.ends, recent.lengths) - 1 - _flat_positions(recent)
        weights = self.decay.astype(np.float64) ** age
        sizes = self.starts[items + 1] - self.starts[items]
        at = np.repeat(self.starts[items] - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
        cells = np.repeat(rows, sizes) * n_items + self.neighbors[at]
        values = np.repeat(weights, sizes) * self.counts[at]
        scores = np.bincount(cells, values, minlength=histories.n * n_items).reshape(histories.n, n_items)
        return np.where(self.known, scores, -np.inf).astype(np.float32)

    def tensors(self) -> dict[str, Array]:
        """What `CoOccurrence(**tensors)` restores."""
        return {name: np.asarray(getattr(self, name)) for name in self.__slots__}


def _flat_positions(histories: Histories) -> Ints:
    lengths = histories.lengths
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    positions: Ints = np.repeat(histories.starts, lengths) + within
    return positions


def popularity(sequences: Sequences, split: SequenceSplit, half_life: float | None = None) -> Popularity:
    """Count the training interactions of each item.

    Args:
        half_life: an interaction counts half as much when it is older by this share of the training period, or, of
            interactions without times, by this share of its user's sequence; None: all count the same.
    """
    train = split.train(sequences)
    items = sequences.items[train]
    weights: Floats = np.ones(len(items))
    if half_life is not None:
        weights = np.exp2(-_ages(sequences, split)[train] / half_life)
    counts = np.bincount(items, weights, minlength=sequences.n_items)
    return Popularity(np.where(split.counts(sequences) > 0, counts, -np.inf))


def _ages(sequences: Sequences, split: SequenceSplit) -> Floats:
    """How old each interaction `[n]` is, from 0 for the newest to 1 for the oldest of the training part."""
    train = split.train(sequences)
    if sequences.is_timed:
        times = sequences.times[train]
        return np.asarray((times.max() - sequences.times) / max(int(times.max() - times.min()), 1))
    ends = split.train_ends[sequences.users]
    lengths = np.maximum(ends - sequences.starts[sequences.users], 1)
    return np.asarray((ends - 1 - np.arange(sequences.n)) / lengths)


def co_occurrence(sequences: Sequences, split: SequenceSplit, damping: float, decay: float) -> CoOccurrence:
    """Count pairs of items in the training part; `damping` is the exponent `a` of the normalization."""
    n_items, train = sequences.n_items, split.train(sequences)
    items, users = sequences.items[train], sequences.users[train]
    cells, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for distance in range(1, WINDOW + 1):
        same = users[distance:] == users[:-distance]
        first, second = items[:-distance][same], items[distance:][same]
        pairs = np.concatenate([first * n_items + second, second * n_items + first])
        new, n = np.unique(pairs, return_counts=True)
        cells, inverse = np.unique(np.concatenate([cells, new]), return_inverse=True)
        counts = np.bincount(inverse, np.concatenate([counts, n]), minlength=len(cells)).astype(np.int64)
    rows, neighbors = np.divmod(cells, n_items)
    frequency = split.counts(sequences)
    scale = np.maximum(frequency, 1.0) ** -damping
    starts = np.searchsorted(rows, np.arange(n_items + 1))
    return CoOccurrence(starts, neighbors, counts * scale[rows] * scale[neighbors], frequency > 0, np.asarray(decay))
