"""Reads checked reviews from source files of any format as batches, and rejects or skips bad lines."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson
import pyarrow.parquet as pq

from loid_infer.data.canonical import MAX_GROUP_CHARS, MAX_GROUP_ROWS, arrow_errors
from loid_infer.data.columns import plain, times
from loid_infer.data.compression import READ_FAULTS, cut, open_bytes
from loid_infer.data.dates import Dates
from loid_infer.data.delimited import DelimitedReader
from loid_infer.data.formats import Source
from loid_infer.data.jsonlines import exact, parse_line
from loid_infer.data.values import bad, clean_id, is_missing, to_rating, to_seconds, to_text
from loid_infer.errors import BadTable

_SKIP = "Correct it, or skip bad lines with --on-bad skip."

# Line number, then unchecked user, item, rating, text and timestamp; or the error, and the number of bad lines.
_Row: TypeAlias = tuple[int, Any, Any, Any, Any, Any] | tuple[int, BadTable, int]


@dataclass(slots=True)
class SourceBatch:
    """Checked reviews of one source, at most one row group."""

    numbers: list[int] = field(default_factory=list)  # first line of each review (for parquet, the row), from 1
    # User ids, item ids, ratings, texts, and seconds since 1970 or None.
    columns: tuple[list[str], list[str], list[float], list[str], list[int | None]] = field(
        default_factory=lambda: ([], [], [], [], [])
    )
    n_skipped: int = 0  # bad lines skipped since the previous batch
    first_skipped: BadTable | None = None
    n_cleaned_ids: int = 0  # rows in which the text of an id was changed, see `clean_id`
    position: int = 0  # bytes of the file read so far


def read_source(source: Source, *, skip_bad: bool, rating_range: tuple[float, float]) -> Iterator[SourceBatch]:
    """The reviews of one file in order. The last batch may have no rows.

    Raises BadTable for a bad line unless `skip_bad`, a missing column, or a truncated file.
    """
    reader = {"parquet": _parquet_rows, "csv": _csv_rows, "tsv": _csv_rows}.get(source.format, _json_rows)
    (low, high), dates, position = rating_range, Dates(), [0]
    batch, n_chars = SourceBatch(), 0
    users, items, ratings, texts, times = batch.columns
    for row in reader(source, position):
        try:
            if len(row) == 3:
                raise row[1]
            number, user, item, rating, text, time = row
            user_id, item_id, text = clean_id("user", user), clean_id("item", item), to_text(text)
            rating, time = to_rating(rating, low, high), to_seconds(time, dates)
        except BadTable as fault:
            located = _located(source, row[0], fault, skip_bad)
            if not skip_bad:
                raise located from None
            batch.n_skipped += row[2] if len(row) == 3 else 1
            batch.first_skipped = batch.first_skipped or located
            continue
        if (user_id is not user or item_id is not item) and (_changed(user_id, user) or _changed(item_id, item)):
            batch.n_cleaned_ids += 1
        batch.numbers.append(number)
        users.append(user_id)
        items.append(item_id)
        ratings.append(rating)
        texts.append(text)
        times.append(time)
        n_chars += len(text)
        if len(users) == MAX_GROUP_ROWS or n_chars >= MAX_GROUP_CHARS:
            batch.position = position[0]
            yield batch
            batch, n_chars = SourceBatch(), 0
            users, items, ratings, texts, times = batch.columns
    batch.position = source.n_bytes
    yield batch


def _changed(clean: str, value: object) -> bool:
    return isinstance(value, str) and clean != value


def _located(source: Source, number: int, fault: BadTable, skip_bad: bool) -> BadTable:
    where, fix = location(source, number), f"{fault.fix} {'' if skip_bad else _SKIP}".strip()
    return BadTable(fault.what, where=where, expected=fault.expected, got=fault.got, fix=fix)


def location(source: Source, number: int) -> str:
    """The location of a line or row for error messages."""
    return f"{source.path}, row {number}" if source.format == "parquet" else f"{source.path}:{number}"


def _json_rows(source: Source, position: list[int]) -> Iterator[_Row]:
    user, item, rating, text, time = source.names.values()
    # In Amazon 2023 the item is `parent_asin`, else `asin`.
    item_else = "asin" if source.format == "amazon2023" and "item_id" not in source.overrides else ""
    _check_keys(source, item_else)
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
                        record = parse_line(line)
                    except BadTable as fault:
                        yield number, fault, 1
                        continue
                if type(record) is not dict:
                    yield number, bad("not a JSON object", 'an object like {"user_id": ...}', record), 1
                    continue
                get = record.get
                user_id, item_id = get(user), get(item)
                if item_else and not item_id:
                    item_id = get(item_else)
                if type(user_id) is float or type(item_id) is float:
                    user_id, item_id = exact(line, record, user_id), exact(line, record, item_id)
                yield number, user_id, item_id, get(rating), get(text), get(time)
                if not number & 1023:
                    position[0] = raw.tell()
        except READ_FAULTS as error:
            raise cut(source.path, number, error) from error


def _check_keys(source: Source, item_else: str) -> None:
    """Raise BadTable if none of the first records has the user, the item, the rating or the text."""
    _check_columns(source, source.keys, {source.names["item_id"]} if item_else and item_else in source.keys else set())


def _csv_rows(source: Source, position: list[int]) -> Iterator[_Row]:
    number = 0
    with open_bytes(source.path) as (raw, content):
        reader = DelimitedReader(content, source.delimiter, source.quoting)
        try:
            try:
                header = reader.header()
            except csv.Error as error:
                what = f"the header is not {source.format.upper()}: {error}"
                fix = "Give the format with --format, or correct the first line."
                raise BadTable(what, where=str(source.path), fix=fix) from error
            user, item, rating, text, time = _column_indices(source, header)

            def is_review(fields: Sequence[str]) -> bool:
                found = [fields[user], fields[item], fields[rating].strip(' "')]
                prose = all(fields[k][:1] == " " for k in (user, item, rating) if k)  # as in: one, two, 3
                if prose or found.count("") > 1:
                    return False
                with suppress(BadTable):
                    to_rating(found[2], -math.inf, math.inf)
                    return True
                return is_missing(found[2])

            for entry in reader.batches(len(header), is_review):
                if len(entry) == 3:
                    number = entry[0]
                    yield entry
                    continue
                for number, row in zip(*entry, strict=True):
                    yield number, row[user], row[item], row[rating], row[text], row[time] if time >= 0 else None
                position[0] = raw.tell()
        except READ_FAULTS as error:
            raise cut(source.path, max(number - 1, 0), error) from error


def _column_indices(source: Source, header: Sequence[str]) -> list[int]:
    """Index of each canonical column in the header; -1 for a missing timestamp."""
    names = source.names
    _check_columns(source, header)
    twice = [name for name in names.values() if header.count(name) > 1]
    if twice:
        fix = "Rename one of them, or map another column with --columns."
        raise BadTable(f"the column {twice[0]} occurs twice", where=str(source.path), got=_listed(header), fix=fix)
    return [header.index(name) if name in header else -1 for name in names.values()]


def _check_columns(source: Source, got: Sequence[str], implied: AbstractSet[str] = frozenset()) -> None:
    needed = [key for key in source.names if key != "timestamp" or key in source.overrides]
    missing = [key for key in needed if source.names[key] not in {*got, *implied}]
    if missing:
        raise _missing(source, str(source.path), missing, got)


def _missing(source: Source, where: str, missing: list[str], got: Sequence[str]) -> BadTable:
    names = [source.names[key] for key in missing]
    expected = ", ".join(names)
    folders = [part for part in source.path.parts if "=" in part and part.partition("=")[0] in names]
    if folders:
        what = f"a column is in the name of a folder, {folders[0]}, and not in the file"
        fix = "Write one file with all columns, for example with pandas.read_parquet(FOLDER).to_parquet(FILE)."
        return BadTable(what, where=where, expected=expected, got=_listed(got), fix=fix)
    if source.delimiter and any(re.fullmatch(r"[\d.]+", name) for name in got):
        what, fix = "the first line is a row instead of a header", "Add a line with the names of the columns."
        return BadTable(what, where=where, expected=expected, got=_listed(got), fix=fix)
    mapping = {**source.overrides, **dict.fromkeys(missing, "NAME")}
    fix = "Map the columns: --columns " + ",".join(f"{key}={name}" for key, name in mapping.items())
    return BadTable("columns are missing", where=where, expected=expected, got=_listed(got), fix=fix)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)[:200]


def _parquet_rows(source: Source, position: list[int]) -> Iterator[_Row]:
    number, what = 0, "the parquet file is truncated or damaged"
    again = "Download or write it again."
    with (
        arrow_errors(what, str(source.path), again),
        pq.ParquetFile(source.path, coerce_int96_timestamp_unit="us") as file,
    ):
        n_rows = max(file.metadata.num_rows, 1)
        indices = _column_indices(source, file.schema_arrow.names)
        names = [name for name, at in zip(source.names.values(), indices, strict=True) if at >= 0]
        for group in file.iter_batches(batch_size=4096, columns=names):
            columns = [plain(group.column(name)).to_pylist() for name in names[:4]]
            columns.append(times(group.column(names[4])) if len(names) == len(indices) else [None] * group.num_rows)
            for number, values in enumerate(zip(*columns, strict=True), number + 1):  # noqa: B020
                yield (number, *values)
            position[0] = source.n_bytes * number // n_rows
