"""Reads checked reviews from source files of any format as batches, and rejects or skips bad lines."""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from loid_infer.data.canonical import MAX_GROUP_CHARS, MAX_GROUP_ROWS, arrow_errors
from loid_infer.data.formats import DELIMITERS, READ_FAULTS, Source, cut, open_bytes
from loid_infer.errors import BadTable

_MAX_FIELD_BYTES = 1 << 26  # bounds the damage of a quote that is never closed
_MAX_SECONDS = 100_000_000_000  # the year 5138; detects milliseconds
_SKIP = "Correct the line, or skip bad lines with --on-bad skip."


# Line number, then unchecked user, item, rating, text and timestamp; or the error of the line.
_Row: TypeAlias = tuple[int, Any, Any, Any, Any, Any] | tuple[int, BadTable]


@dataclass(slots=True)
class SourceBatch:
    """Checked reviews of one source, at most one row group."""

    # First line (for parquet, the row), from 1; user, item, rating, text, seconds since 1970.
    rows: list[tuple[int, str, str, float, str, int | None]] = field(default_factory=list)
    n_skipped: int = 0  # bad lines skipped since the previous batch
    position: int = 0  # bytes of the file read so far


def read_source(source: Source, *, skip_bad: bool, rating_range: tuple[float, float]) -> Iterator[SourceBatch]:
    """The reviews of one file in order. The last batch may have no rows.

    Raises BadTable for a bad line unless `skip_bad`, a missing column, or a truncated file.
    """
    reader = {"parquet": _parquet_rows, "csv": _csv_rows, "tsv": _csv_rows}.get(source.format, _json_rows)
    ticks_per_s = 1000 if source.format == "amazon2023" else 1
    position = [0]
    batch, n_chars = SourceBatch(), 0
    for row in reader(source, position):
        try:
            if len(row) == 2:
                raise row[1]
            number, user, item, rating, text, time = row
            ids = _id("user", user), _id("item", item)
            rating, text = _rating(rating, *rating_range), _text(text)
            batch.rows.append((number, *ids, rating, text, _seconds(time, ticks_per_s)))
        except BadTable as bad:
            if not skip_bad:
                where = location(source, row[0])
                raise BadTable(bad.what, where=where, expected=bad.expected, got=bad.got, fix=_SKIP) from None
            batch.n_skipped += 1
            continue
        n_chars += len(text)
        if len(batch.rows) == MAX_GROUP_ROWS or n_chars >= MAX_GROUP_CHARS:
            batch.position = position[0]
            yield batch
            batch, n_chars = SourceBatch(), 0
    batch.position = source.n_bytes
    yield batch


def location(source: Source, number: int) -> str:
    """The location of a line or row for error messages."""
    return f"{source.path}, row {number}" if source.format == "parquet" else f"{source.path}:{number}"


