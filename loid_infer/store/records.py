"""The bytes of a chunk: header, the rows' digests, one contiguous matrix of vectors.

    magic 8 | checksum 8 | format 4 | rows 4 | dim 4 | dtype 4 | first row 8 | fingerprint 16 | reserved 8
    digests [rows, 16]
    vectors [rows, dim]

Little-endian; the header is 64 bytes and the digests 16 each, so the matrix stays 16-byte aligned within the record.
The checksum is xxh3-64 of everything that follows it. This file knows neither LMDB nor where a record lies.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from loid_infer.errors import BadStore
from loid_infer.types import DIGEST_BYTES, Array, Digests, Floats

FORMAT = 1
DTYPES: dict[str, np.dtype[Any]] = {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4")}

MAGIC = b"LOIDCHNK"
MEND = "Run `loid-infer cache salvage`: it keeps what is sound. `loid-infer encode` then computes the rest."
_HEADER = struct.Struct("<8sQIIIIQ16s8x")
_DTYPE_CODES = {"fp16": 1, "fp32": 2}
_CHECKED_FROM = 16  # magic and the checksum itself


@dataclass(frozen=True, slots=True)
class Chunk:
    """One record as arrays over the record's own memory: valid as long as the buffer they were read from."""

    first_row: int
    digests: Digests  # [rows, 16]
    vectors: Floats  # [rows, dim], stored dtype

    @property
    def n_bytes(self) -> int:
        """Of the record."""
        return _HEADER.size + self.digests.nbytes + self.vectors.nbytes


def pack(first_row: int, digests: Digests, vectors: Floats, fingerprint: str) -> bytearray:
    """The record of `vectors [rows, dim]` (float16 or float32) and their `digests [rows, 16]`.

    Raises:
        ValueError: shapes or dtype do not fit together; a bug of the caller.
    """
    rows, dim = vectors.shape
    dtype = next((name for name, kind in DTYPES.items() if vectors.dtype == kind), None)
    if dtype is None or digests.shape != (rows, DIGEST_BYTES) or digests.dtype != np.uint8 or rows == 0:
        raise ValueError(f"cannot pack vectors {vectors.dtype} {vectors.shape} with digests {digests.shape}")
    record = bytearray(_HEADER.size + digests.nbytes + vectors.nbytes)
    body = memoryview(record)
    body[_HEADER.size : _HEADER.size + digests.nbytes] = np.ascontiguousarray(digests).reshape(-1).data
    body[_HEADER.size + digests.nbytes :] = np.ascontiguousarray(vectors).reshape(-1).view(np.uint8).data
    fields = (FORMAT, rows, dim, _DTYPE_CODES[dtype], first_row, bytes.fromhex(fingerprint))
    _HEADER.pack_into(record, 0, MAGIC, 0, *fields)
    _HEADER.pack_into(record, 0, MAGIC, xxhash.xxh3_64_intdigest(body[_CHECKED_FROM:]), *fields)
    return record


def unpack(record: memoryview, fingerprint: str, *, first_row: int, check: bool, where: str) -> Chunk:
    """The chunk in `record`, its sizes compared with the record's length before anything else is believed.

    Args:
        fingerprint: of the spec the reader asks for.
        first_row: where the record was found.
        check: whether to compute the checksum.
        where: the chunk's place, for the message.

    Raises:
        BadStore: the record is damaged, of another format, of another spec, or lies in the wrong place.
    """
    if len(record) < _HEADER.size:
        raise _damaged("the record is shorter than its header", where, f"{_HEADER.size} bytes", f"{len(record)} bytes")
    magic, checksum, version, rows, dim, code, found_row, found_print = _HEADER.unpack_from(record)
    if magic != MAGIC:
        raise _damaged("not a chunk record", where, repr(MAGIC), repr(magic))
    if version != FORMAT:
        raise _damaged("a chunk of another format", where, str(FORMAT), str(version))
    dtype = next((DTYPES[name] for name, known in _DTYPE_CODES.items() if known == code), None)
    if dtype is None:
        raise _damaged("an unknown dtype", where, "1 (fp16) or 2 (fp32)", str(code))
    size = _HEADER.size + rows * (DIGEST_BYTES + dim * dtype.itemsize)
    if len(record) != size or rows == 0:
        raise _damaged("the record's size contradicts its header", where, f"{size} bytes", f"{len(record)} bytes")
    if check and xxhash.xxh3_64_intdigest(record[_CHECKED_FROM:]) != checksum:
        raise _damaged("the checksum does not match", where, f"{checksum:016x}", "other bytes")
    if found_print.hex() != fingerprint:
        raise _damaged("a chunk of another encoder", where, fingerprint, found_print.hex())
    if found_row != first_row:
        raise _damaged("a chunk in another's place", where, f"row {first_row}", f"row {found_row}")
    middle = _HEADER.size + rows * DIGEST_BYTES
    digests: Array = np.frombuffer(record[_HEADER.size : middle], np.uint8).reshape(rows, DIGEST_BYTES)
    vectors: Array = np.frombuffer(record[middle:], dtype).reshape(rows, dim)
    return Chunk(first_row, digests, vectors)


def unpack_at(content: memoryview, start: int, fingerprint: str, where: str) -> Chunk:
    """The chunk that begins at byte `start` of `content`, its checksum computed; it tells itself how long it is.

    Raises:
        BadStore: see `unpack`.
    """
    head = content[start : start + _HEADER.size]
    if len(head) < _HEADER.size:
        raise _damaged("the record is shorter than its header", where, f"{_HEADER.size} bytes", f"{len(head)} bytes")
    _, _, _, rows, dim, code, first_row, _ = _HEADER.unpack(head)
    dtype = next((DTYPES[name] for name, known in _DTYPE_CODES.items() if known == code), DTYPES["fp32"])
    end = start + _HEADER.size + rows * (DIGEST_BYTES + dim * dtype.itemsize)
    return unpack(content[start:end], fingerprint, first_row=first_row, check=True, where=where)


def _damaged(what: str, where: str, expected: str, got: str) -> BadStore:
    return BadStore(what, where=where, expected=expected, got=got, mend=MEND)
