"""Looks up many ids at once.

A dictionary of a million strings waits for memory several times an id, one id at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.lib.stride_tricks import as_strided

from loid_infer.kernels.sampling import mix
from loid_infer.types import Array, Bools, Ints

_WORD = 8  # bytes


class _Strings:
    """Strings as 64-bit words of their UTF-8 bytes."""

    def __init__(self, strings: Sequence[str]) -> None:
        _, ends, content = pa.array(strings, pa.large_string()).buffers()
        offsets = np.frombuffer(ends, np.int64)[: len(strings) + 1] if len(strings) else np.zeros(1, np.int64)
        self.starts, self.lengths = offsets[:-1], np.diff(offsets)
        padded = np.append(np.frombuffer(content or b"", np.uint8)[: offsets[-1]], np.zeros(_WORD, np.uint8))
        self._windows = as_strided(padded[:_WORD].view("<u8"), (len(padded) - _WORD + 1,), (1,), writeable=False)

    def words(self, rows: Ints, number: int) -> Array:
        """Word `number` of the strings `rows [n]`, which have it, zero beyond their end."""
        at = number * _WORD
        absent = np.maximum(_WORD - (self.lengths[rows] - at), 0).astype(np.uint64) * np.uint64(8)  # bits
        words: Array = self._windows[self.starts[rows] + at] << absent >> absent
        return words

    def hashes(self) -> Array:
        """A hash of each string, uint64."""
        hashes, rows, number = mix(self.lengths.astype(np.uint64)), np.flatnonzero(self.lengths), 0
        while len(rows):
            hashes[rows] = mix(hashes[rows] ^ self.words(rows, number))
            number += 1
            rows = rows[self.lengths[rows] > number * _WORD]
        return hashes

    def equal(self, rows: Ints, others: _Strings, other_rows: Ints) -> Bools:
        """Which of the strings `rows [n]` are equal to those of `others`."""
        equal: Bools = self.lengths[rows] == others.lengths[other_rows]
        left, number = np.flatnonzero(equal & (self.lengths[rows] > 0)), 0
        while len(left):
            equal[left] = self.words(rows[left], number) == others.words(other_rows[left], number)
            number += 1
            left = left[equal[left] & (self.lengths[rows[left]] > number * _WORD)]
        return equal


class IdTable:
    """The codes of ids: their positions in a sequence. An id is found if all its bytes are equal."""

    def __init__(self, ids: Sequence[str]) -> None:
        """Sort the hashes of the different `ids [n]` by their value."""
        self._known = _Strings(ids)
        hashes = self._known.hashes()
        self._codes = np.argsort(hashes)
        self._hashes = hashes[self._codes]
        bits = max(1, len(ids).bit_length())  # about one id a bucket
        self._shift = np.uint64(64 - bits)
        counts = np.bincount((self._hashes >> self._shift).astype(np.int64), minlength=1 << bits)
        self._starts = np.append(0, np.cumsum(counts))

    def codes(self, ids: Sequence[str]) -> Ints:
        """The codes `[n]` of `ids`, int64, -1 for those that are not in the table."""
        strings = _Strings(ids)
        hashes = strings.hashes()
        bucket = (hashes >> self._shift).astype(np.int64)
        at, end = self._starts[bucket], self._starts[bucket + 1]
        codes = np.full(len(ids), -1, np.int64)
        left = np.flatnonzero(at < end)
        while len(left):
            found = self._hashes[at[left]] == hashes[left]
            code = self._codes[at[left[found]]]
            found[found] = strings.equal(left[found], self._known, code)
            codes[left[found]] = self._codes[at[left[found]]]
            left = left[~found]
            at[left] += 1
            left = left[at[left] < end[left]]
        return codes
