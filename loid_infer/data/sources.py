"""Reads checked rows of reviews, interactions or items from source files, and rejects or skips bad lines."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, TypeAlias

import orjson
import pyarrow.parquet as pq

from loid_infer.data.canonical import MAX_GROUP_CHARS, MAX_GROUP_ROWS, arrow_errors
from loid_infer.data.columns import plain, times
from loid_infer.data.compression import READ_FAULTS, cut, open_bytes
from loid_infer.data.delimited import DelimitedReader
from loid_infer.data.formats import HEADLESS, Source
from loid_infer.data.jsonlines import exact, parse_line
from loid_infer.data.kinds import CLICKS, INTERACTIONS, ITEMS, REVIEWS, Check
from loid_infer.data.movielens import fields_of
from loid_infer.data.values import bad, is_missing, to_rating
from loid_infer.errors import BadTable

_SKIP = "Correct it, or skip bad lines with --on-bad skip."

# Line number and unchecked values in the order of the kind's columns; or number, error, and the number of bad lines.
_Row: TypeAlias = tuple[int, Sequence[Any]] | tuple[int, BadTable, int]


@dataclass(slots=True)
class SourceBatch:
    """Checked rows of one source, at most one row group."""

    numbers: list[int] = field(default_factory=list)  # first line of each row (for parquet, the row), from 1
    cells: list[Any] = field(default_factory=list)  # of all rows one after the other, as `Check` gives them
    n_skipped: int = 0  # bad lines skipped since the previous batch
    first_skipped: BadTable | None = None
    n_cleaned_ids: int = 0  # rows in which the text of an id was changed, see `clean_id`
    position: int = 0  # bytes of the file read so far

    @property
    def columns(self) -> list[list[Any]]:
        """The rows as columns. There must be rows."""
        width = len(self.cells) // len(self.numbers)
        return [self.cells[k::width] for k in range(width)]


def read_source(source: Source, check: Check, *, skip_bad: bool) -> Iterator[SourceBatch]:
    """The rows of one file in order. The last batch may have no rows.

    Raises BadTable for a bad line unless `skip_bad`, a missing column, or a truncated file.
    """
    readers = {"parquet": _parquet_rows, "csv": _csv_rows, "tsv": _csv_rows, HEADLESS: _headless_rows}
    n_ids, texts, position = source.kind.n_ids, source.kind.texts, [0]
    last = n_ids - 1
    batch, n_chars = SourceBatch(), 0
    for row in readers.get(source.format, _json_rows)(source, position):
        try:
            if len(row) == 3:
                raise row[1]
            number, values = row
            checked = check(values)
        except BadTable as fault:
            located = _located(source, row[0], fault, skip_bad)
            if not skip_bad:
                raise located from None
            batch.n_skipped += row[2] if len(row) == 3 else 1
            batch.first_skipped = batch.first_skipped or located
            continue
        is_same = checked[0] is values[0] and checked[last] is values[last]
        if not is_same and any(map(_changed, checked[:n_ids], values)):
            batch.n_cleaned_ids += 1
        batch.numbers.append(number)
        batch.cells += checked
        for k in texts:
            n_chars += len(checked[k])
        if len(batch.numbers) == MAX_GROUP_ROWS or n_chars >= MAX_GROUP_CHARS:
            batch.position = position[0]
            yield batch
            batch, n_chars = SourceBatch(), 0
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
    names, last = [*source.names.values()], source.kind.n_ids - 1
    # In Amazon 2023 the item is `parent_asin`, else `asin`.
    is_2023 = source.names["item_id"] == "parent_asin" and "item_id" not in source.overrides
    item_else, at = "asin" if is_2023 else "", names.index(source.names["item_id"])
    # None of the first records may lack a column that is needed.
    _check_columns(source, source.keys, {"parent_asin"} if item_else and item_else in source.keys else set())
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
                values = [*map(get, names)]
                if item_else and not values[at]:
                    values[at] = get(item_else)
                if type(values[0]) is float or type(values[last]) is float:
                    values[0], values[last] = exact(line, record, values[0]), exact(line, record, values[last])
                yield number, values
                if not number & 1023:
                    position[0] = raw.tell()
        except READ_FAULTS as error:
            raise cut(source.path, number, error) from error


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
            indices = _column_indices(source, header)
            pick, padded = itemgetter(*indices), -1 in indices
            for entry in reader.batches(len(header), _row_test(source, indices)):
                if len(entry) == 3:
                    number = entry[0]
                    yield entry
                    continue
                for number, row in zip(*entry, strict=True):
                    yield number, pick([*row, None] if padded else row)  # the last one is that of absent columns
                position[0] = raw.tell()
        except READ_FAULTS as error:
            raise cut(source.path, max(number - 1, 0), error) from error


def _row_test(source: Source, indices: Sequence[int]) -> Callable[[Sequence[str]], bool]:
    """What tells whether the fields of a line look like a row, be it a bad one."""
    needed = {
        name: k
        for name, k in zip(source.names, indices, strict=True)
        if name in source.kind.required and name != "text"
    }

    def is_row(fields: Sequence[str]) -> bool:
        found = [fields[k].strip(' "') if name == "rating" else fields[k] for name, k in needed.items()]
        prose = all(fields[k][:1] == " " for k in needed.values() if k)  # as in: one, two, 3
        if prose or found.count("") > 1:
            return False
        if source.kind is not REVIEWS:
            ids = "".join(found[: source.kind.n_ids])
            return bool(ids) and not any(map(str.isspace, ids)) and any(map(str.isdigit, ids))
        with suppress(BadTable):
            to_rating(found[2], -math.inf, math.inf)
            return True
        return is_missing(found[2])

    return is_row


def _headless_rows(source: Source, position: list[int]) -> Iterator[_Row]:
    indices = _column_indices(source, source.keys)
    with open_bytes(source.path) as (raw, content):
        number = 0
        try:
            for number, fields in enumerate(fields_of(content, source.delimiter), 1):
                if len(fields) == len(source.keys):
                    yield number, [fields[k] if k >= 0 else None for k in indices]
                elif any(fields):
                    yield number, bad("the number of fields differs", str(len(source.keys)), len(fields)), 1
                if not number & 1023:
                    position[0] = raw.tell()
        except READ_FAULTS as error:
            raise cut(source.path, number, error) from error


def _column_indices(source: Source, header: Sequence[str]) -> list[int]:
    """Index of each canonical column in the header; -1 for one that is missing."""
    names = source.names
    _check_columns(source, header)
    twice = [name for name in names.values() if header.count(name) > 1]
    if twice:
        fix = "Rename one of them, or map another column with --columns."
        raise BadTable(f"the column {twice[0]} occurs twice", where=str(source.path), got=_listed(header), fix=fix)
    return [header.index(name) if name in header else -1 for name in names.values()]


def _check_columns(source: Source, got: Sequence[str], implied: AbstractSet[str] = frozenset()) -> None:
    needed = [key for key in source.names if key in source.kind.required or key in source.overrides]
    missing = [key for key in needed if source.names[key] not in {*got, *implied}]
    if missing:
        raise _missing(source, str(source.path), missing, got)
    if source.kind is ITEMS and {"parent_asin", "user_id", "text"} <= {*got} and "title" not in source.overrides:
        what, fix = "Amazon's reviews, whose titles are those of reviews", "Give the metadata, meta_*.jsonl."
        raise BadTable(what, where=str(source.path), expected="a title of each item", got=_listed(got), fix=fix)
    if source.kind in (INTERACTIONS, CLICKS) and not {source.names["timestamp"], source.names["position"]} & {*got}:
        what = "there is neither a timestamp nor a position, so the order of the interactions is unknown"
        fix = "Name the column of one of them: --columns timestamp=NAME or --columns position=NAME"
        raise BadTable(what, where=str(source.path), got=_listed(got), fix=fix)


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
        found = {key: name for (key, name), at in zip(source.names.items(), indices, strict=True) if at >= 0}
        for group in file.iter_batches(batch_size=4096, columns=[*found.values()]):
            columns = [
                (times if key == "timestamp" else _values)(group.column(found[key]))
                if key in found
                else [None] * group.num_rows
                for key in source.names
            ]
            for number, values in enumerate(zip(*columns, strict=True), number + 1):  # noqa: B020
                yield number, values
            position[0] = source.n_bytes * number // n_rows


def _values(column: Any) -> list[Any]:
    return list(plain(column).to_pylist())
