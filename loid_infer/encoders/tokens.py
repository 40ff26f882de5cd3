"""Texts to token ids, truncated on the right and not padded: looked up by word where possible, else from tokenizers.

Truncation and padding that the tokenizer.json itself contains are ignored.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from loid_infer.encoders.words import Words
from loid_infer.errors import BadArtifact
from loid_infer.types import Bools, Ints


@dataclass(frozen=True, slots=True)
class Tokens:
    """The ids of some texts, concatenated."""

    flat_ids: Ints  # [sum(lengths)], int32
    lengths: Ints  # [n], int64, with special tokens; at least 1
    n_truncated: int


class Tokenizer:
    """The tokenizer of an encoder, with its maximum length."""

    def __init__(self, path: Path, max_tokens: int, prompt: str = "", empty_id: int = -1) -> None:
        """Read a tokenizer.json.

        Args:
            prompt: put before every text.
            empty_id: the token to use for a text without tokens; -1 if there is always one.

        Raises:
            BadArtifact: the file is not one.
        """
        import tokenizers

        self.max_tokens, self._prompt, self._empty_id = max_tokens, prompt, empty_id
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            fix = "Export the encoder again."
            raise BadArtifact(f"the tokenizer cannot be read: {error}", where=str(path), fix=fix) from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens, strategy="longest_first", direction="right")
        self._words = _words_of(self._tokenizer, max_tokens)
        self._plain_bytes = b"\t\n\r" + bytes(range(32, 127))
        self._added = [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]
        self._added_initials = {token[:1] for token in self._added}

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """The ids of `texts`, equal to those of tokenizers. Not thread-safe; see `copy`."""
        texts = [self._prompt + text for text in texts] if self._prompt else texts
        plain = self._plain(texts)
        if self._words is not None and plain.all():
            return Tokens(*self._words.ids(texts))
        encodings = self._tokenizer.encode_batch_fast([texts[i] for i in np.flatnonzero(~plain).tolist()])
        ids = [encoding.ids or [self._empty_id] for encoding in encodings]  # .ids makes a list per access
        tokenized = Tokens(
            np.fromiter(chain.from_iterable(ids), np.int32),
            np.fromiter(map(len, ids), np.int64, len(ids)),
            sum(bool(encoding.overflowing) for encoding in encodings),
        )
        if self._words is None:
            return tokenized
        looked_up = Tokens(*self._words.ids([texts[i] for i in np.flatnonzero(plain).tolist()]))
        lengths = np.empty(len(texts), np.int64)
        lengths[plain], lengths[~plain] = looked_up.lengths, tokenized.lengths
        mask = np.repeat(plain, lengths)
        flat = np.empty(len(mask), np.int32)
        flat[mask], flat[~mask] = looked_up.flat_ids, tokenized.flat_ids
        return Tokens(flat, lengths, looked_up.n_truncated + tokenized.n_truncated)

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The ids before and after those of every text."""
        full = self._tokenizer.encode("a").ids
        bare = self._tokenizer.encode("a", add_special_tokens=False).ids
        start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
        return full[:start], full[start + len(bare) :]

    @property
    def highest_id(self) -> int:
        """The largest id of the vocabulary."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def id_of(self, token: str) -> int | None:
        """The id of `token`, if the vocabulary has it."""
        token_id: int | None = self._tokenizer.token_to_id(token)
        return token_id

    def copy(self) -> Tokenizer:
        """A tokenizer with the same results, for another thread."""
        other = copy.copy(self)
        other._words = self._words.copy() if self._words is not None else None
        return other

    def _plain(self, texts: Sequence[str]) -> Bools:
        """Which texts `Words` can tokenize: printable ASCII without added tokens such as [MASK]."""
        if self._words is None:
            return np.zeros(len(texts), np.bool_)
        plain = np.fromiter((text.isascii() and not self._has_added(text) for text in texts), np.bool_, len(texts))
        joined = "\n".join([text for text, is_plain in zip(texts, plain, strict=True) if is_plain])
        if self._has_controls(joined):  # find out which of them
            for i in np.flatnonzero(plain).tolist():
                plain[i] = not self._has_controls(texts[i])
        return plain

    def _has_controls(self, text: str) -> bool:
        return bool(text.encode().translate(None, self._plain_bytes))

    def _has_added(self, text: str) -> bool:
        return any(char in text for char in self._added_initials) and any(token in text for token in self._added)


def _words_of(tokenizer: Any, max_tokens: int) -> Words | None:
    """The word lookup for a tokenizer that splits texts by BERT's rules; None for any other."""
    parts = json.loads(tokenizer.to_str())
    kinds = [(parts[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
    if kinds != ["BertNormalizer", "BertPreTokenizer", "WordPiece"] or not parts["normalizer"]["clean_text"]:
        return None
    frame, framed = tokenizer.encode("").ids, tokenizer.encode("a").ids
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    if len(frame) != 2 or framed != [frame[0], *bare, frame[1]]:
        return None
    lower = parts["normalizer"]["lowercase"]
    for token in tokenizer.get_added_tokens_decoder().values():
        if token.normalized or (lower and token.content.isalnum()):
            return None  # it matches in lower-cased text, or a lower-cased word could be mistaken for it

    def tokenize(words: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(words, add_special_tokens=False)]

    return Words(tokenize, (frame[0], frame[1]), max_tokens, lower=lower)
