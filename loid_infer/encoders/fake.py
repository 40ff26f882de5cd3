"""A runtime without a model, for tests and for timing the pipeline: vectors are integer hashes of the ids.

Its spec has the precision `fake`, so its vectors never share a store with real ones.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable

import numpy as np

from loid_infer.encoders.schedule import MAX_BATCH_TOKENS
from loid_infer.types import Floats, Ints, TokenBatch

_POSITION = np.uint64(0x9E3779B97F4A7C15)
_COLUMN = np.uint64(0xD1342543DE82EF95)


class FakeRuntime:
    """Hashes ids into vectors of small integers divided by 64."""

    name = "fake"
    max_batch_tokens, pads, tile, n_tokenizers = MAX_BATCH_TOKENS, True, 1, 1
    detail = "no model: hashed ids"

    def __init__(self, dim: int) -> None:
        self._columns = (np.arange(1, dim + 1, dtype=np.uint64) * _COLUMN) | np.uint64(1)

    def run(self, batches: Iterable[TokenBatch]) -> Generator[tuple[Ints, Floats]]:
        """See `Runtime.run`."""
        for batch in batches:
            ids = (batch.input_ids + batch.attention_mask).astype(np.uint64)  # 0 for padding, at least 1 for tokens
            positions = (np.arange(1, ids.shape[1] + 1, dtype=np.uint64) * _POSITION) | np.uint64(1)
            keys = (ids * positions * ids).sum(axis=1, dtype=np.uint64)
            hashed = (keys[:, None] * self._columns) >> np.uint64(57)
            yield batch.slots, hashed.astype(np.float32) / np.float32(64) - np.float32(1)
