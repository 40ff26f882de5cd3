"""Reads the users to recommend for, and writes recommendations, as parquet or CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from loid_infer.data.canonical import arrow_errors
from loid_infer.data.columns import plain
from loid_infer.data.pairs import check_suffix, clean_ids, open_rows
from loid_infer.data.values import clean_id
from loid_infer.errors import BadTable

_OUT = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("rank", pa.int32()),
        ("score", pa.float32()),
        ("known", pa.string()),
        ("title", pa.string()),
    ]
)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)


@dataclass(frozen=True, slots=True)
class UserRows:
    """Users in the order of their file."""

    user_ids: Sequence[str]  # [n]
    histories: Sequence[Sequence[str] | None] | None  # [n], item ids, the oldest first; None: those of the table


def read_users(path: Path) -> UserRows:
    """Read a parquet or CSV file with `user_id` and optionally `history`: item ids as a list, or separated by spaces.

    An empty history is one without items; a missing one stands for that of the table. Raises BadTable if the file
    cannot be read, a column is missing, or a user is missing.
    """
    fix = "Write parquet, or CSV with a header: user_id and optionally history, item ids separated by spaces."
    with arrow_errors("the users cannot be read", str(path), fix):
        with path.open("rb") as raw:
            is_parquet = raw.read(4) == b"PAR1"
        table = pq.read_table(path) if is_parquet else _csv(path)
    names = table.column_names
    if "user_id" not in names or len({*names}) < len(names):
        what, got = "the column user_id is missing, or a column occurs twice", ", ".join(names)[:200]
        raise BadTable(what, where=str(path), expected="user_id and optionally history", got=got, fix=fix)
    users = clean_ids(path, table.column("user_id").combine_chunks(), "user_id", 0)
    if "history" not in table.column_names:
        return UserRows(users, None)
    column = plain(table.column("history").combine_chunks())
    is_list = any(is_type(column.type) for is_type in _LISTS)
    if not (is_list or any(is_type(column.type) for is_type in _TEXTS)):
        raise BadTable("the histories are not lists of items", where=str(path), got=str(column.type), fix=fix)
    return UserRows(users, [_items(path, row, value) for row, value in enumerate(column.to_pylist(), 1)])


def _items(path: Path, row: int, value: Any) -> list[str] | None:
    try:
        return None if value is None else [clean_id("item", item) for item in _split(value)]
    except BadTable as fault:
        where, fix = f"{path}, row {row}, history", "Correct the history, or leave it out."
        raise BadTable(fault.what, where=where, expected=fault.expected, got=fault.got, fix=fix) from None


def _split(value: Any) -> Sequence[Any]:
    return value.split() if isinstance(value, str) else value


def _csv(path: Path) -> Any:
    """All columns as text; a missing value is empty, not one of the words that may be an id."""
    parse = pacsv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    with pacsv.open_csv(path, parse_options=parse) as reader:
        types = dict.fromkeys(reader.schema.names, pa.string())
    convert = pacsv.ConvertOptions(column_types=types, null_values=[])
    return pacsv.read_csv(path, parse_options=parse, convert_options=convert)


@contextmanager
def write_recommendations(out: Path) -> Iterator[Callable[..., None]]:
    """Yield a function that appends columns: user and item ids, ranks, scores, values of `known`, and titles.

    The suffix of `out` decides the format. `out` is replaced when the block succeeds. Raises BadSetting if it has
    another suffix or is a folder, and NoSpace if it cannot be written.
    """
    check_suffix(out, "recommendations.parquet")
    with open_rows(out, _OUT) as writer:

        def write(*columns: Sequence[Any]) -> None:
            writer.write_table(pa.table([pa.array(column) for column in columns], names=_OUT.names).cast(_OUT))

        yield write
