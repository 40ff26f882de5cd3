"""Texts to token ids, truncated on the right and not padded: looked up by word where possible, else from tokenizers.

Truncation and padding that the tokenizer.json itself contains are ignored.

Words are looked up in printable ASCII that is tokenized by BERT's rules. There, a word is a run of letters and digits
or a single punctuation mark, lower-cased if the model is uncased, and its ids do not depend on its neighbors. A block
of texts is a few array operations, which release the GIL. Words of up to 16 bytes are their own keys in a hash table
(two uint64, so there are no false matches); the ids of a new word are computed once by the tokenizer.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from loid_infer.errors import BadArtifact
from loid_infer.types import Array, Bools, Ints

_SPACE, _LETTER, _PUNCTUATION = 0, 1, 2  # kinds of characters
_BLOCK_CHARS = 1 << 18  # characters per block, which fits into a processor's cache
_MAX_WORDS = 250_000  # the table is emptied above; it has twice as many slots
_TABLE_BITS = 19
_CUT_TEXTS = 4096
_KEY_BYTES = 16  # longer words are stored in a dict
_MAX_BYTES = 100  # and longer ones than that not at all, to bound the memory
_LOW, _HIGH = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95  # odd multipliers of the hash


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
            fix = "Export the encoder again, from a base with an intact tokenizer.json."
            raise BadArtifact(f"the tokenizer cannot be read: {error}", where=str(path), fix=fix) from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens, strategy="longest_first", direction="right")
        parts = json.loads(self._tokenizer.to_str())
        name = parts["model"].get("unk_token")
        number = parts["model"].get("unk_id") if name is None else self.id_of(name)
        self.unknown_id: int = -1 if number is None else number  # -1: the vocabulary lacks nothing, or drops it
        self._words = _words_of(self._tokenizer, parts, max_tokens)
        self._plain_bytes = b"\t\n\r" + bytes(range(32, 127))
        self._added = [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]
        self._added_initials = {token[:1] for token in self._added}

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """The ids of `texts`, equal to those of tokenizers. Not thread-safe; see `copy`."""
        texts = [self._prompt + text for text in texts] if self._prompt else texts
        plain = self._plain(texts)
        if self._words is not None and plain.all():
            return self._words.ids(texts)
        encodings = self._tokenizer.encode_batch_fast([texts[i] for i in np.flatnonzero(~plain).tolist()])
        ids = [encoding.ids or [self._empty_id] for encoding in encodings]  # .ids makes a list per access
        tokenized = Tokens(
            np.fromiter(chain.from_iterable(ids), np.int32),
            np.fromiter(map(len, ids), np.int64, len(ids)),
            sum(bool(encoding.overflowing) for encoding in encodings),
        )
        if self._words is None:
            return tokenized
        looked_up = self._words.ids([texts[i] for i in np.flatnonzero(plain).tolist()])
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
    def n_around(self) -> int:
        """The number of tokens that every text has: of the prompt, and special ones."""
        return len(self._tokenizer.encode(self._prompt).ids)

    def cut(self, texts: Sequence[str], n_tokens: int) -> list[str]:
        """`texts [n]`, each until the end of its token number `n_tokens`."""
        cut: list[str] = []
        for start in range(0, len(texts), _CUT_TEXTS):  # an encoding takes kilobytes
            part = texts[start : start + _CUT_TEXTS]
            for text, found in zip(part, self._tokenizer.encode_batch(part, add_special_tokens=False), strict=True):
                is_longer = len(found) > n_tokens
                cut.append(text[: found.offsets[n_tokens - 1][1]] if is_longer else text)
        return cut

    @property
    def ids(self) -> dict[str, int]:
        """Every token with its id, and those around every text."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        known = {*vocabulary.values()}
        return vocabulary | {f"token {i} around texts": i for side in self.frame for i in side if i not in known}

    def mostly_unknown(self, tokens: Tokens) -> Bools:
        """Of which texts `[n]` more than half of the tokens are unknown, not counting those that every text has."""
        places = np.flatnonzero(tokens.flat_ids == self.unknown_id)
        texts = np.searchsorted(np.cumsum(tokens.lengths), places, side="right")
        n_unknown = np.bincount(texts, minlength=len(tokens.lengths))
        own: Bools = 2 * n_unknown > tokens.lengths - self.n_around
        return own

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


def _words_of(tokenizer: Any, parts: dict[str, Any], max_tokens: int) -> Words | None:
    """The word lookup for a tokenizer, with these parts, that splits texts by BERT's rules; None for any other."""
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


