"""Writes the canonical table of a domain, `data/D.parquet`, with a digest of its content."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec import Struct

from loid_infer.artifact import digest_json
from loid_infer.errors import BadTable
from loid_infer.records import to_json
from loid_infer.types import NO_TIME, Bools

TABLE_FORMAT = 1
METADATA_KEY = b"loid_infer"
MAX_GROUP_ROWS = 65_536
MAX_GROUP_CHARS = 16_000_000  # keeps the texts of a row group far below the 2 GB limit of 32-bit offsets
SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("rating", pa.float32()),
        ("text", pa.string()),
        ("timestamp", pa.int64()),
    ]
)


class TableFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Metadata of a canonical table."""

    format: int
    digest: str  # see `TableWriter.finish`
    n_rows: int
    n_users: int
    n_items: int
    n_empty_text: int
    rating_range: tuple[float, float]
    html_unescaped: bool | None = None
    text_template: str | None = None
    synthetic: bool = False


class TableWriter:
    """Writes row groups and computes the digest of the table."""

    def __init__(self, parquet: Any) -> None:
        self._parquet = parquet
        self._hashes = {name: hashlib.sha256() for name in SCHEMA.names}
        self._length_hashes = {name: hashlib.sha256() for name in ("user_id", "item_id", "text")}
        self.n_rows = 0
        self.n_empty_text = 0
        self.times: tuple[int, int] | None = None  # the first and the last timestamp

    def write(self, columns: Sequence[Sequence[Any]]) -> None:
        """Append checked reviews, as columns in the order of `SCHEMA`, as one row group."""
        named = dict(zip(SCHEMA.names, columns, strict=True))
        self.write_group(pa.RecordBatch.from_pydict(named, schema=SCHEMA))

    def write_group(self, group: Any) -> None:
        """Append an Arrow RecordBatch of the canonical schema as one row group, unless it is empty."""
        if not group.num_rows:
            return
        self._parquet.write_table(pa.Table.from_batches([group]), row_group_size=group.num_rows)
        for name in self._length_hashes:
            lengths, content = string_parts(group.column(name))
            self._length_hashes[name].update(np.diff(lengths).astype("<i8"))
            self._hashes[name].update(content)
        self._hashes["rating"].update(group.column("rating").to_numpy().astype("<f4"))
        first, last = pc.min_max(group.column("timestamp")).as_py().values()
        if first is not None:
            before = self.times or (first, last)
            self.times = (min(first, before[0]), max(last, before[1]))
        times = group.column("timestamp").fill_null(NO_TIME)
        self._hashes["timestamp"].update(times.to_numpy().astype("<i8"))
        self.n_rows += group.num_rows
        self.n_empty_text += int(np.count_nonzero(blank(group.column("text"))))

    def finish(
        self, *, n_users: int, n_items: int, rating_range: tuple[float, float], synthetic: bool = False
    ) -> TableFacts:
        """Write the file's metadata.

        The digest (64 hex digits) covers the format and all rows in order, independent of row groups. Each column is
        hashed as one stream, lengths and contents of strings separately, so the hash input is unambiguous.
        """
        parts = {
            "format": TABLE_FORMAT,
            "html_unescaped": True,
            "n_rows": self.n_rows,
            "columns": {name: value.hexdigest() for name, value in self._hashes.items()},
            "lengths": {name: value.hexdigest() for name, value in self._length_hashes.items()},
        }
        facts = TableFacts(
            format=TABLE_FORMAT,
            digest=digest_json(parts),
            n_rows=self.n_rows,
            n_users=n_users,
            n_items=n_items,
            n_empty_text=self.n_empty_text,
            rating_range=rating_range,
            html_unescaped=True,
            text_template="text",
            synthetic=synthetic,
        )
        self._parquet.add_key_value_metadata({METADATA_KEY: to_json(facts, sort_keys=True)})
        return facts


@contextmanager
def table_writer(path: Path) -> Iterator[TableWriter]:
    """A writer of the new canonical table `path`, which is complete when the block succeeds."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", write_page_checksum=True) as parquet:
        yield TableWriter(parquet)


def filter_table(source: Path, keep: Bools, writer: TableWriter) -> None:
    """Copy the rows of `source` where `keep [n_rows]` is true, one row group at a time."""
    with pq.ParquetFile(source) as file:
        start = 0
        for number in range(file.num_row_groups):
            for group in file.read_row_group(number).to_batches():
                writer.write_group(group.filter(pa.array(keep[start : start + group.num_rows])))
                start += group.num_rows


def string_parts(column: Any) -> tuple[Any, memoryview]:
    """The int32 offsets `[n + 1]`, starting at 0, and the UTF-8 bytes of an Arrow string array, without copying."""
    if not len(column):
        return np.zeros(1, np.int32), memoryview(b"")
    _, offset_buffer, data = column.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[column.offset : column.offset + len(column) + 1]
    return offsets - offsets[0], memoryview(data or b"")[offsets[0] : offsets[-1]]


def blank(column: Any) -> Bools:
    """Which strings of an Arrow string array are empty or white space, `[n]`."""
    empty = pc.equal(pc.binary_length(column), 0)
    return np.asarray(pc.or_(empty, pc.utf8_is_space(column)).to_numpy(zero_copy_only=False))


@contextmanager
def arrow_errors(what: str, where: str, fix: str) -> Iterator[None]:
    """Convert errors of Arrow, of CSV and of the file system to BadTable."""
    try:
        yield
    except (pa.ArrowException, csv.Error, UnicodeDecodeError, OSError) as error:
        reason = (getattr(error, "strerror", "") or str(error)).partition("\n")[0] or type(error).__name__
        raise BadTable(f"{what}: {reason}", where=where, fix=fix) from error
