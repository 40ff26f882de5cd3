"""Arrow columns of the types that parquet files have, as columns of few types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from loid_infer.data.values import MAX_SECONDS
from loid_infer.errors import BadTable

_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)


def plain(column: Any) -> Any:
    """An Arrow array without dictionaries, views and extension types."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == "arrow.uuid":
            return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
        return plain(column.storage)
    if pa.types.is_dictionary(kind):
        return plain(column.dictionary_decode())
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if pa.types.is_binary_view(kind):
        return column.cast(pa.large_binary())
    return column


def times(column: Any) -> list[Any]:
    """The values of a column of timestamps; dates and times of Arrow as whole seconds since 1970.

    Those that `to_seconds` would take for milliseconds, like the year 9999, are given as text.
    """
    column = plain(column)
    if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        return list(column.to_pylist())
    zone = getattr(column.type, "tz", None)
    seconds = column.cast(pa.timestamp("s", zone), safe=False).cast(pa.int64()).to_pylist()
    return [value if value is None or abs(value) < MAX_SECONDS else str(np.datetime64(value, "s")) for value in seconds]


def for_csv(column: Any, name: str = "") -> Any:
    """An Arrow array of a type that pyarrow writes as CSV, if there is one. Raises BadTable for bytes not in UTF-8."""
    column = plain(column)
    if not any(is_type(column.type) for is_type in _BINARY):
        return column
    try:
        return column.cast(pa.large_binary()).cast(pa.large_string())
    except pa.ArrowInvalid:
        fix = "Write parquet: --out scores.parquet"
        raise BadTable(f"CSV cannot hold the bytes of column {name}, which are not UTF-8", fix=fix) from None
