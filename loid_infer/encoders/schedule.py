"""Batches of texts of one padded width, longest first, bounded by tokens."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from loid_infer.types import Ints, TokenBatch

MAX_BATCH_TOKENS = 2048  # per batch on a CPU: larger batches are not faster and need more memory


class Schedule:
    """Batches of texts that are padded to the same width, which depends on a text's own length only.

    So a vector does not depend on the other texts, not even through the order in which attention sums over padding.
    There are few widths, since runtimes compile every shape (12 ms and some megabytes each); padding is below 3 % on
    reviews, or 6 % with tiles of 16. A batch is returned when it is full; other texts wait for more of their width.
    """

    def __init__(self, max_batch_tokens: int, max_tokens: int, tile: int = 1) -> None:
        """Limit batches to rows x width, padding included (a single text may exceed it), and widths to `max_tokens`.

        `tile`: see `padded_lengths`.
        """
        self._max_batch_tokens, self._max_tokens, self._tile = max_batch_tokens, max_tokens, tile
        self._waiting = _no_texts()

    def add(self, slots: Ints, flat_ids: Ints, lengths: Ints) -> Iterator[TokenBatch]:
        """The full batches of these and the waiting texts, longest first, so that lack of memory shows early.

        Args:
            slots: `[n]`, the caller's numbers of the texts.
            flat_ids: the concatenated ids, `[sum(lengths)]`.
            lengths: `[n]`, tokens of each text, at least 1.
        """
        return self._batches(slots, flat_ids, lengths, last=False)

    def rest(self) -> Iterator[TokenBatch]:
        """The waiting texts, in batches that are not full."""
        return self._batches(*_no_texts(), last=True)

    def _batches(self, slots: Ints, flat_ids: Ints, lengths: Ints, *, last: bool) -> Iterator[TokenBatch]:
        slots, flat_ids, lengths = map(np.concatenate, zip(self._waiting, (slots, flat_ids, lengths), strict=True))
        starts = np.cumsum(lengths) - lengths
        widths = np.minimum(padded_lengths(lengths, self._tile), self._max_tokens)
        order = np.argsort(-widths, kind="stable")
        bounds = np.flatnonzero(np.diff(widths[order], prepend=-1, append=-1))
        waiting: list[Ints] = [np.zeros(0, np.int64)]
        for first, end in pairwise(bounds.tolist()):
            width = int(widths[order[first]])
            rows = max(1, self._max_batch_tokens // width)
            full = end if last else first + (end - first) // rows * rows
            waiting.append(order[full:end])
            for start in range(first, full, rows):
                batch = order[start : min(start + rows, full)]
                yield padded(slots[batch], flat_ids, starts[batch], lengths[batch], width)
        rest = np.concatenate(waiting)
        ids = [flat_ids[starts[i] : starts[i] + lengths[i]] for i in rest]
        self._waiting = slots[rest], np.concatenate([np.zeros(0, np.int64), *ids]), lengths[rest]


def _no_texts() -> tuple[Ints, Ints, Ints]:
    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)


def widths(max_tokens: int, tile: int = 1) -> Ints:
    """All padded widths of texts of up to `max_tokens` tokens, ascending, `[n]`."""
    found: Ints = np.unique(np.minimum(padded_lengths(np.arange(1, max_tokens + 1), tile), max_tokens))
    return found


def padded_lengths(lengths: Ints, tile: int = 1) -> Ints:
    """`lengths` rounded up to a multiple of 2, from 16 tokens of 4, from 128 of 8, and so on per octave; that then to a
    multiple of `tile` where it adds at most a fifth."""
    steps = np.maximum(1 << np.maximum(np.frexp(lengths)[1] - 5, 0), np.where(lengths < 16, 2, 4))
    rounded: Ints = -(-lengths // steps) * steps
    tiled: Ints = -(-rounded // tile) * tile
    chosen: Ints = np.where(5 * tiled <= 6 * rounded, tiled, rounded)
    return chosen


def padded(slots: Ints, flat_ids: Ints, starts: Ints, lengths: Ints, width: int) -> TokenBatch:
    """One batch of the texts that start at `starts [n]` in `flat_ids`, padded on the right to `width`."""
    columns = np.arange(width)
    mask = columns < lengths[:, None]
    ids = np.where(mask, flat_ids[np.where(mask, starts[:, None] + columns, 0)], 0)
    return TokenBatch(slots, ids.astype(np.int64), mask.astype(np.int64), int(lengths.sum()))


def token_batches(
    slots: Ints, flat_ids: Ints, lengths: Ints, max_batch_tokens: int, max_tokens: int
) -> Iterator[TokenBatch]:
    """All batches of these texts; see `Schedule`."""
    schedule = Schedule(max_batch_tokens, max_tokens)
    yield from schedule.add(slots, flat_ids, lengths)
    yield from schedule.rest()
