"""Texts to token ids with the Rust tokenizer, truncated on the right and never padded.

The file that is read may carry its own truncation and padding; both are set here, so it never matters. This file knows
no model and no batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from loid_infer.errors import BadArtifact
from loid_infer.types import Ints


@dataclass(frozen=True, slots=True)
class Tokens:
    """Ids of some texts, one text after another."""

    flat_ids: Ints  # [sum(lengths)], int32
    lengths: Ints  # [n], int64, with [CLS] and [SEP]
    n_truncated: int


class Tokenizer:
    """The tokenizer of an encoder, at its own number of tokens."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        """Read a tokenizer.json.

        Raises:
            BadArtifact: the file is not one.
        """
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise BadArtifact(
                f"the tokenizer cannot be read: {error}", where=str(path), mend="Export the encoder again."
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens, strategy="longest_first", direction="right")

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Ids of `texts`, tokenized in parallel; the interpreter is free meanwhile."""
        encodings = self._tokenizer.encode_batch_fast(texts)
        ids = [encoding.ids for encoding in encodings]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum()))
        return Tokens(flat, lengths, sum(1 for encoding in encodings if encoding.overflowing))
