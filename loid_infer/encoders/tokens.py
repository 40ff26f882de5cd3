"""Texts to token ids, truncated on the right and never padded: the Rust tokenizer's ids, most of them looked up.

The file that is read may carry its own truncation and padding; both are set here, so it never matters. This file knows
no model and no batch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

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

        self.max_tokens = max_tokens
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise BadArtifact(
                f"the tokenizer cannot be read: {error}", where=str(path), mend="Export the encoder again."
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens, strategy="longest_first", direction="right")
        self._words = _words_of(self._tokenizer, max_tokens)

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Ids of `texts`, equal to the Rust tokenizer's."""
        words = self._words
        plain = [words is not None and words.cover(text) for text in texts]
        others = [text for text, known in zip(texts, plain, strict=True) if not known]
        encodings = iter(self._tokenizer.encode_batch_fast(others))
        ids: list[list[int]] = []
        n_truncated = 0
        for text, known in zip(texts, plain, strict=True):
            if words is not None and known:
                found, cut = words.ids(text)
            else:
                encoding = next(encodings)
                found, cut = encoding.ids, bool(encoding.overflowing)
            ids.append(found)
            n_truncated += cut
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum()))
        return Tokens(flat, lengths, n_truncated)


_PLAIN = re.compile(r"[\t\n\r -~]*")
_WORD = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9\s]")
_MAX_WORDS = 250_000  # remembered at once, about 50 MB


class _Words(dict[str, tuple[int, ...]]):
    """The ids of every word met so far: a text is one regular expression and a lookup a word, at a fifth of the cost.

    For printable ASCII BERT's rules come to this: lower the case, take each run of letters and digits and each
    punctuation mark alone; a word's ids do not depend on its neighbors. Whatever else is written goes to the Rust
    tokenizer, and so does every word when it is first met.
    """

    def __init__(self, tokenizer: Any, frame: tuple[int, int], max_tokens: int, *, lower: bool) -> None:
        self._tokenizer, self._max_tokens, self._lower = tokenizer, max_tokens, lower
        self._first, self._last = frame
        self._added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]

    def cover(self, text: str) -> bool:
        """Whether these rules are all there is to `text`: no other script, no control mark, no [MASK] and the like."""
        return _PLAIN.fullmatch(text) is not None and not any(token in text for token in self._added)

    def ids(self, text: str) -> tuple[list[int], bool]:
        """The ids of a covered text, and whether it was cut."""
        words = _WORD.findall(text.lower() if self._lower else text)
        ids = [self._first, *chain.from_iterable(map(self.__getitem__, words))]
        cut = len(ids) >= self._max_tokens
        del ids[self._max_tokens - 1 :]
        ids.append(self._last)
        return ids, cut

    def __missing__(self, word: str) -> tuple[int, ...]:
        if len(self) >= _MAX_WORDS:
            self.clear()
        found = self[word] = tuple(self._tokenizer.encode(word, add_special_tokens=False).ids)
        return found


def _words_of(tokenizer: Any, max_tokens: int) -> _Words | None:
    """The words of a tokenizer that splits texts by BERT's rules; None for any other."""
    parts = json.loads(tokenizer.to_str())
    kinds = [(parts[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
    if kinds != ["BertNormalizer", "BertPreTokenizer", "WordPiece"] or not parts["normalizer"]["clean_text"]:
        return None
    frame, framed = tokenizer.encode("").ids, tokenizer.encode("a").ids
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    if len(frame) != 2 or framed != [frame[0], *bare, frame[1]]:
        return None
    if any(token.normalized for token in tokenizer.get_added_tokens_decoder().values()):
        return None  # they would be looked for in lowered text
    return _Words(tokenizer, (frame[0], frame[1]), max_tokens, lower=parts["normalizer"]["lowercase"])
