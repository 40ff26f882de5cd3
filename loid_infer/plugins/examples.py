"""Tokenized reviews with ratings, and shuffled batches of similar lengths with a bounded number of tokens.

Batches depend on (seed, epoch) only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from loid_infer.encoders.schedule import padded, padded_lengths
from loid_infer.types import Floats, Ints, TokenBatch


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Token ids and ratings of texts."""

    flat_ids: Ints  # [sum(lengths)], one text after another
    lengths: Ints  # [n]
    ratings: Floats  # [n]

    @property
    def n(self) -> int:
        """Number of texts."""
        return len(self.lengths)

    def take(self, rows: Ints, ratings: Floats) -> Examples:
        """The texts `rows [m]` with other ratings `[m]`."""
        starts = (np.cumsum(self.lengths) - self.lengths)[rows]
        lengths = self.lengths[rows]
        index = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))
        return Examples(self.flat_ids[index], lengths, ratings)

    def batches(self, max_batch_tokens: int, max_tokens: int, order: Ints | None = None) -> list[Ints]:
        """Rows of each batch, `[rows]`: at most `max_batch_tokens` with padding, unless one text alone is longer. Texts
        of equal length are in the given `order [n]`.
        """
        widths = np.minimum(padded_lengths(self.lengths), max_tokens)
        order = np.arange(self.n) if order is None else order
        ordered = order[np.argsort(-widths[order], kind="stable")]
        batches, start = [], 0
        while start < self.n:
            rows = max(1, max_batch_tokens // int(widths[ordered[start]]))  # the first is the widest
            batches.append(ordered[start : start + rows])
            start += rows
        return batches

    def epoch(self, max_batch_tokens: int, max_tokens: int, seed: int, epoch: int) -> list[Ints]:
        """The batches of one epoch in random order; texts of equal length are shuffled."""
        rng = np.random.Generator(np.random.Philox([seed, epoch]))
        batches = self.batches(max_batch_tokens, max_tokens, rng.permutation(self.n))
        return [batches[i] for i in rng.permutation(len(batches))]

    def padded(self, batches: list[Ints], max_tokens: int) -> Iterator[TokenBatch]:
        """The token ids of each batch, padded to one of a few widths, so that few kernels are compiled."""
        starts = np.cumsum(self.lengths) - self.lengths
        for rows in batches:
            lengths = self.lengths[rows]
            width = min(int(padded_lengths(lengths).max()), max_tokens)
            yield padded(rows, self.flat_ids, starts[rows], lengths, width)