def _json_rows(source: Source, position: list[int]) -> Iterator[_Row]:
    user, item, rating, text, time = source.names.values()
    # In Amazon 2023 the item is `parent_asin`, else `asin`.
    item_else = "asin" if source.format == "amazon2023" and "item_id" not in source.overrides else ""
    text_checked = source.format != "jsonl" and "text" not in source.overrides
    number = 0
    with open_bytes(source.path) as (raw, content):
        try:
            for number, line in enumerate(content, 1):
                try:
                    record = orjson.loads(line)
                except ValueError:
                    if not line.strip():
                        continue
                    try:
                        record = _slow_json(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
                    except BadTable as fault:
                        yield number, fault
                        continue
                if type(record) is not dict:
                    yield number, _bad("not a JSON object", 'an object like {"user_id": ...}', record)
                    continue
                if not text_checked:
                    # A record may lack its text, but if the first one does, the column probably has another name.
                    if text not in record:
                        raise _missing(source, location(source, number), ["text"], list(record))
                    text_checked = True
                get = record.get
                item_id = get(item)
                if item_else and not item_id:
                    item_id = get(item_else)
                yield number, get(user), item_id, get(rating), get(text), get(time)
                if not number & 1023:
                    position[0] = raw.tell()
        except READ_FAULTS as error:
            raise cut(source.path, number, error) from error


def _slow_json(line: bytes) -> Any:
    """Parse a line rejected by orjson: lone surrogates become U+FFFD, other errors raise BadTable with the reason."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise _bad("the line is not UTF-8", "UTF-8", line[error.start : error.start + 20]) from None
    try:
        encoded = json.dumps(json.loads(text), ensure_ascii=False).encode("utf-16-le", "surrogatepass")
        return json.loads(encoded.decode("utf-16-le", "replace"))
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise _bad(f"not JSON: {reason}", "one JSON object", text.rstrip()) from None


def _csv_rows(source: Source, position: list[int]) -> Iterator[_Row]:
    number = 0
    with open_bytes(source.path) as (raw, content):
        csv.field_size_limit(_MAX_FIELD_BYTES)
        # Invalid UTF-8 becomes lone surrogates here and is detected below, line by line.
        lines = io.TextIOWrapper(content, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(lines, delimiter=DELIMITERS[source.format], strict=True)
        try:
            try:
                header = next((row for row in reader if row), [])
            except csv.Error as error:
                what = f"the header is not {source.format.upper()}: {error}"
                fix = "Give the format with --format, or correct the first line."
                raise BadTable(what, where=str(source.path), fix=fix) from error
            user, item, rating, text, time = _column_indices(source, header)
            while True:
                number = reader.line_num + 1
                try:
                    row = next(reader, None)
                except csv.Error as error:
                    yield number, _bad(f"not {source.format.upper()}: {error}")
                    continue
                if row is None:
                    return
                if not row:
                    continue
                if len(row) != len(header):
                    yield number, _bad("the number of fields differs from the header", str(len(header)), len(row))
                    continue
                chosen = (row[user], row[item], row[rating], row[text], row[time] if time >= 0 else None)
                try:
                    "".join(filter(None, chosen)).encode()
                except UnicodeEncodeError:
                    yield number, _bad("the line is not UTF-8", "UTF-8", row)
                    continue
                yield number, *chosen
                if not number & 1023:
                    position[0] = raw.tell()
        except READ_FAULTS as error:
            raise cut(source.path, max(number - 1, 0), error) from error


def _column_indices(source: Source, header: list[str]) -> list[int]:
    """Index of each canonical column in the header; -1 for a missing timestamp."""
    names = source.names
    needed = [key for key in names if key != "timestamp" or key in source.overrides]
    missing = [key for key in needed if names[key] not in header]
    if missing:
        raise _missing(source, str(source.path), missing, header)
    return [header.index(name) if name in header else -1 for name in names.values()]


def _missing(source: Source, where: str, missing: list[str], got: list[str]) -> BadTable:
    expected = ", ".join(source.names[key] for key in missing)
    mapping = {**source.overrides, **dict.fromkeys(missing, "NAME")}
    fix = "Map the columns: --columns " + ",".join(f"{key}={name}" for key, name in mapping.items())
    return BadTable("columns are missing", where=where, expected=expected, got=", ".join(got)[:200], fix=fix)


def _parquet_rows(source: Source, position: list[int]) -> Iterator[_Row]:
    number, what = 0, "the parquet file is truncated or damaged"
    with arrow_errors(what, str(source.path), "Download or write it again."), pq.ParquetFile(source.path) as file:
        n_rows = max(file.metadata.num_rows, 1)
        indices = _column_indices(source, file.schema_arrow.names)
        names = [name for name, at in zip(source.names.values(), indices, strict=True) if at >= 0]
        for group in file.iter_batches(batch_size=4096, columns=names):
            columns = [_values(group.column(name)) for name in names]
            if len(columns) == 4:
                columns.append([None] * group.num_rows)
            for number, values in enumerate(zip(*columns, strict=True), number + 1):  # noqa: B020
                yield (number, *values)
            position[0] = source.n_bytes * number // n_rows


def _values(column: Any) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    return list(column.to_pylist())


def _bad(what: str, expected: str = "", value: object = "") -> BadTable:
    got = value if isinstance(value, str) and not expected else repr(value)
    return BadTable(what, expected=expected, got=got if len(got) <= 80 else got[:77] + "...")


def _id(kind: str, value: object) -> str:
    """A user or item id; integers become decimal strings."""
    if type(value) is int:
        return str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise _bad(f"the {kind} is missing or empty", "an id", value)
    if not isinstance(value, str):
        raise _bad(f"the {kind} is not an id", "text or a whole number", value)
    if "\0" in value:
        raise _bad(f"the {kind} has a null byte", "an id without one", value)
    return value


def _rating(value: object, low: float, high: float) -> float:
    """A rating from `low` to `high`, given as a number or as text."""
    try:
        rating = _number(value)
        if low <= rating <= high:
            return rating
        problem = "outside the range" if math.isfinite(rating) else "not finite"
    except (TypeError, ValueError, OverflowError):
        problem = "missing" if value is None or value == "" else "not a number"
    raise _bad(f"the rating is {problem}", f"a number from {low:g} to {high:g}", value)


def _text(value: object) -> str:
    """A review's text with HTML entities unescaped; empty if missing. Null bytes are kept."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _bad("the text is not text", "text", value)
    return html.unescape(value) if "&" in value else value


def _seconds(value: object, ticks_per_s: int) -> int | None:
    """A timestamp in seconds since 1970, rounded down; None if missing, empty or NaN."""
    if value is None or value == "":
        return None
    try:
        ticks = _number(value)
        if math.isnan(ticks):
            return None
        seconds = math.floor(ticks) // ticks_per_s
    except (TypeError, ValueError, OverflowError):
        raise _bad("the timestamp is not a number", "seconds since 1970, or nothing", value) from None
    if abs(seconds) > _MAX_SECONDS:
        raise _bad("the timestamp is out of bounds, maybe not in seconds", "seconds since 1970, or nothing", value)
    return seconds


def _number(value: Any) -> float:
    # float() accepts 1_000 and True.
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise ValueError
    return float(value)
