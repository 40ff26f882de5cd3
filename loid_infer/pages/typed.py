"""JSON that others wrote, as frozen dataclasses: every field is there and is what its annotation says, or it is told.

This file knows types; it knows no file and no field by name.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from loid_infer.errors import BadArtifact

T = TypeVar("T")
_MOST = 1e15  # of a figure: what is beyond is none, and could not be drawn


def typed(kind: type[T], value: object, where: str) -> T:
    """`value`, as `json.loads` gave it, as the dataclass `kind`. Fields it does not know are left aside.

    A number that is not finite counts as absent where None is allowed.

    Raises:
        BadArtifact: a field is missing, or of another type.
    """
    convert = getattr(kind, "from_rows", None)
    made: T = _as(kind, convert(value, where) if convert else value, where)
    return made


def _as(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        absent = value is None or (isinstance(value, float) and not math.isfinite(value))
        return None if absent else _as(arguments[0], value, where)
    if origin is tuple:
        return tuple(_as(arguments[0], one, f"{where}[{i}]") for i, one in enumerate(_is(list, value, where)))
    if origin is Mapping:
        return {key: _as(arguments[1], one, f"{where}.{key}") for key, one in _is(dict, value, where).items()}
    if dataclasses.is_dataclass(kind):
        return _record(kind, _is(dict, value, where), where)
    if kind is float:
        kind, value = (float, float(value)) if type(value) is int and abs(value) < _MOST else (float, value)
    found = _is(kind, value, where)
    if kind in (int, float) and not abs(found) < _MOST:  # NaN is not less either
        raise _wrong(where, "a finite number", str(found)[:40])
    return found


def _record(kind: Any, value: dict[str, Any], where: str) -> Any:
    hints, made = typing.get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            made[field.name] = _as(hints[field.name], value[field.name], f"{where}.{field.name}")
        elif field.default is dataclasses.MISSING:
            raise _wrong(f"{where}.{field.name}", "a value", "nothing")
    return kind(**made)


def _is(kind: type, value: Any, where: str) -> Any:
    if type(value) is not kind:  # a bool is no number
        raise _wrong(where, kind.__name__, type(value).__name__)
    return value


def _wrong(where: str, expected: str, got: str) -> BadArtifact:
    return BadArtifact("a field is not what it should be", where=where, expected=expected, got=got)
