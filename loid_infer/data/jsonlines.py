"""Parses lines of JSON as lenient writers write them, and dictionaries that Python printed."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from itertools import accumulate
from typing import Any

import orjson

from loid_infer.data.values import bad, bad_encoding
from loid_infer.errors import BadTable

# Limits of a literal of Python, without which its parser may take all memory or overflow the stack of the process.
MAX_LITERAL_CHARS = 1 << 24
_MAX_SYNTAX_CHARS = 1 << 18  # of all but its strings
_MAX_NESTING = 50  # of brackets
_STRING = re.compile(r"'[^'\\]*+(?:\\.[^'\\]*+)*+'?|\"[^\"\\]*+(?:\\.[^\"\\]*+)*+\"?", re.DOTALL)
# Words between brackets, commas and colons. A string is written as $.
_WORD = r"(?:[uUbBrR]{0,2}\$|True|False|None|[-+]?\.?\d[\w.+-]{0,99})?"
_SYNTAX = re.compile(rf"(?:{_WORD}[][(){{}},:])*+{_WORD}")
_NO_BRACKETS = re.compile(r"[^][(){}]+")
_LITERAL = re.compile(r"\{\s*[uU]?'")  # how one starts that is no JSON
_CALL = re.compile(r"[\w$)}\]][\[({]")  # and an index
_MAX_EXACT_FLOAT = 2.0**53  # orjson gives whole numbers beyond 64 bits as rounded floats


def parse_line(line: bytes) -> Any:
    """The value of a line that orjson rejects: NaN and infinity, control characters within strings, lone surrogates
    (which become U+FFFD), a byte order mark, or a literal of Python.

    No code runs. Raises BadTable with the reason for other lines, among them literals beyond the limits above.
    """
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise bad_encoding(line[error.start : error.start + 20]) from None
    try:
        return _without_surrogates(json.loads(text, strict=False))
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        if text.startswith("{"):
            fault = _literal_fault(text)
            if fault and _LITERAL.match(text):
                reason = f"as a literal of Python it is {fault}"
            errors = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)
            with warnings.catch_warnings(), suppress(*errors):
                warnings.simplefilter("ignore")  # invalid escapes of a literal
                if not fault:
                    return _without_surrogates(ast.literal_eval(text))
        raise bad(f"not JSON: {reason}", "one JSON object", text) from None


def _literal_fault(text: str) -> str:
    """Why a literal cannot be parsed safely; empty if it can."""
    if len(text) > MAX_LITERAL_CHARS:
        return f"longer than {MAX_LITERAL_CHARS:,} characters"
    syntax = "".join(_STRING.sub("$", text).split())
    if len(syntax) > _MAX_SYNTAX_CHARS:
        return f"longer than {_MAX_SYNTAX_CHARS:,} characters without its strings"
    if _CALL.search(syntax) or not _SYNTAX.fullmatch(syntax):
        return "more than texts, numbers, lists and dictionaries"
    steps = (1 if mark in "[({" else -1 for mark in _NO_BRACKETS.sub("", syntax))
    return f"nested more than {_MAX_NESTING} levels deep" if max(accumulate(steps)) > _MAX_NESTING else ""


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
