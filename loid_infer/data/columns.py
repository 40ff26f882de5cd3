"""Arrow columns of the types that parquet files have, as columns of few types."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def plain(column: Any) -> Any:
    """An Arrow array without dictionaries, views and extension types; dates and times as int64 seconds since 1970."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == "arrow.uuid":
            return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
        return plain(column.storage)
    if pa.types.is_dictionary(kind):
        return plain(column.dictionary_decode())
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return column.cast(pa.timestamp("s", getattr(kind, "tz", None)), safe=False).cast(pa.int64())
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    return column


def for_csv(column: Any) -> Any:
    """An Arrow array of a type that pyarrow can write as CSV, if there is one."""
    unsupported = isinstance(column.type, pa.BaseExtensionType) or pa.types.is_string_view(column.type)
    return plain(column) if unsupported else column
