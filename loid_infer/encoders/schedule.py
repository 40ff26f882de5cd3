"""From token ids to batches: sorted by length, longest first, bounded by tokens. Knows no tokenizer and no runtime."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from loid_infer.types import Ints, TokenBatch


def token_batches(slots: Ints, flat_ids: Ints, lengths: Ints, max_batch_tokens: int) -> Iterator[TokenBatch]:
    """Right-padded batches of a window of texts, longest first, so that running out of memory shows at once.

    Args:
        slots: `[n]`, the caller's numbers of the texts.
        flat_ids: all ids one text after another, `[sum(lengths)]`.
        lengths: `[n]`, tokens of each text, at least 1.
        max_batch_tokens: bound on rows x longest row of a batch, padding included; a single text may exceed it.
    """
    ends = np.cumsum(lengths)
    order = np.argsort(-lengths, kind="stable")
    at = 0
    while at < len(order):
        width = int(lengths[order[at]])
        picked = order[at : at + max(1, max_batch_tokens // width)]
        at += len(picked)
        columns = np.arange(width)
        mask = columns < lengths[picked, None]
        places = np.where(mask, (ends - lengths)[picked, None] + columns, 0)
        ids = np.where(mask, flat_ids[places], 0)
        yield TokenBatch(slots[picked], ids.astype(np.int64), mask.astype(np.int64), int(lengths[picked].sum()))