@dataclass(frozen=True, slots=True)
class _Block:
    """The words of a block of texts, concatenated."""

    content: bytes  # the texts, lower-cased if the model is uncased
    starts: Ints  # [n_words], first byte
    lengths: Ints  # [n_words], bytes
    bounds: Ints  # [n_texts + 1], the first word of each text, and the end

    def word(self, i: int) -> bytes:
        """The i-th word."""
        return self.content[self.starts[i] : self.starts[i] + self.lengths[i]]


class Words:
    """Tokenizes texts by a table of words, which grows as needed. Not thread-safe; see `copy`."""

    def __init__(
        self, tokenize: Callable[[list[str]], list[list[int]]], frame: tuple[int, int], max_tokens: int, *, lower: bool
    ) -> None:
        """Start with an empty table.

        Args:
            tokenize: words -> the ids of each.
            frame: first and last id of every text.
            max_tokens: maximum length of a text, with its frame.
            lower: whether to convert to lower case.
        """
        self._tokenize, self._frame, self._max_tokens = tokenize, frame, max_tokens
        chars = [chr(code) for code in range(128)]
        kinds = (_SPACE if c in " \t\n\r" else _LETTER if c.isalnum() else _PUNCTUATION for c in chars)
        self._kinds = bytes(kinds) + bytes(128)
        self._cases = bytes(ord(c.lower() if lower else c) for c in chars) + bytes(range(128, 256))
        self._clear()

    def _clear(self) -> None:
        self._long: dict[bytes, int] = {}  # entries of words longer than a key
        self._slots: Array = np.full(1 << _TABLE_BITS, -1, np.int32)  # [slots], entry of each slot; -1: free
        self._lows, self._highs = (np.zeros(1 << _TABLE_BITS, np.uint64) for _ in range(2))  # [slots], keys
        self._firsts: Ints = np.zeros(0, np.int64)  # [entries], first index into `_ids`
        self._counts: Ints = np.zeros(0, np.int64)  # [entries], number of ids of each word in the table
        self._ids: Ints = np.zeros(0, np.int32)

    def copy(self) -> Words:
        """The same with an empty table, for another thread."""
        other = copy.copy(self)
        other._clear()
        return other

    def ids(self, texts: Sequence[str]) -> Tokens:
        """The ids of plain texts."""
        parts = [self._block_ids(texts[part]) for part in _blocks(texts)]
        flat_ids = np.concatenate([np.zeros(0, np.int32), *(part.flat_ids for part in parts)])
        lengths = np.concatenate([np.zeros(0, np.int64), *(part.lengths for part in parts)])
        return Tokens(flat_ids, lengths, sum(part.n_truncated for part in parts))

    def _block_ids(self, texts: Sequence[str]) -> Tokens:
        block = self._split(texts)
        entries = self._look_up(block)
        counts = self._counts[entries]
        ends = np.concatenate([[0], np.cumsum(counts)])
        flat = self._ids[np.repeat(self._firsts[entries] - ends[:-1], counts) + np.arange(ends[-1])]
        lengths = np.diff(ends[block.bounds])
        room = self._max_tokens - 2
        n_truncated = int((lengths > room).sum())
        if n_truncated:
            flat = flat[_ranks(lengths) < room]
        lengths = np.minimum(lengths, room) + 2
        last = np.cumsum(lengths) - 1
        first = last + 1 - lengths
        framed, inside = np.empty(int(lengths.sum()), np.int32), np.ones(int(lengths.sum()), np.bool_)
        inside[first] = inside[last] = False
        framed[first], framed[last], framed[inside] = *self._frame, flat
        return Tokens(framed, lengths, n_truncated)

    def _split(self, texts: Sequence[str]) -> _Block:
        """The words of `texts`; of each text at most enough to show that it must be truncated."""
        content = "\n".join(["", *texts, ""]).encode()
        kinds = np.frombuffer(content.translate(self._kinds), np.uint8)
        letter = kinds == _LETTER
        is_start = kinds == _PUNCTUATION
        is_start[1:] |= letter[1:] & ~letter[:-1]
        starts = np.flatnonzero(is_start)
        lengths = np.ones(len(starts), np.int64)
        runs = letter[starts]
        lengths[runs] = np.flatnonzero(letter[:-1] & ~letter[1:]) + 1 - starts[runs]
        chars = np.fromiter(map(len, texts), np.int64, len(texts))
        text_starts = np.cumsum(chars + 1) - chars
        bounds = np.searchsorted(starts, np.append(text_starts, len(content)))
        counts, max_words = np.diff(bounds), self._max_tokens - 1
        if counts.max() > max_words:
            kept = _ranks(counts) < max_words
            starts, lengths = starts[kept], lengths[kept]
            bounds = np.concatenate([[0], np.cumsum(np.minimum(counts, max_words))])
        return _Block(content.translate(self._cases) + bytes(_KEY_BYTES), starts, lengths, bounds)

    def _look_up(self, block: _Block) -> Ints:
        """The entry of each word; new words are added."""
        if len(self._counts) > _MAX_WORDS:
            self._clear()
        low, high = _keys(block)
        entries = self._table_entries(low, high)
        long = {i: block.word(i) for i in np.flatnonzero(block.lengths > _KEY_BYTES).tolist()}
        entries[list(long)] = [self._long.get(word, -1) for word in long.values()]
        new_long = list(dict.fromkeys(word for i, word in long.items() if entries[i] < 0))
        new = np.flatnonzero((entries < 0) & (block.lengths <= _KEY_BYTES))
        if not len(new) and not new_long:
            return entries
        keys = np.stack([low[new], high[new]], 1)
        keys, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        added = self._add([*(block.word(i) for i in new[first].tolist()), *new_long])
        self._insert(keys[:, 0], keys[:, 1], added[: len(keys)])
        entries[new] = added[inverse.ravel()]
        long_entries = dict(zip(new_long, added[len(keys) :].tolist(), strict=True))
        self._long |= {word: entry for word, entry in long_entries.items() if len(word) <= _MAX_BYTES}
        for i, word in long.items():
            entries[i] = long_entries.get(word, entries[i])
        return entries

    def _table_entries(self, low: Array, high: Array) -> Ints:
        """The entries under these keys; -1 where there is none. Open addressing with linear probing."""
        slots = _slot(low, high)
        entries = self._slots[slots]
        pending = np.flatnonzero((entries >= 0) & ((self._lows[slots] != low) | (self._highs[slots] != high)))
        entries[pending] = -1
        while len(pending):
            slots[pending] = (slots[pending] + 1) % len(self._slots)
            slot = slots[pending]
            entry = self._slots[slot]
            same = (entry >= 0) & (self._lows[slot] == low[pending]) & (self._highs[slot] == high[pending])
            entries[pending[same]] = entry[same]
            pending = pending[(entry >= 0) & ~same]
        return entries

    def _insert(self, low: Array, high: Array, entries: Ints) -> None:
        slots, pending = _slot(low, high), np.arange(len(low))
        while len(pending):
            _, first = np.unique(slots[pending], return_index=True)  # one key per slot
            free = pending[first]
            free = free[self._slots[slots[free]] < 0]
            slot = slots[free]
            self._slots[slot], self._lows[slot], self._highs[slot] = entries[free], low[free], high[free]
            pending = np.setdiff1d(pending, free, assume_unique=True)
            slots[pending] = (slots[pending] + 1) % len(self._slots)

    def _add(self, words: list[bytes]) -> Ints:
        """New entries `[n]` for `words`."""
        ids = self._tokenize([word.decode() for word in words])
        counts = np.fromiter(map(len, ids), np.int64, len(ids))
        first = len(self._ids) + np.cumsum(counts) - counts
        self._firsts, self._counts = np.append(self._firsts, first), np.append(self._counts, counts)
        self._ids = np.append(self._ids, np.fromiter(chain.from_iterable(ids), np.int32))
        return np.arange(len(self._counts) - len(words), len(self._counts))


