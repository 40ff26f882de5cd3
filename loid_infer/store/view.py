"""Vectors of chosen texts, read from the store's memory map when they are asked for.

LMDB keeps a chunk where it was written and maps the file, so every vector has an address for as long as a transaction
is open. Picking vectors is then one indexing operation over the map, without a walk through chunks and without a copy
of the whole matrix in memory. This file knows addresses, not what lies there.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.lib.stride_tricks import as_strided

from loid_infer.types import Array, Floats, Ints


class StoredVectors:
    """`[n, dim]`, indexed like an array by numbers, slices or arrays of them; what it gives are copies.

    8 bytes a vector are held in memory. The vectors stay in the file, and in the system's page cache while it has room.
    """

    def __init__(self, addresses: Ints, dim: int, dtype: np.dtype[np.floating]) -> None:
        """`addresses [n]` of vectors of `dim` numbers, all within one mapping that outlives the last indexing."""
        self.shape, self.dtype = (len(addresses), dim), dtype
        n_bytes = dim * dtype.itemsize
        first = int(addresses.min()) if len(addresses) else 0
        offsets = addresses - first
        # Vectors of one chunk lie a row apart and chunks a multiple of something smaller: windows at that step, which
        # overlap, have one at every vector.
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
        """The vectors of `which [..]`, `[.., dim]`, in the stored dtype."""
        at = np.asarray(self._at[which])
        found: Floats = self._windows[at.ravel()].view(self.dtype).reshape(*at.shape, self.shape[1])
        return found

    def close(self) -> None:
        """The mapping is about to go: from now on every index is out of bounds."""
        self._windows = self._windows[:0]
