"""Hands vectors out of the store as files others read: parquet with the ids, or safetensors.

This file knows no store: it is given a function from row numbers to vectors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from loid_infer.artifact import new_file
from loid_infer.data.reviews import ReviewTable
from loid_infer.errors import BadSetting
from loid_infer.types import Floats, Ints

FORMATS = ("parquet", "safetensors")
_PIECE_ROWS = 8_192


def export_vectors(table: ReviewTable, vectors: Callable[[Ints], Floats], dim: int, out: Path, fmt: str) -> None:
    """Write the vector of every review, in table order, as float32, piece by piece.

    `parquet`: columns `user_id, item_id, row, vector`, the vector a fixed-size list. `safetensors`: one tensor
    `vectors [n_rows, dim]` whose row i is row i of the table, with the table's domain and digest as metadata.

    Args:
        vectors: row numbers `[m]` -> vectors `[m, dim]`.

    Raises:
        BadSetting: another `fmt`.
        NoSpace: the disk is full or the folder not writable.
    """
    if fmt not in FORMATS:
        raise BadSetting("unknown format of vectors", where=str(out), expected=" or ".join(FORMATS), got=repr(fmt),
                         mend="Name a file that ends in .parquet or .safetensors.")  # fmt: skip
    with new_file(out) as temporary:
        (_write_parquet if fmt == "parquet" else _write_safetensors)(table, vectors, dim, temporary)


def _pieces(table: ReviewTable, vectors: Callable[[Ints], Floats], dim: int) -> Iterator[tuple[Ints, Floats]]:
    for start in range(0, table.n_rows, _PIECE_ROWS):
        rows = np.arange(start, min(start + _PIECE_ROWS, table.n_rows))
        piece = np.ascontiguousarray(vectors(rows), np.float32)
        if piece.shape != (len(rows), dim):
            raise ValueError(f"expected vectors of shape {(len(rows), dim)}, got {piece.shape}")
        yield rows, piece


def _write_parquet(table: ReviewTable, vectors: Callable[[Ints], Floats], dim: int, path: Path) -> None:
    kinds = [("user_id", pa.string()), ("item_id", pa.string()), ("row", pa.int64()),
             ("vector", pa.list_(pa.float32(), dim))]  # fmt: skip
    schema = pa.schema(kinds)
    # Float vectors do not compress; a dictionary of them would only cost time.
    with (
        pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=["user_id", "item_id"]) as writer,
        pq.ParquetFile(table.path) as source,
    ):
        ids = source.iter_batches(batch_size=_PIECE_ROWS, columns=["user_id", "item_id"])
        pieces = _pieces(table, vectors, dim)
        held = pa.table({name: pa.array([], pa.string()) for name in ("user_id", "item_id")})
        for rows, piece in pieces:
            while held.num_rows < len(rows):  # a batch of ids may end with its row group
                held = pa.concat_tables([held, pa.Table.from_batches([next(ids)])])
            now, held = held.slice(0, len(rows)).combine_chunks(), held.slice(len(rows))
            lists = pa.FixedSizeListArray.from_arrays(pa.array(piece.reshape(-1)), dim)
            columns = [now.column("user_id"), now.column("item_id"), pa.array(rows, pa.int64()), lists]
            writer.write_table(pa.table(columns, schema=schema))


def _write_safetensors(table: ReviewTable, vectors: Callable[[Ints], Floats], dim: int, path: Path) -> None:
    # The format is eight bytes of header length, a JSON header and the raw tensors, so it can be streamed.
    tensor = {"dtype": "F32", "shape": [table.n_rows, dim], "data_offsets": [0, table.n_rows * dim * 4]}
    metadata = {"domain": table.domain, "table_digest": table.digest}
    header = json.dumps({"__metadata__": metadata, "vectors": tensor}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _, piece in _pieces(table, vectors, dim):
            file.write(piece.astype("<f4", copy=False).data)
