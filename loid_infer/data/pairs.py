"""Reads pairs to score in batches and writes them with their scores, as parquet or CSV. Other columns are kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from loid_infer.artifact import new_file
from loid_infer.data.canonical import arrow_errors
from loid_infer.data.columns import for_csv, plain
from loid_infer.data.compression import READ_FAULTS, cut, open_bytes
from loid_infer.data.delimited import DelimitedReader, not_utf8
from loid_infer.data.formats import Source, inspect
from loid_infer.data.values import LABELS, MISSING, clean_id
from loid_infer.errors import BadSetting, BadTable
from loid_infer.types import Array, Floats

MAX_BATCH_ROWS = 65_536
_LABELS: dict[str | None, float] = {None: np.nan}
_LABELS |= {text: float(label) for text, label in LABELS.items()}
_LABELS |= dict.fromkeys(map(str.lower, MISSING), np.nan)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs in input order."""

    user_ids: Sequence[str]  # [m]
    item_ids: Sequence[str]  # [m]
    domains: Sequence[str] | None  # [m]
    ratings: Floats | None  # [m], float32, NaN if missing
    labels: Floats | None  # [m], float32, 0 or 1, NaN if missing
    rows: Any  # Arrow RecordBatch of m rows with all columns of the input, for `write_scores`
    path: Path
    first_row: int  # number of the first pair in the file

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.user_ids)


@dataclass(frozen=True, slots=True)
class PairSource:
    """A file of pairs, opened by `read_pairs`."""

    source: Source
    schema: Any  # Arrow schema of the rows of every batch
    label: str | None  # the column of labels

    @property
    def path(self) -> Path:
        """The file."""
        return self.source.path

    @property
    def format(self) -> str:
        """The format of the file: parquet, csv or tsv."""
        return self.source.format

    @property
    def default_out(self) -> Path:
        """The file of scores beside the pairs, parquet or CSV like them."""
        name = re.sub(r"\.(gz|zst|bz2|xz|zip)$", "", self.path.name)
        return self.path.with_name(f"{Path(name).stem}.scores.{'parquet' if self.format == 'parquet' else 'csv'}")

    @property
    def has_domain(self) -> bool:
        """Whether there is a column `domain`."""
        return "domain" in self.schema.names

    def batches(self) -> Iterator[Pairs]:
        """The pairs in order, at most 65,536 at a time. Can be called repeatedly.

        Raises BadTable for a missing id, a rating that is not a finite number, a label that is not one of two, or a
        damaged file.
        """
        start = 0
        for batch in self._parquet() if self.format == "parquet" else self._delimited():
            for first in range(0, batch.num_rows, MAX_BATCH_ROWS):
                piece = batch.slice(first, MAX_BATCH_ROWS)
                yield _pairs(self.path, piece, start, self.label)
                start += piece.num_rows

    def _parquet(self) -> Iterator[Any]:
        with (
            arrow_errors("the file is damaged", str(self.path), "Write it again, completely."),
            pq.ParquetFile(self.path) as file,
        ):
            yield from file.iter_batches(batch_size=MAX_BATCH_ROWS)

    def _delimited(self) -> Iterator[Any]:
        """Rows of CSV or TSV, all columns as text, so that they are written unchanged (007 is not 7)."""
        user, item = (self.schema.names.index(name) for name in ("user_id", "item_id"))
        columns: list[list[str]] = [[] for _ in self.schema]
        number = 0
        with open_bytes(self.path) as (_, content):
            reader = DelimitedReader(content, self.source.delimiter, self.source.quoting)
            reader.header()
            try:
                for entry in reader.batches(len(columns), lambda fields: _is_pair(fields[user], fields[item])):
                    if len(entry) == 3:
                        raise _located(self.path, entry[0], entry[1])
                    number = entry[0][-1]
                    for column, values in zip(columns, zip(*entry[1], strict=True), strict=True):
                        column.extend(values)
                    if len(columns[0]) >= MAX_BATCH_ROWS:
                        yield self._batch(columns)
                        columns = [[] for _ in self.schema]
            except READ_FAULTS as error:
                raise cut(self.path, max(number - 1, 0), error) from error
        if columns[0]:
            yield self._batch(columns)

    def _batch(self, columns: list[list[str]]) -> Any:
        return pa.RecordBatch.from_arrays([pa.array(column, pa.string()) for column in columns], schema=self.schema)


