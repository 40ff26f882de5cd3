"""Writes tables with a digest of their content, first of all the canonical one of a domain, `data/D.parquet`."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
INTERACTION_FORMAT = "interactions-1"
CLICK_FORMAT = "clicks-1"
ITEM_FORMAT = "items-1"
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
    digest: str  # see `RowWriter.digest`
    n_rows: int
    n_users: int
    n_items: int
    n_empty_text: int
    rating_range: tuple[float, float]
    html_unescaped: bool | None = None
    text_template: str | None = None
    synthetic: bool = False


class InteractionFacts(Struct, frozen=True, kw_only=True):
    """Metadata of a table of interactions without ratings and texts."""

    format: str  # INTERACTION_FORMAT
    digest: str  # see `RowWriter.digest`
    n_rows: int
    n_users: int
    n_items: int
    n_tied_times: int  # rows whose user has another one of the same time and position


class ClickFacts(Struct, frozen=True, kw_only=True):
    """Metadata of a table of labeled pairs."""

    format: str  # CLICK_FORMAT
    digest: str  # see `RowWriter.digest`
    n_rows: int
    n_users: int
    n_items: int
    n_positive: int
    n_valid: int  # rows of the parts that the source has; 0: it has none
    n_test: int


class ItemFacts(Struct, frozen=True, kw_only=True):
    """Metadata of a table of items."""

    format: str  # ITEM_FORMAT
    digest: str  # see `RowWriter.digest`
    n_items: int
    n_untitled: int
    n_markup: int  # of the untitled, those whose only title was HTML or a script
    n_repeated: int  # items with a title that another one has, too


class RowWriter:
    """Writes row groups of a schema of strings, float32 and int64, and computes the digest of their content."""

    def __init__(self, parquet: Any, schema: Any) -> None:
        self._parquet, self._schema = parquet, schema
        self._hashes = {name: hashlib.sha256() for name in schema.names}
        self._length_hashes = {field.name: hashlib.sha256() for field in schema if field.type == pa.string()}
        self.n_rows = 0
        self.n_empty_text = 0
        self.n_null = dict.fromkeys(schema.names, 0)
        self.times: tuple[int, int] | None = None  # the first and the last timestamp
        self.counts: dict[str, Counter[Any]] = {name: Counter() for name in ("label", "split")}  # of values

    def write(self, columns: Sequence[Sequence[Any]]) -> None:
        """Append checked rows, as columns in the order of the schema, as one row group."""
        self.write_named(dict(zip(self._schema.names, columns, strict=True)))

    def write_named(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """The same of columns by name, of which those of the schema are taken."""
        named = {name: columns[name] for name in self._schema.names}
        self.write_group(pa.RecordBatch.from_pydict(named, schema=self._schema))

    def write_group(self, group: Any) -> None:
        """Append an Arrow RecordBatch of the schema as one row group, unless it is empty."""
        if not group.num_rows:
            return
        self._parquet.write_table(pa.Table.from_batches([group]), row_group_size=group.num_rows)
        for name, column in zip(self._schema.names, group.columns, strict=True):
            self.n_null[name] += column.null_count
            if name in self._length_hashes:
                lengths, content = string_parts(column)
                self._length_hashes[name].update(np.diff(lengths).astype("<i8"))
                self._hashes[name].update(content)
            elif column.type == pa.float32():
                self._hashes[name].update(column.to_numpy().astype("<f4"))
            else:
                self._hashes[name].update(column.fill_null(NO_TIME).to_numpy().astype("<i8"))
        self.n_rows += group.num_rows
        if "text" in self._hashes:
            self.n_empty_text += int(np.count_nonzero(blank(group.column("text"))))
        for name in self._hashes.keys() & self.counts:
            self.counts[name].update(group.column(name).to_pylist())
        if "timestamp" in self._hashes:
            first, last = pc.min_max(group.column("timestamp")).as_py().values()
            if first is not None:
                before = self.times or (first, last)
                self.times = (min(first, before[0]), max(last, before[1]))

    def digest(self, form: Mapping[str, object]) -> str:
        """Digest of `form` and of all rows in order, independent of row groups, 64 hex digits.

        Each column is hashed as one stream, lengths and contents of strings separately, so the hash input is
        unambiguous. `form` names the format and what else decides the meaning of the rows.
        """
        parts = {
            **form,
            "n_rows": self.n_rows,
            "columns": {name: value.hexdigest() for name, value in self._hashes.items()},
            "lengths": {name: value.hexdigest() for name, value in self._length_hashes.items()},
        }
        return digest_json(parts)

    def finish(self, facts: Struct) -> None:
        """Write the file's metadata."""
        self._parquet.add_key_value_metadata({METADATA_KEY: to_json(facts, sort_keys=True)})


@contextmanager
def row_writer(path: Path, schema: Any) -> Iterator[RowWriter]:
    """A writer of the new table `path`, which is complete when the block succeeds."""
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as parquet:
        yield RowWriter(parquet, schema)


def finish_reviews(
    writer: RowWriter, *, n_users: int, n_items: int, rating_range: tuple[float, float], synthetic: bool = False
) -> TableFacts:
    """Write the metadata of a table of reviews, of `SCHEMA`."""
    facts = TableFacts(
        format=TABLE_FORMAT,
        digest=writer.digest({"format": TABLE_FORMAT, "html_unescaped": True}),
        n_rows=writer.n_rows,
        n_users=n_users,
        n_items=n_items,
        n_empty_text=writer.n_empty_text,
        rating_range=rating_range,
        html_unescaped=True,
        text_template="text",
        synthetic=synthetic,
    )
    writer.finish(facts)
    return facts


def finish_interactions(writer: RowWriter, *, n_users: int, n_items: int, n_tied_times: int) -> InteractionFacts:
    """Write the metadata of a table of interactions."""
    facts = InteractionFacts(
        format=INTERACTION_FORMAT,
        digest=writer.digest({"format": INTERACTION_FORMAT}),
        n_rows=writer.n_rows,
        n_users=n_users,
        n_items=n_items,
        n_tied_times=n_tied_times,
    )
    writer.finish(facts)
    return facts


def finish_clicks(writer: RowWriter, *, n_users: int, n_items: int) -> ClickFacts:
    """Write the metadata of a table of labeled pairs."""
    facts = ClickFacts(
        format=CLICK_FORMAT,
        digest=writer.digest({"format": CLICK_FORMAT}),
        n_rows=writer.n_rows,
        n_users=n_users,
        n_items=n_items,
        n_positive=writer.counts["label"][1],
        n_valid=writer.counts["split"]["valid"],
        n_test=writer.counts["split"]["test"],
    )
    writer.finish(facts)
    return facts


def filter_table(source: Path, keep: Bools, writer: RowWriter) -> None:
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
