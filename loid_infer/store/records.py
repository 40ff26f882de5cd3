"""The binary format of a chunk: header, digests of the rows, and a contiguous matrix of vectors.

    magic 8 | checksum 8 | format 4 | rows 4 | dim 4 | dtype 4 | first row 8 | fingerprint 16 | reserved 8
    digests [rows, 16]
    vectors [rows, dim]

Little-endian; the header is 64 bytes and the digests 16 each, so the matrix stays 16-byte aligned within the record.
The checksum is xxh3-64 of everything that follows it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

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
        start: int = self.vectors.__array_interface__["data"][0]
        return start + self.vectors.strides[0] * np.arange(len(self.vectors))


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
    """Parse and check a record.

    Args:
        first_row: expected first row; None: any, and `record` may be longer than the chunk.
        where: location of the chunk for the error message.
        check: whether to compare the checksum.

    Raises:
        BadStore: the record is damaged, or of another format, spec or position.
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
