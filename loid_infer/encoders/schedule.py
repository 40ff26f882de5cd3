"""From token ids to batches: texts of one width together, longest first, bounded by tokens. Knows no tokenizer and no
runtime."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from loid_infer.types import Ints, TokenBatch

MAX_BATCH_TOKENS = 2048  # of a batch, unless asked otherwise: larger ones are no faster and need more memory


class Schedule:
    """Batches of texts that are padded to the same width, which a text's own length decides.

    So a vector cannot depend on what else is encoded, not even through the order in which attention sums over padding.
    Widths are few, since a runtime compiles something for every shape it meets (12 ms of a processor and some
    megabytes), and near enough for less than 3 % of padding on reviews. A batch is given out when it is full; the rest
    waits for more of its width.
    """

    def __init__(self, max_batch_tokens: int, max_tokens: int) -> None:
        """Bound batches by rows x width, padding included (a single text may exceed it), and widths by `max_tokens`."""
        self._max_batch_tokens, self._max_tokens = max_batch_tokens, max_tokens
        nothing = np.zeros(0, np.int64)
        self._waiting = nothing, nothing, nothing

    def add(self, slots: Ints, flat_ids: Ints, lengths: Ints) -> Iterator[TokenBatch]:
        """The batches that these texts fill, with those that wait, longest first: running out of memory shows early.

        Args:
            slots: `[n]`, the caller's numbers of the texts.
            flat_ids: all ids one text after another, `[sum(lengths)]`.
            lengths: `[n]`, tokens of each text, at least 1.
        """
        return self._batches(slots, flat_ids, lengths, last=False)

    def rest(self) -> Iterator[TokenBatch]:
        """Whatever waits, in batches that are not full."""
        nothing = np.zeros(0, np.int64)
        return self._batches(nothing, nothing, nothing, last=True)

    def _batches(self, slots: Ints, flat_ids: Ints, lengths: Ints, *, last: bool) -> Iterator[TokenBatch]:
        slots, flat_ids, lengths = map(np.concatenate, zip(self._waiting, (slots, flat_ids, lengths), strict=True))
        starts = np.cumsum(lengths) - lengths
        widths = np.minimum(padded_lengths(lengths), self._max_tokens)
        order = np.argsort(-widths, kind="stable")
        bounds = np.flatnonzero(np.diff(widths[order], prepend=-1, append=-1))
        waiting: list[Ints] = [np.zeros(0, np.int64)]
        for first, end in pairwise(bounds.tolist()):
            width = int(widths[order[first]])
            rows = max(1, self._max_batch_tokens // width)
            full = end if last else first + (end - first) // rows * rows
            waiting.append(order[full:end])
            for at in range(first, full, rows):
                picked = order[at : min(at + rows, full)]
                yield padded(slots[picked], flat_ids, starts[picked], lengths[picked], width)
        held = np.concatenate(waiting)
        ids = [flat_ids[starts[i] : starts[i] + lengths[i]] for i in held]
        self._waiting = slots[held], np.concatenate([np.zeros(0, np.int64), *ids]), lengths[held]


def padded_lengths(lengths: Ints) -> Ints:
    """`lengths` rounded up to a multiple of 2, from 16 tokens of 4, from 128 of 8, and so on by octaves."""
    steps = np.maximum(1 << np.maximum(np.frexp(lengths)[1] - 5, 0), np.where(lengths < 16, 2, 4))
    rounded: Ints = -(-lengths // steps) * steps
    return rounded


def padded(slots: Ints, flat_ids: Ints, starts: Ints, lengths: Ints, width: int) -> TokenBatch:
    """One batch of the texts at `starts [n]` of `flat_ids`, padded on the right to `width`."""
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
