"""Parses lines of JSON as lenient writers write them, and dictionaries that Python printed."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson

from loid_infer.data.values import bad, bad_encoding
from loid_infer.errors import BadTable

_MAX_EXACT_FLOAT = 2.0**53  # orjson gives whole numbers beyond 64 bits as rounded floats


def parse_line(line: bytes) -> Any:
    """The value of a line that orjson rejects: NaN and infinity, control characters within strings, lone surrogates
    (which become U+FFFD), a byte order mark, or a literal of Python.

    No code runs. Raises BadTable with the reason for other lines.
    """
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise bad_encoding(line[error.start : error.start + 20]) from None
    try:
        return _without_surrogates(json.loads(text, strict=False))
    except (ValueError, RecursionError) as error:
        if text.startswith("{"):
            with warnings.catch_warnings(), suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                warnings.simplefilter("ignore")  # invalid escapes of a literal
                return _without_surrogates(ast.literal_eval(text))
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise bad(f"not JSON: {reason}", "one JSON object", text) from None


def _without_surrogates(value: Any) -> Any:
    encoded = json.dumps(value, ensure_ascii=False).encode("utf-16-le", "surrogatepass")
    return json.loads(encoded.decode("utf-16-le", "replace"))


def record_of(line: bytes) -> dict[str, Any] | None:
    """The object of a line, or None if it has none."""
    if line.lstrip(b" \t\xef\xbb\xbf")[:1] != b"{":
        return None
    try:
        record = orjson.loads(line)
    except ValueError:
        try:
            record = parse_line(line)
        except BadTable:
            return None
    return record if isinstance(record, dict) else None


def exact(line: bytes, record: Mapping[str, Any], value: object) -> object:
    """A whole number that orjson has rounded, as it is written in the line."""
    if type(value) is not float or not abs(value) >= _MAX_EXACT_FLOAT:
        return value
    key = next(key for key in record if record[key] is value)
    return parse_line(line)[key]