def _is_pair(user: str, item: str) -> bool:
    """Whether the fields of a line look like ids, of which one may be missing: words without white space."""
    return bool(user or item) and not any(character.isspace() for character in user + item)


def _located(path: Path, number: int, fault: BadTable) -> BadTable:
    fix = fault.fix or "Correct the line."
    return BadTable(fault.what, where=f"{path}:{number}", expected=fault.expected, got=fault.got, fix=fix)


def read_pairs(path: Path, quoting: str = "auto", label: str | None = None) -> PairSource:
    """Open a file of pairs, parquet, CSV or TSV by its content, also compressed.

    Columns are `user_id`, `item_id`, optionally `domain` and `rating`, and any others, of which `label` names one.
    Raises BadTable if the file cannot be read, has another format, or a column is missing or repeated. `quoting`: see
    `DelimitedReader`.
    """
    source = inspect(path, "auto", {}, quoting)
    fix = "Check the path, or write the pairs as parquet or CSV in UTF-8."
    if source is None or source.format not in ("parquet", "csv", "tsv"):
        got = source.format if source else "an empty file"
        raise BadTable("not a table of pairs", where=str(path), expected="parquet, CSV or TSV", got=got, fix=fix)
    with arrow_errors("the file cannot be read", str(path), fix):
        if source.format == "parquet":
            schema = pq.read_schema(path).remove_metadata()
        else:
            with open_bytes(path) as (_, content):
                names = DelimitedReader(content, source.delimiter, source.quoting).header()
            if fault := not_utf8(names):
                raise _located(path, 1, fault)
            schema = pa.schema([(name, pa.string()) for name in names])
    names = schema.names
    absent = [name for name in ("user_id", "item_id", label) if name is not None and name not in names]
    if absent or len(set(names)) < len(names) or {"score", "known"} & set(names):
        what, expected = "a column occurs twice, or is named score or known like those that are added", ""
        if absent:
            what = f"columns are missing: {', '.join(absent)}"
            expected = "parquet, or CSV with a header: user_id,item_id and optionally domain,rating"
        got = repr(", ".join(names)[:200]) if names else "no columns"
        raise BadTable(what, where=str(path), expected=expected, got=got, fix="Rename the columns, or add the header.")
    return PairSource(source, schema, label)


def check_suffix(out: Path, example: str) -> str:
    """The suffix of the output file `out`, which decides its format. Raises BadSetting unless it is parquet or CSV."""
    suffix = out.suffix.lower()
    if suffix not in (".parquet", ".csv"):
        fix = f"Use one of these suffixes, as in --out {example}"
        raise BadSetting("unknown format", where=str(out), expected=".parquet or .csv", got=repr(suffix), fix=fix)
    return suffix


@contextmanager
def open_rows(out: Path, schema: Any) -> Iterator[Any]:
    """A writer of Arrow tables of `schema` to `out`, parquet or CSV by its suffix, which is replaced in the end."""
    open_writer = pacsv.CSVWriter if out.suffix.lower() == ".csv" else partial(pq.ParquetWriter, compression="zstd")
    with new_file(out) as temporary, open_writer(temporary, schema) as writer:
        yield writer


