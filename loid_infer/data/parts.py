"""Files of texts that other processes compute: parquet with the columns digest and text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from loid_infer.data.canonical import arrow_errors
from loid_infer.data.corpora import digests_of
from loid_infer.errors import BadTable
from loid_infer.types import DIGEST_BYTES, Digests

_SCHEMA = pa.schema([("digest", pa.binary(DIGEST_BYTES)), ("text", pa.string())])
_FIX = "Run the same command again."


def write_texts(path: Path, texts: Sequence[str]) -> None:
    """Write `texts [n]` with their digests."""
    joined = pa.py_buffer(digests_of(texts).tobytes())
    digests = pa.FixedSizeBinaryArray.from_buffers(_SCHEMA.field(0).type, len(texts), [None, joined])
    table = pa.Table.from_arrays([digests, pa.array(texts, pa.string())], schema=_SCHEMA)
    pq.write_table(table, path, compression="zstd")


def read_texts(path: Path) -> tuple[Digests, list[str]]:
    """The digests `[n, 16]` and texts `[n]` of a file of `write_texts`. Raises BadTable if it is damaged."""
    with arrow_errors("the file of texts is damaged", str(path), _FIX):
        texts = pq.read_table(path, schema=_SCHEMA, columns=["digest", "text"])
    digests = np.frombuffer(b"".join(texts.column("digest").to_pylist()), np.uint8).reshape(-1, DIGEST_BYTES)
    strings: list[str] = texts.column("text").to_pylist()
    if not np.array_equal(digests, digests_of(strings)):
        raise BadTable("the file of texts is damaged", where=str(path), fix=_FIX)
    return digests, strings
