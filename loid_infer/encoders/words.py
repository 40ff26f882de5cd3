"""The ids of plain texts without a tokenizer's loop: words are found and looked up a hundred thousand at a time.

For printable ASCII BERT's rules come to this: lower the case, take each run of letters and digits and each punctuation
mark alone; a word's ids do not depend on its neighbors. So a block of texts is a few array operations, which leave
Python to other threads. A word is its own key, 16 bytes in two numbers, so no two can be taken for one another; whoever
knows the ids of a new one is asked once. The file knows no tokenizer and no model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from loid_infer.types import Array, Ints

_SPACE, _LETTER, _MARK = 0, 1, 2  # kinds of characters
_BLOCK_CHARS = 1 << 18  # looked at together: what stays in a processor's cache
_MAX_WORDS = 250_000  # remembered at once; the table has twice as many places
_PLACE_BITS = 19
_KEY_BYTES = 16  # longer words are kept in a dict
_MAX_BYTES = 100  # and longer ones than that not at all: they would be memory without bound
_LOW, _HIGH = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95  # odd, of well mixed bits


@dataclass(frozen=True, slots=True)
class _Found:
    """The words of a block of texts, one text after another."""

    content: bytes  # the block, in lower case if that is the rule
    starts: Ints  # [n_words], first byte
    lengths: Ints  # [n_words], bytes
    bounds: Ints  # [n_texts + 1], the first word of each text, and the end

    def word(self, i: int) -> bytes:
        """The i-th."""
        return self.content[self.starts[i] : self.starts[i] + self.lengths[i]]


class Words:
    """The ids of every word met so far, and texts made of them. For one thread."""

    _n: int
    _places: Array  # [places], the entry of each; -1 where it is free
    _lows: Array  # [places], and its key
    _highs: Array
    _firsts: Ints  # [entries], of the entry's ids in
    _ids: Ints
    _counts: Ints  # [entries], how many
    _long: dict[bytes, int]  # entries of words that are longer than a key

    def __init__(
        self, ask: Callable[[list[str]], list[list[int]]], frame: tuple[int, int], max_tokens: int, *, lower: bool
    ) -> None:
        """Know no word yet.

        Args:
            ask: words -> the ids of each.
            frame: what every text begins and ends with.
            max_tokens: of a text, with its frame.
            lower: whether A is a.
        """
        self._ask, self._frame, self._max_tokens = ask, frame, max_tokens
        every = [chr(code) for code in range(128)]
        self._kinds = bytes(_SPACE if c in " \t\n\r" else _LETTER if c.isalnum() else _MARK for c in every) + bytes(128)
        self._cases = bytes(ord(c.lower() if lower else c) for c in every) + bytes(range(128, 256))
        self._forget()

    def __len__(self) -> int:
        """Words known."""
        return self._n

    def another(self) -> Words:
        """One that knows no word yet, for another thread."""
        other = copy.copy(self)
        other._forget()
        return other

    def ids(self, texts: Sequence[str]) -> tuple[Ints, Ints, int]:
        """The ids of plain texts one after another, int32, how many each has `[n]`, and how many texts were cut."""
        parts = [self._block(texts[part]) for part in _blocks(texts)]
        flat = np.concatenate([np.zeros(0, np.int32), *(part[0] for part in parts)])
        lengths = np.concatenate([np.zeros(0, np.int64), *(part[1] for part in parts)])
        return flat, lengths, sum(part[2] for part in parts)

    def _block(self, texts: Sequence[str]) -> tuple[Ints, Ints, int]:
        found = self._find(texts)
        entries = self._look_up(found)
        counts = self._counts[entries]
        ends = np.concatenate([[0], np.cumsum(counts)])
        flat = self._ids[np.repeat(self._firsts[entries] - ends[:-1], counts) + np.arange(ends[-1])]
        lengths = np.diff(ends[found.bounds])
        room = self._max_tokens - 2
        n_cut = int((lengths > room).sum())
        if n_cut:
            flat = flat[_ranks(lengths) < room]
        lengths = np.minimum(lengths, room) + 2
        last = np.cumsum(lengths) - 1
        first = last + 1 - lengths
        framed, inside = np.empty(int(lengths.sum()), np.int32), np.ones(int(lengths.sum()), np.bool_)
        inside[first] = inside[last] = False
        framed[first], framed[last], framed[inside] = *self._frame, flat
        return framed, lengths, n_cut

    def _find(self, texts: Sequence[str]) -> _Found:
        """The words of `texts`, of each at most as many as show that it must be cut."""
        block = "\n".join(["", *texts, ""]).encode()
        kinds = np.frombuffer(block.translate(self._kinds), np.uint8)
        letter = kinds == _LETTER
        begins = kinds == _MARK
        begins[1:] |= letter[1:] & ~letter[:-1]
        starts = np.flatnonzero(begins)
        lengths = np.ones(len(starts), np.int64)
        runs = letter[starts]
        lengths[runs] = np.flatnonzero(letter[:-1] & ~letter[1:]) + 1 - starts[runs]
        chars = np.fromiter(map(len, texts), np.int64, len(texts))
        of_text = np.cumsum(chars + 1) - chars
        bounds = np.searchsorted(starts, np.append(of_text, len(block)))
        counts, most = np.diff(bounds), self._max_tokens - 1
        if counts.max() > most:
            kept = _ranks(counts) < most
            starts, lengths = starts[kept], lengths[kept]
            bounds = np.concatenate([[0], np.cumsum(np.minimum(counts, most))])
        return _Found(block.translate(self._cases) + bytes(_KEY_BYTES), starts, lengths, bounds)

    def _look_up(self, found: _Found) -> Ints:
        """The entry of each word."""
        if self._n > _MAX_WORDS:
            self._forget()
        low, high = _keys(found)
        entries = self._table_entries(low, high)
        long = np.flatnonzero(found.lengths > _KEY_BYTES).tolist()
        named = {i: found.word(i) for i in long}
        entries[long] = [self._long.get(word, -1) for word in named.values()]
        new_long = list(dict.fromkeys(word for i, word in named.items() if entries[i] < 0))
        new = np.flatnonzero((entries < 0) & (found.lengths <= _KEY_BYTES))
        if not len(new) and not new_long:
            return entries
        keys = np.stack([low[new], high[new]], 1)
        keys, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        learnt = self._learn([*(found.word(i) for i in new[first].tolist()), *new_long])
        self._keep(keys[:, 0], keys[:, 1], learnt[: len(keys)])
        entries[new] = learnt[which.ravel()]
        of_long = dict(zip(new_long, learnt[len(keys) :].tolist(), strict=True))
        self._long |= {word: entry for word, entry in of_long.items() if len(word) <= _MAX_BYTES}
        for i, word in named.items():
            entries[i] = of_long.get(word, entries[i])
        return entries

    def _table_entries(self, low: Array, high: Array) -> Ints:
        """The entries under these keys; -1 where there is none."""
        places = _place(low, high)
        entries = self._places[places]
        waiting = np.flatnonzero((entries >= 0) & ((self._lows[places] != low) | (self._highs[places] != high)))
        entries[waiting] = -1
        while len(waiting):  # the place is another word's: look in the next
            places[waiting] = (places[waiting] + 1) % len(self._places)
            here = places[waiting]
            there = self._places[here]
            same = (there >= 0) & (self._lows[here] == low[waiting]) & (self._highs[here] == high[waiting])
            entries[waiting[same]] = there[same]
            waiting = waiting[(there >= 0) & ~same]
        return entries

    def _keep(self, low: Array, high: Array, entries: Ints) -> None:
        places, waiting = _place(low, high), np.arange(len(low))
        while len(waiting):
            _, first = np.unique(places[waiting], return_index=True)  # of those who want the same place
            settled = waiting[first]
            settled = settled[self._places[places[settled]] < 0]
            here = places[settled]
            self._places[here], self._lows[here], self._highs[here] = entries[settled], low[settled], high[settled]
            waiting = np.setdiff1d(waiting, settled, assume_unique=True)
            places[waiting] = (places[waiting] + 1) % len(self._places)

    def _learn(self, words: list[bytes]) -> Ints:
        """New entries for `words`, `[n]`."""
        ids = self._ask([word.decode() for word in words])
        counts = np.fromiter(map(len, ids), np.int64, len(ids))
        first = len(self._ids) + np.cumsum(counts) - counts
        self._firsts, self._counts = np.append(self._firsts, first), np.append(self._counts, counts)
        self._ids = np.append(self._ids, np.fromiter(chain.from_iterable(ids), np.int32))
        self._n += len(words)
        return np.arange(self._n - len(words), self._n)

    def _forget(self) -> None:
        self._n, self._long = 0, {}
        self._places = np.full(1 << _PLACE_BITS, -1, np.int32)
        self._lows, self._highs = (np.zeros(1 << _PLACE_BITS, np.uint64) for _ in range(2))
        self._firsts, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._ids = np.zeros(0, np.int32)


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
    """0, 1, .. within each of groups of these sizes, `[sum(counts)]`."""
    starts = np.cumsum(counts) - counts
    ranks: Ints = np.arange(int(counts.sum())) - np.repeat(starts, counts)
    return ranks


def _keys(found: _Found) -> tuple[Array, Array]:
    """The first 8 bytes of each word and the next 8, as numbers; what is behind the word is 0."""
    eight: Array = np.ndarray((len(found.content) - 7,), "<u8", found.content, strides=(1,))  # the 8 bytes at each byte
    masks = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
    low = eight[found.starts] & masks[np.minimum(found.lengths, 8)]
    high = np.zeros_like(low)
    longer = np.flatnonzero(found.lengths > 8)
    high[longer] = eight[found.starts[longer] + 8] & masks[np.minimum(found.lengths[longer] - 8, 8)]
    return low, high


def _place(low: Array, high: Array) -> Ints:
    mixed = (low * np.uint64(_LOW)) ^ (high * np.uint64(_HIGH))
    return (mixed >> np.uint64(64 - _PLACE_BITS)).astype(np.int64)
