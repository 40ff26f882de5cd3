"""Reads, validates and writes JSON as typed records."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from loid_infer.errors import BadArtifact, LoidError

T = TypeVar("T")
_LARGEST = 1e15
_MESSAGE = re.compile(
    r"Expected (?P<expected>.+?)(, got (?P<got>.+))?|Object (?P<problem>missing|contains).* field (?P<field>.+)"
)


def decode(
    source: Path | str | bytes,
    schema: type[T],
    fix: str,
    *,
    where: str = "",
    error: type[LoidError] = BadArtifact,
    finite: bool = False,
) -> T:
    """Parse a JSON file (a path) or text into a record.

    Args:
        schema: a `msgspec.Struct` or any other type that msgspec supports.
        fix: instruction for the error message.
        where: name of the source for the error message, by default the path.
        finite: read numbers that are not finite or beyond 1e15 as None.

    Raises:
        error: it cannot be read, is not JSON, or does not match the schema.
    """
    where = where or str(source)
    hooks: dict[str, Any] = {"parse_constant": float, "parse_float": float, "parse_int": int}
    if finite:
        hooks = {name: partial(_finite, number) for name, number in hooks.items()}
    try:
        # Not msgspec's parser: it rejects NaN and lone surrogates, which Python writes.
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        value = json.loads(text, **hooks)
    except (OSError, ValueError, RecursionError) as problem:
        reason = (problem.strerror if isinstance(problem, OSError) else str(problem)) or type(problem).__name__
        name = source.name if isinstance(source, Path) else "the content"
        raise error(f"{name} cannot be read: {reason}", where=where, fix=fix) from problem
    return typed(value, schema, fix, where=where, error=error)


def typed(value: object, schema: type[T], fix: str, *, where: str, error: type[LoidError] = BadArtifact) -> T:
    """Convert `value` (dictionaries, lists, strings, numbers) to a record.

    Raises:
        error: a field is missing, of another type, out of range, or forbidden; the message names it.
    """
    try:
        return msgspec.convert(value, schema)
    except ValueError as problem:
        message, _, path = str(problem).replace("`", "").partition(" - at ")
        match = _MESSAGE.fullmatch(message)
        parts = match.groupdict() if match else {"got": message}
        if parts.get("problem"):
            missing = parts["problem"] == "missing"
            parts |= {"expected": "a value" if missing else "no such field", "got": "nothing" if missing else "one"}
        field = ".".join(filter(None, (path.removeprefix("$").removeprefix("."), parts.get("field"))))
        what = f"the field {field} is invalid" if field else "the content is invalid"
        expected, got = parts.get("expected") or "", parts.get("got") or ""
        raise error(what, where=where, expected=expected, got=got[:80], fix=fix) from problem


def narrowed(record: object, schema: type[T]) -> T:
    """Convert a record or dictionary to `schema`, dropping other fields. numpy scalars become Python numbers."""
    return msgspec.convert(msgspec.to_builtins(record, enc_hook=_number), schema)


def to_json(record: object, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """A record as JSON. Floats keep every bit; numpy scalars are allowed."""
    return json.dumps(msgspec.to_builtins(record, enc_hook=_number), indent=indent, sort_keys=sort_keys)


def _number(value: Any) -> Any:
    return value.item()


def _finite(number: Callable[[str], float], text: str) -> float | None:
    value = number(text)
    return value if abs(value) < _LARGEST else None
