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
_POINTER = b"version https://git-lfs"  # how a file starts that git-lfs has not downloaded
_MAX_HEADER = 100_000_000  # bytes; the limit of safetensors
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
        name = "the content"
        if isinstance(source, Path):
            name, reason = source.name, file_fault(source) or reason
        raise error(f"{name} cannot be read: {reason}", where=where, fix=fix) from problem
    return typed(value, schema, fix, where=where, error=error)


def file_fault(path: Path) -> str:
    """Why a file that a library cannot read is not what its name says, as a clause; empty if that is unknown."""
    try:
        with path.open("rb") as file:
            start, n_bytes = file.read(len(_POINTER)), path.stat().st_size
            if start == _POINTER:
                return "it is a git-lfs pointer, which `git lfs pull` replaces by the file"
            if path.suffix != ".safetensors" or not start:
                return "" if start else "it is empty"
            file.seek(8)  # after the length of the header
            n_header = int.from_bytes(start[:8], "little")
            header = json.loads(file.read(n_header)) if n_header < min(_MAX_HEADER, n_bytes) else {}
        n_wanted = (
            8 + n_header + max((part["data_offsets"][1] for part in header.values() if "dtype" in part), default=0)
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    is_cut = n_bytes < n_wanted and n_header < _MAX_HEADER
    return f"it is cut short, {n_bytes:,} bytes of at least {n_wanted:,}" if is_cut else ""


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