@contextmanager
def write_scores(source: PairSource, out: Path) -> Iterator[Callable[[Pairs, Floats, Array], None]]:
    """Yield a function that appends a batch: pairs, scores `[m]`, and the values of the column `known` `[m]`.

    The suffix of `out` (`.parquet` or `.csv`) decides the format. `out` is replaced when the block succeeds. Raises
    BadSetting if it has another suffix or is a folder or the file of pairs, and NoSpace if it cannot be written.
    """
    suffix = check_suffix(out, "scores.parquet")
    if out.is_dir() or out.resolve() == source.path.resolve():
        what = f"scores cannot replace {'a folder' if out.is_dir() else 'the file of pairs'}"
        raise BadSetting(what, where=str(out), fix="Name another file with --out.")
    convert = for_csv if suffix == ".csv" else _unchanged
    kept = [pa.field(field.name, convert(pa.array([], field.type), field.name).type) for field in source.schema]
    nested = [field.name for field in kept if pa.types.is_nested(field.type)]
    if suffix == ".csv" and nested:
        what, fix = f"CSV cannot hold the nested columns {', '.join(nested)}", "Write parquet: --out scores.parquet"
        raise BadSetting(what, where=str(out), fix=fix)
    schema = pa.schema([*kept, pa.field("score", pa.float32()), pa.field("known", pa.string())])
    with open_rows(out, schema) as writer:

        def write(pairs: Pairs, scores: Floats, known: Array) -> None:
            columns = [
                *map(convert, pairs.rows.columns, source.schema.names),
                pa.array(scores, pa.float32()),
                pa.array(known, pa.string()),
            ]
            writer.write_table(pa.table(columns, schema=schema))

        yield write


def _unchanged(column: Any, name: str) -> Any:
    return column


def _pairs(path: Path, rows: Any, start: int, label: str | None) -> Pairs:
    names = rows.schema.names
    users, items = (clean_ids(path, rows.column(name), name, start) for name in ("user_id", "item_id"))
    domains = clean_ids(path, rows.column("domain"), "domain", start) if "domain" in names else None
    ratings = _ratings(path, rows.column("rating"), start) if "rating" in names else None
    labels = None if label is None else _labels(path, rows.column(label), label, start)
    return Pairs(users, items, domains, ratings, labels, rows, path, start + 1)


def _is_text(column: Any) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _is_missing(column: Any) -> Any:
    return pc.is_in(column, pa.array(sorted(MISSING), column.type))


def clean_ids(path: Path, column: Any, name: str, start: int) -> list[str]:
    """The ids as `ingest` reads them, see `clean_id`."""
    column = plain(column)
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    values: list[Any] = column.to_pylist()
    if _is_text(column):
        clean = pc.and_(pc.string_is_ascii(column), pc.ascii_is_printable(column))
        trimmed = pc.equal(pc.ascii_trim(column, characters=" "), column)
        if pc.all(pc.and_(pc.and_(clean, trimmed), pc.invert(_is_missing(column))), skip_nulls=False).as_py():
            return values
    for row, value in enumerate(values):
        try:
            values[row] = clean_id(name, value)
        except BadTable as fault:
            where, fix = f"{path}, row {start + row + 1}", "Correct or remove such rows."
            raise BadTable(fault.what, where=where, expected=fault.expected, got=fault.got, fix=fix) from None
    return values


def _ratings(path: Path, column: Any, start: int) -> Floats:
    column = plain(column)
    if _is_text(column):
        column = pc.utf8_trim_whitespace(column)
        column = pc.replace_with_mask(column, _is_missing(column), pa.scalar(None, column.type))
    where = f"{path}, rows {start + 1} to {start + len(column)}"
    fix = "Correct the column rating, or remove it to score without errors."
    if pa.types.is_boolean(column.type):
        raise BadTable("the ratings are true or false", where=str(path), expected="numbers", fix=fix)
    with arrow_errors("a rating is not a number", where, fix):
        numbers = np.asarray(pc.fill_null(column.cast(pa.float32(), safe=False), np.nan).to_numpy())
    if np.isinf(numbers).any():
        where = f"{path}, row {start + int(np.argmax(np.isinf(numbers))) + 1}"
        raise BadTable("a rating is infinite", where=where, fix=fix)
    return numbers


def _labels(path: Path, column: Any, name: str, start: int) -> Floats:
    column = plain(column)
    if _is_text(column):
        column = pc.utf8_lower(pc.utf8_trim_whitespace(column))
    texts = column.cast(pa.string()).to_pylist()
    found = np.array([_LABELS.get(text, np.inf) for text in texts], np.float32)
    if np.isinf(found).any():
        row = int(np.argmax(np.isinf(found)))
        what, where = "not a label", f"{path}, row {start + row + 1}, {name}"
        fix = "Correct the column, or leave --label out."
        raise BadTable(what, where=where, expected="1 or 0, true or false", got=repr(texts[row]), fix=fix)
    return found
