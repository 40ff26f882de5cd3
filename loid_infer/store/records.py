"""The binary format of a chunk: header, digests of the rows, and a contiguous matrix of vectors.

    magic 8 | checksum 8 | format 4 | rows 4 | dim 4 | dtype 4 | first row 8 | fingerprint 16 | reserved 8
    digests [rows, 16]
    vectors [rows, dim]

Little-endian; the header is 64 bytes and the digests 16 each, so the matrix stays 16-byte aligned within the record.
The checksum is xxh3-64 of everything that follows it.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.lib.stride_tricks import as_strided

from loid_infer.errors import BadStore
from loid_infer.types import DIGEST_BYTES, Array, Digests, Floats, Ints, Spec

FORMAT = 1
DTYPES: dict[str, np.dtype[Any]] = {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4")}

MAGIC = b"LOIDCHNK"
SALVAGE = "Run `loid-infer cache salvage`: it keeps the intact chunks. `loid-infer encode` then computes the rest."
_HEADER = struct.Struct("<8sQIIIIQ16s8x")
_DTYPE_CODES = {DTYPES["fp16"]: 1, DTYPES["fp32"]: 2}
_CHECKED_FROM = 16  # after the magic and the checksum itself


@dataclass(frozen=True, slots=True)
class Chunk:
    """A record as arrays that are views of its buffer."""

    first_row: int
    digests: Digests  # [rows, 16]
    vectors: Floats  # [rows, dim], stored dtype

    @property
    def n_bytes(self) -> int:
        """Size of the record."""
        return _HEADER.size + self.digests.nbytes + self.vectors.nbytes

    @property
    def addresses(self) -> Ints:
        """Memory address of each vector, `[rows]`."""
        return self.vectors.ctypes.data + self.vectors.strides[0] * np.arange(len(self.vectors))


def pack(first_row: int, digests: Digests, vectors: Floats, fingerprint: str) -> bytes:
    """The record of `vectors [rows, dim]` (float16 or float32) and their `digests [rows, 16]`."""
    rows, dim = vectors.shape
    code = _DTYPE_CODES.get(vectors.dtype)
    if code is None or digests.shape != (rows, DIGEST_BYTES) or digests.dtype != np.uint8 or rows == 0:
        raise ValueError(f"cannot pack vectors {vectors.dtype} {vectors.shape} with digests {digests.shape}")
    fields = (FORMAT, rows, dim, code, first_row, bytes.fromhex(fingerprint))
    parts = [np.ascontiguousarray(part).data for part in (digests, vectors)]
    checksum = xxhash.xxh3_64(_HEADER.pack(MAGIC, 0, *fields)[_CHECKED_FROM:])
    for part in parts:
        checksum.update(part)
    return b"".join((_HEADER.pack(MAGIC, checksum.intdigest(), *fields), *parts))


def unpack(
    record: memoryview, spec: Spec, fingerprint: str, *, first_row: int | None, where: str, check: bool = True
) -> Chunk:
    """Parse a record; `check` compares the checksum. With `first_row=None` it may have any row and trailing bytes.

    Raises BadStore if the record is damaged, or of another format, spec or position.
    """
    if len(record) < _HEADER.size:
        raise _damaged("the record is shorter than its header", where, f"{_HEADER.size} bytes", f"{len(record)} bytes")
    magic, checksum, version, rows, dim, code, stored_row, stored_print = _HEADER.unpack_from(record)
    if magic != MAGIC:
        raise _damaged("not a chunk record", where, repr(MAGIC), repr(magic))
    if version != FORMAT:
        raise _damaged("unsupported format of the chunk", where, str(FORMAT), str(version))
    dtype = DTYPES[spec.store_dtype]
    if (dim, code) != (spec.dim, _DTYPE_CODES[dtype]):
        expected = f"width {spec.dim}, dtype {_DTYPE_CODES[dtype]} ({spec.store_dtype})"
        raise _damaged("wrong width or dtype of the vectors", where, expected, f"width {dim}, dtype {code}")
    middle = _HEADER.size + rows * DIGEST_BYTES
    size = middle + rows * dim * dtype.itemsize
    if rows == 0 or len(record) < size or (len(record) > size and first_row is not None):
        raise _damaged("the record's size contradicts its header", where, f"{size} bytes", f"{len(record)} bytes")
    if check and xxhash.xxh3_64_intdigest(record[_CHECKED_FROM:size]) != checksum:
        raise _damaged("the checksum does not match", where, f"{checksum:016x}", "another one")
    if stored_print.hex() != fingerprint:
        raise _damaged("a chunk of another encoder", where, fingerprint, stored_print.hex())
    if first_row not in (None, stored_row):
        raise _damaged("a chunk at the wrong position", where, f"row {first_row}", f"row {stored_row}")
    digests: Array = np.frombuffer(record[_HEADER.size : middle], np.uint8).reshape(rows, DIGEST_BYTES)
    vectors: Array = np.frombuffer(record[middle:size], dtype).reshape(rows, dim)
    return Chunk(stored_row, digests, vectors)


def _damaged(what: str, where: str, expected: str, got: str) -> BadStore:
    return BadStore(what, where=where, expected=expected, got=got, fix=SALVAGE)


class StoredVectors:
    """Stored vectors `[n, dim]`, indexed like an array by integers, slices or index arrays. Returns copies.

    LMDB maps the file and does not move chunks, so every vector has a fixed address while a transaction is open, and
    reading any set of vectors is one indexing operation over the map.
    """

    def __init__(self, addresses: Ints, dim: int, dtype: np.dtype[np.floating]) -> None:
        """`addresses [n]`: memory addresses of the vectors, within one mapping that stays valid until `close`."""
        self.shape, self.dtype = (len(addresses), dim), dtype
        n_bytes = dim * dtype.itemsize
        first = int(addresses.min()) if len(addresses) else 0
        offsets = addresses - first
        # All offsets are multiples of `step`: of overlapping windows at that distance, one is at every vector.
        step = int(np.gcd.reduce(np.append(offsets, n_bytes)))
        self._at = offsets // step
        self._windows = np.zeros(0, f"V{n_bytes}")
        if len(addresses):
            memory = memoryview((ctypes.c_char * n_bytes).from_address(first))
            window = np.frombuffer(memory, f"V{n_bytes}")
            self._windows = as_strided(window, (int(self._at.max()) + 1,), (step,), writeable=False)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: Array | slice | int) -> Floats:
        """The vectors `[.., dim]` at the positions `which [..]`, in the stored dtype."""
        at = np.asarray(self._at[which])
        return self._windows[at.ravel()].view(self.dtype).reshape(*at.shape, self.shape[1])

    def close(self) -> None:
        """Make every later access an IndexError, because the mapping becomes invalid."""
        self._windows = self._windows[:0]
