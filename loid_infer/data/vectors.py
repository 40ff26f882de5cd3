"""Exports vectors as parquet (with ids), or as a safetensors bundle that another workspace can import.

A bundle is of a table, or a shard of one: some texts of any corpus, with vectors in the stored dtype.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from msgspec import Struct, convert, structs
from safetensors import SafetensorError, safe_open

from loid_infer.artifact import new_file
from loid_infer.data.reviews import ReviewTable
from loid_infer.errors import BadArtifact, BadTable
from loid_infer.records import to_json
from loid_infer.types import DIGEST_BYTES, Digests, Floats, Ints

SUFFIXES = (".parquet", ".safetensors")
_PIECE_ROWS = 8_192
_WHOLE_BYTES = 128 << 20  # a bundle of no more is read once
_XXH3 = "xxh3-128:"
_DTYPES = {"<f4": "F32", "<f2": "F16"}  # numpy's names and those of safetensors


def export_vectors(
    table: ReviewTable, digests: Digests, vectors: Callable[[Ints], Floats], dim: int, out: Path, spec: str
) -> None:
    """Write the vector of every review, in table order, as float32.

    `.parquet`: columns `user_id, item_id, row, vector`, the vector a fixed-size list. `.safetensors`: tensors `digests
    [n_rows, 16]` and `vectors [n_rows, dim]` whose row i is row i of the table, with the table's domain and digest, the
    encoder's spec and a digest of both tensors as metadata. Raises NoSpace if `out` cannot be written.

    `digests [n_rows, 16]` are in table order; `vectors` returns the vectors `[m, dim]` of the row numbers `[m]`; `out`
    has one of `SUFFIXES`; `spec` is the encoder's, as JSON.
    """

    def piece(rows: Ints) -> Floats:
        part = np.ascontiguousarray(vectors(rows), "<f4")
        if part.shape != (len(rows), dim):
            raise ValueError(f"expected vectors of shape {(len(rows), dim)}, got {part.shape}")
        return part

    with new_file(out) as temporary:
        if out.suffix == ".parquet":
            _write_parquet(table, piece, dim, temporary)
        else:
            metadata = BundleMetadata(table.domain, table.digest, spec, _XXH3 + "0" * 32)
            n, starts = table.n_rows, _starts(table.n_rows)
            pieces = (piece(np.arange(start, min(start + _PIECE_ROWS, n))) for start in starts)
            _write_bundle(temporary, metadata, digests, dim, np.dtype("<f4"), pieces)


def write_shard(path: Path, spec: str, digests: Digests, vectors: Floats) -> None:
    """Write `vectors [n, dim]` in the stored dtype, float16 or float32, of the texts with `digests [n, 16]`."""
    _write_bundle(
        path, BundleMetadata("", "", spec, _XXH3 + "0" * 32), digests, vectors.shape[1], vectors.dtype, [vectors]
    )


def _write_parquet(table: ReviewTable, vectors: Callable[[Ints], Floats], dim: int, path: Path) -> None:
    ids = ["user_id", "item_id"]
    fields = [*((name, pa.string()) for name in ids), ("row", pa.int64()), ("vector", pa.list_(pa.float32(), dim))]
    schema = pa.schema(fields)
    # A dictionary of float vectors would only cost time.
    with (
        pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=ids) as writer,
        pq.ParquetFile(table.path) as source,
    ):
        start = 0
        for names in source.iter_batches(batch_size=_PIECE_ROWS, columns=ids):
            rows = np.arange(start, min(start + names.num_rows, table.n_rows))
            lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors(rows).reshape(-1)), dim)
            start += names.num_rows
            if start > table.n_rows:
                break
            writer.write_batch(pa.record_batch([*names.columns, pa.array(rows), lists], schema=schema))
    if start != table.n_rows:
        raise BadTable("the table changed while being read", where=str(table.path), fix="Run the same command again.")


def _starts(n_rows: int) -> range:
    return range(0, n_rows, _PIECE_ROWS)


def _write_bundle(
    path: Path, metadata: BundleMetadata, digests: Digests, dim: int, dtype: Any, pieces: Iterable[Floats]
) -> None:
    # A safetensors file is 8 bytes of header length, a JSON header and the raw tensors, so it can be streamed.
    n, digests = len(digests), np.ascontiguousarray(digests)
    end = digests.nbytes + n * dim * dtype.itemsize
    tensors = {
        "digests": {"dtype": "U8", "shape": [n, DIGEST_BYTES], "data_offsets": [0, digests.nbytes]},
        "vectors": {"dtype": _DTYPES[dtype.str], "shape": [n, dim], "data_offsets": [digests.nbytes, end]},
    }
    content_hash = xxhash.xxh3_128(digests.data)
    with path.open("w+b") as file:
        file.write(_header(metadata, tensors) + digests.tobytes())
        for piece in pieces:
            content = np.ascontiguousarray(piece, dtype).data
            content_hash.update(content)
            file.write(content)
        file.seek(0)
        file.write(_header(structs.replace(metadata, content=_XXH3 + content_hash.hexdigest()), tensors))


def _header(metadata: BundleMetadata, tensors: dict[str, Any]) -> bytes:
    header = to_json({"__metadata__": metadata, **tensors}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


class BundleMetadata(Struct, frozen=True):
    """The metadata of a bundle."""

    domain: str  # empty in a shard
    table_digest: str
    card: str  # the spec, as JSON
    content: str  # checksum of both tensors; blake2b-128 in earlier versions


class Bundle:
    """An exported safetensors file whose content has been verified. A context manager."""

    def __init__(self, path: Path) -> None:
        """Open the file and compare its content with its digest. Raises BadArtifact if it is invalid."""
        try:
            self._file = cast(Any, safe_open(path, "np"))
            metadata = convert(self._file.metadata() or {}, BundleMetadata)
            self.spec, self.domain = metadata.card, metadata.domain
            self.digests: Digests = self._file.get_tensor("digests")
            self._vectors = self._file.get_slice("vectors")
            n, self.dim = self._vectors.get_shape()
            self._whole = self._vectors[:] if path.stat().st_size <= _WHOLE_BYTES else None
            valid = self.digests.shape == (n, DIGEST_BYTES) and self.digests.dtype == np.uint8
            valid = valid and self._vectors.get_dtype() in _DTYPES.values()
            if not (valid and self._content(metadata.content) == metadata.content):
                raise ValueError("the content has changed since the export")
        except (OSError, SafetensorError, ValueError) as error:
            what = f"not a valid bundle of vectors: {str(error) or type(error).__name__}"
            fix = "Export it again: loid-infer cache export --domain D OUT.safetensors"
            raise BadArtifact(what, where=str(path), fix=fix) from error

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *exc: object) -> None:
        del self._vectors, self._file

    def vectors(self, start: int, end: int) -> Floats:
        """Rows `start` to `end`, `[m, dim]`, float32 or float16."""
        source = self._vectors if self._whole is None else self._whole
        return np.asarray(source[start : min(end, len(self.digests))])

    def _content(self, expected: str) -> str:
        """The checksum, of the kind of the expected one."""
        is_new = expected.startswith(_XXH3)
        content: Any = xxhash.xxh3_128() if is_new else hashlib.blake2b(digest_size=16)
        content.update(np.ascontiguousarray(self.digests).data)
        for start in _starts(len(self.digests)):
            content.update(np.ascontiguousarray(self.vectors(start, start + _PIECE_ROWS)).data)
        return f"{_XXH3 if is_new else ''}{content.hexdigest()}"
