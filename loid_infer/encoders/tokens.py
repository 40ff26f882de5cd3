"""Texts to token ids, truncated on the right and never padded: the Rust tokenizer's ids, most of them looked up.

The file that is read may carry its own truncation and padding; both are set here, so it never matters. This file knows
no model and no batch.
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
    """Ids of some texts, one text after another."""

    flat_ids: Ints  # [sum(lengths)], int32
    lengths: Ints  # [n], int64, with special tokens; at least 1
    n_truncated: int


class Tokenizer:
    """The tokenizer of an encoder, at its own number of tokens."""

    def __init__(self, path: Path, max_tokens: int, prompt: str = "", empty_id: int = -1) -> None:
        """Read a tokenizer.json.

        Args:
            prompt: put before every text.
            empty_id: the token of a text that has none; -1 where there is always one.

        Raises:
            BadArtifact: the file is not one.
        """
        import tokenizers

        self.max_tokens, self._prompt, self._empty_id = max_tokens, prompt, empty_id
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise BadArtifact(
                f"the tokenizer cannot be read: {error}", where=str(path), fix="Export the encoder again."
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens, strategy="longest_first", direction="right")
        self._words = _words_of(self._tokenizer, max_tokens)
        self._usual = b"\t\n\r" + bytes(range(32, 127))
        self._added = [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]
        self._marks = {token[:1] for token in self._added}

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Ids of `texts`, equal to the Rust tokenizer's. For one thread."""
        texts = [self._prompt + text for text in texts] if self._prompt else texts
        plain = self._plain(texts)
        if self._words is not None and plain.all():
            return Tokens(*self._words.ids(texts))
        encodings = self._tokenizer.encode_batch_fast([texts[i] for i in np.flatnonzero(~plain).tolist()])
        ids = [encoding.ids or [self._empty_id] for encoding in encodings]  # a list is made whenever it is asked for
        theirs = Tokens(
            np.fromiter(chain.from_iterable(ids), np.int32),
            np.fromiter(map(len, ids), np.int64, len(ids)),
            sum(bool(encoding.overflowing) for encoding in encodings),
        )
        if self._words is None:
            return theirs
        ours = Tokens(*self._words.ids([texts[i] for i in np.flatnonzero(plain).tolist()]))
        lengths = np.empty(len(texts), np.int64)
        lengths[plain], lengths[~plain] = ours.lengths, theirs.lengths
        of_plain = np.repeat(plain, lengths)
        flat = np.empty(len(of_plain), np.int32)
        flat[of_plain], flat[~of_plain] = ours.flat_ids, theirs.flat_ids
        return Tokens(flat, lengths, ours.n_truncated + theirs.n_truncated)

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The ids that stand before and behind those of every text."""
        whole = self._tokenizer.encode("a").ids
        bare = self._tokenizer.encode("a", add_special_tokens=False).ids
        at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        return whole[:at], whole[at + len(bare) :]

    @property
    def highest_id(self) -> int:
        """The largest id that it can give."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def id_of(self, token: str) -> int | None:
        """The id of a token by its name, if it has one."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def another(self) -> Tokenizer:
        """One that gives the same, for another thread."""
        other = copy.copy(self)
        other._words = self._words.another() if self._words is not None else None
        return other

    def _plain(self, texts: Sequence[str]) -> Bools:
        """Of which texts the rules of `words` are all there is to it: no other script, no control mark, no [MASK] and
        the like."""
        if self._words is None:
            return np.zeros(len(texts), np.bool_)
        plain = np.fromiter((text.isascii() and not self._has_added(text) for text in texts), np.bool_, len(texts))
        together = "\n".join([text for text, known in zip(texts, plain, strict=True) if known])
        if self._is_odd(together):  # look for the texts it is in
            for i in np.flatnonzero(plain).tolist():
                plain[i] = not self._is_odd(texts[i])
        return plain

    def _is_odd(self, text: str) -> bool:
        return bool(text.encode().translate(None, self._usual))

    def _has_added(self, text: str) -> bool:
        return any(mark in text for mark in self._marks) and any(token in text for token in self._added)


def _words_of(tokenizer: Any, max_tokens: int) -> Words | None:
    """The words of a tokenizer that splits texts by BERT's rules; None for any other."""
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
            return None  # it would be looked for in lowered text, or a word that is only lowered be taken for it

    def ask(words: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(words, add_special_tokens=False)]

    return Words(ask, (frame[0], frame[1]), max_tokens, lower=lower)
