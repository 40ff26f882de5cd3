"""Reads pairs to score in batches and writes them with their scores, as parquet or CSV. Other columns are kept."""

from __future__ import annotations

import csv
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
from loid_infer.errors import BadSetting, BadTable
from loid_infer.types import Floats

MAX_BATCH_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs in input order."""

    user_ids: Sequence[str]  # [m]
    item_ids: Sequence[str]  # [m]
    domains: Sequence[str] | None  # [m]
    ratings: Floats | None  # [m], float32, NaN if missing
    rows: Any  # Arrow RecordBatch of m rows with all columns of the input, for `write_scores`

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.user_ids)


@dataclass(frozen=True, slots=True)
class PairSource:
    """A file of pairs, opened by `read_pairs`."""

    path: Path
    format: str  # parquet | csv
    schema: Any  # Arrow schema of the rows of every batch

    @property
    def has_domain(self) -> bool:
        """Whether there is a column `domain`."""
        return "domain" in self.schema.names

    def batches(self) -> Iterator[Pairs]:
        """The pairs in order, at most 65,536 at a time. Can be called repeatedly.

        Raises BadTable for a null or empty id, a rating that is not a number, or a damaged file.
        """
        start = 0
        with arrow_errors("the file is damaged", str(self.path), "Write it again, completely and in UTF-8."):
            for batch in self._record_batches():
                for first in range(0, batch.num_rows, MAX_BATCH_ROWS):
                    piece = batch.slice(first, MAX_BATCH_ROWS)
                    yield _pairs(self.path, piece, start)
                    start += piece.num_rows

    def _record_batches(self) -> Iterator[Any]:
        if self.format == "parquet":
            with pq.ParquetFile(self.path) as file:
                yield from file.iter_batches(batch_size=MAX_BATCH_ROWS)
        else:
            # Columns are read as text, so that they are written unchanged (007 is not 7).
            convert = pacsv.ConvertOptions(column_types={name: pa.string() for name in self.schema.names})
            parse = pacsv.ParseOptions(newlines_in_values=True)
            with pacsv.open_csv(self.path, parse_options=parse, convert_options=convert) as reader:
                yield from reader


def read_pairs(path: Path) -> PairSource:
    """Open a file of pairs, parquet or CSV by its content.

    Columns are `user_id`, `item_id`, optionally `domain` and `rating`, and any others. Raises BadTable if the file
    cannot be read, has another format, or a column is missing or repeated.
    """
    fix = "Check the path, or write the pairs as parquet or CSV in UTF-8."
    with arrow_errors("the file cannot be read", str(path), fix):
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        if is_parquet:
            schema = pq.read_schema(path).remove_metadata()
        else:
            with path.open(encoding="utf-8-sig", newline="") as text:
                names = next(csv.reader(text), [])
            schema = pa.schema([(name, pa.string()) for name in names])
    names = schema.names
    absent = [name for name in ("user_id", "item_id") if name not in names]
    if absent or len(set(names)) < len(names) or {"score", "known"} & set(names):
        what, expected = "a column occurs twice, or is named score or known like those that are added", ""
        if absent:
            what = f"columns are missing: {', '.join(absent)}"
            expected = "parquet, or CSV with a header: user_id,item_id and optionally domain,rating"
        got = repr(", ".join(names)[:200]) if names else "no columns"
        raise BadTable(what, where=str(path), expected=expected, got=got, fix="Rename the columns, or add the header.")
    return PairSource(path, "parquet" if is_parquet else "csv", schema)


@contextmanager
def write_scores(source: PairSource, out: Path) -> Iterator[Callable[[Pairs, Floats, Sequence[str]], None]]:
    """Yield a function that appends a batch: pairs, scores `[m]`, and the values of the column `known` `[m]`.

    The suffix of `out` (`.parquet` or `.csv`) decides the format. `out` is replaced when the block succeeds. Raises
    BadSetting if it has another suffix or is a folder or the file of pairs, and NoSpace if it cannot be written.
    """
    suffix = out.suffix.lower()
    if suffix not in (".parquet", ".csv"):
        fix = "Use one of these suffixes, as in --out scores.parquet"
        raise BadSetting("unknown format", where=str(out), expected=".parquet or .csv", got=repr(suffix), fix=fix)
    if out.is_dir() or out.resolve() == source.path.resolve():
        what = f"scores cannot replace {'a folder' if out.is_dir() else 'the file of pairs'}"
        raise BadSetting(what, where=str(out), fix="Name another file with --out.")
    added = [pa.field("score", pa.float32()), pa.field("known", pa.string())]
    schema = pa.schema([*source.schema, *added])
    open_writer = pacsv.CSVWriter if suffix == ".csv" else partial(pq.ParquetWriter, compression="zstd")
    with new_file(out) as temporary, open_writer(temporary, schema) as writer:

        def write(pairs: Pairs, scores: Floats, known: Sequence[str]) -> None:
            columns = [*pairs.rows.columns, pa.array(scores, pa.float32()), pa.array(known, pa.string())]
            writer.write_table(pa.table(columns, schema=schema))

        yield write


def _pairs(path: Path, rows: Any, start: int) -> Pairs:
    names = rows.schema.names
    users, items = (_strings(path, rows.column(name), name, start) for name in ("user_id", "item_id"))
    domains = _strings(path, rows.column("domain"), "domain", start) if "domain" in names else None
    ratings = _ratings(path, rows.column("rating"), start) if "rating" in names else None
    return Pairs(users, items, domains, ratings, rows)


def _strings(path: Path, column: Any, name: str, start: int) -> list[str]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        what = f"the column {name} is {kind}, not text or integers"
        raise BadTable(what, where=str(path), fix="Cast the column to text.")
    column = column.cast(kind).cast(pa.string())
    bad = pc.fill_null(pc.equal(pc.binary_length(column), 0), True)
    if pc.any(bad).as_py():
        row = start + pc.index(bad, True).as_py() + 1
        raise BadTable(f"the {name} is null or empty", where=f"{path}, row {row}", fix="Remove such rows.")
    return list(column.to_pylist())


def _ratings(path: Path, column: Any, start: int) -> Floats:
    if pa.types.is_string(column.type):
        column = pc.replace_with_mask(column, pc.equal(column, ""), pa.scalar(None, pa.string()))
    where = f"{path}, rows {start + 1} to {start + len(column)}"
    fix = "Correct the column rating, or remove it to score without errors."
    with arrow_errors("a rating is not a number", where, fix):
        numbers = column.cast(pa.float32(), safe=False)
    return np.asarray(pc.fill_null(numbers, np.nan).to_numpy())
