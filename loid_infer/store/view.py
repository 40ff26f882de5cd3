"""A matrix of stored vectors that are read from the memory map on access.

LMDB maps the file and does not move chunks, so every vector has a fixed address while a transaction is open. Reading
any set of vectors is one indexing operation over the map.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.lib.stride_tricks import as_strided

from loid_infer.types import Array, Floats, Ints


class StoredVectors:
    """`[n, dim]`, indexed like an array by integers, slices or index arrays. Returns copies."""

    def __init__(self, addresses: Ints, dim: int, dtype: np.dtype[np.floating]) -> None:
        """`addresses [n]`: memory addresses of the vectors, within one mapping that stays valid until `close`."""
        self.shape, self.dtype = (len(addresses), dim), dtype
        n_bytes = dim * dtype.itemsize
        first = int(addresses.min()) if len(addresses) else 0
        offsets = addresses - first
        # All offsets are multiples of `step`: of overlapping windows at that distance, one is at every vector.
        step = int(np.gcd.reduce(np.append(offsets, n_bytes)))
        span = int(offsets.max(initial=0))
        if len(addresses):
            memory = memoryview((ctypes.c_char * n_bytes).from_address(first))
            window = np.frombuffer(memory, f"V{n_bytes}")
            self._windows = as_strided(window, (span // step + 1,), (step,), writeable=False)
        else:
            self._windows = np.zeros(0, f"V{n_bytes}")
        self._at = offsets // step

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: Array | slice | int) -> Floats:
        """The vectors `[.., dim]` at the positions `which [..]`, in the stored dtype."""
        at = np.asarray(self._at[which])
        vectors: Floats = self._windows[at.ravel()].view(self.dtype).reshape(*at.shape, self.shape[1])
        return vectors

    def close(self) -> None:
        """Make every later access an IndexError, because the mapping becomes invalid."""
        self._windows = self._windows[:0]