def _blocks(texts: Sequence[str]) -> Iterator[slice]:
    first, n_chars = 0, 0
    for i, text in enumerate(texts):
        if n_chars and n_chars + len(text) > _BLOCK_CHARS:
            yield slice(first, i)
            first, n_chars = i, 0
        n_chars += len(text)
    if len(texts) > first:
        yield slice(first, len(texts))


def _ranks(counts: Ints) -> Ints:
    """0, 1, .. within each group, for groups of these sizes, `[sum(counts)]`."""
    starts = np.cumsum(counts) - counts
    ranks: Ints = np.arange(int(counts.sum())) - np.repeat(starts, counts)
    return ranks


def _keys(block: _Block) -> tuple[Array, Array]:
    """The first 8 bytes of each word and the next 8, as integers, zero-padded."""
    # The 8 bytes from each byte on, as a view.
    eight: Array = np.ndarray((len(block.content) - 7,), "<u8", block.content, strides=(1,))
    masks = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
    low = eight[block.starts] & masks[np.minimum(block.lengths, 8)]
    high = np.zeros_like(low)
    longer = np.flatnonzero(block.lengths > 8)
    high[longer] = eight[block.starts[longer] + 8] & masks[np.minimum(block.lengths[longer] - 8, 8)]
    return low, high


def _slot(low: Array, high: Array) -> Ints:
    """The first slot to probe for each key."""
    mixed = (low * np.uint64(_LOW)) ^ (high * np.uint64(_HIGH))
    return (mixed >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)
