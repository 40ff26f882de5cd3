"""Hands vectors out of the store as files others read: parquet with the ids, or safetensors; and takes the latter in.

A safetensors file is a bundle another workspace can import: beside the vectors lie the digests of their texts and, as
metadata, the spec of their encoder and a digest of all that. This file knows no store: it is given a function from row
numbers to vectors, and a spec is text to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from loid_infer.artifact import new_file
from loid_infer.data.reviews import ReviewTable
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.types import DIGEST_BYTES, Digests, Floats, Ints

FORMATS = ("parquet", "safetensors")
_PIECE_ROWS = 8_192


@dataclass(frozen=True, slots=True)
class Described:
    """What a bundle says of its vectors."""

    digests: Digests  # [n, 16], of the texts, in table order
    spec: str  # of the encoder, as JSON


def export_vectors(
    table: ReviewTable, vectors: Callable[[Ints], Floats], dim: int, out: Path, fmt: str, described: Described
) -> None:
    """Write the vector of every review, in table order, as float32, piece by piece.

    `parquet`: columns `user_id, item_id, row, vector`, the vector a fixed-size list. `safetensors`: tensors `digests
    [n_rows, 16]` and `vectors [n_rows, dim]` whose row i is row i of the table, with the table's domain and digest, the
    encoder's spec and a digest of both tensors as metadata.

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
        if fmt == "parquet":
            _write_parquet(table, vectors, dim, temporary)
        else:
            _write_safetensors(table, vectors, dim, temporary, described)


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


def _write_safetensors(
    table: ReviewTable, vectors: Callable[[Ints], Floats], dim: int, path: Path, described: Described
) -> None:
    # The format is eight bytes of header length, a JSON header and the raw tensors, so it can be streamed.
    n, digests = table.n_rows, np.ascontiguousarray(described.digests)
    tensors = {
        "digests": {"dtype": "U8", "shape": [n, DIGEST_BYTES], "data_offsets": [0, digests.nbytes]},
        "vectors": {"dtype": "F32", "shape": [n, dim], "data_offsets": [digests.nbytes, digests.nbytes + n * dim * 4]},
    }
    metadata = {"domain": table.domain, "table_digest": table.digest, "card": described.spec, "content": "0" * 32}
    found = hashlib.blake2b(digests.data, digest_size=16)
    with path.open("w+b") as file:
        file.write(_header(metadata, tensors) + digests.tobytes())
        for _, piece in _pieces(table, vectors, dim):
            content = piece.astype("<f4", copy=False).data
            found.update(content)
            file.write(content)
        file.seek(0)
        file.write(_header(metadata | {"content": found.hexdigest()}, tensors))


def _header(metadata: dict[str, str], tensors: dict[str, Any]) -> bytes:
    header = json.dumps({"__metadata__": metadata, **tensors}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


class Bundle:
    """An exported safetensors file, whole and unaltered. Use as a context."""

    def __init__(self, path: Path) -> None:
        """Open it and compare all of it with the digest it carries.

        Raises:
            BadArtifact: not such a file, or not as it was exported.
        """
        try:
            self._file = cast(Any, safe_open(path, "np"))
            metadata = self._file.metadata() or {}
            self.spec, self.domain = metadata["card"], metadata["domain"]
            self.digests: Digests = self._file.get_tensor("digests")
            self._vectors = self._file.get_slice("vectors")
            n, self.dim = self._vectors.get_shape()
            sound = self.digests.shape == (n, DIGEST_BYTES) and self.digests.dtype == np.uint8
            sound = sound and self._vectors.get_dtype() == "F32" and self._content() == metadata["content"]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise _no_bundle(path, str(error) or type(error).__name__) from error
        if not sound:
            raise _no_bundle(path, "other content than was exported")

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *exc: object) -> None:
        del self._vectors, self._file

    def vectors(self, start: int, end: int) -> Floats:
        """Rows `start` to `end`, `[m, dim]` float32."""
        rows: Floats = self._vectors[start : min(end, len(self.digests))]
        return rows

    def _content(self) -> str:
        found = hashlib.blake2b(np.ascontiguousarray(self.digests).data, digest_size=16)
        for start in range(0, len(self.digests), _PIECE_ROWS):
            found.update(np.ascontiguousarray(self.vectors(start, start + _PIECE_ROWS)).data)
        return found.hexdigest()


def _no_bundle(path: Path, got: str) -> BadArtifact:
    return BadArtifact("not a bundle of vectors", where=str(path), got=got,
                       expected="a file that `loid-infer cache export` wrote with the ending .safetensors",
                       mend="Export it again: loid-infer cache export --domain D OUT.safetensors")  # fmt: skip
