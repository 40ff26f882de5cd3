"""Maps the columns of a source to canonical columns, and checks and converts their values."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loid_infer.errors import BadSetting

FORMATS = ("amazon2014", "amazon2018", "amazon2023", "jsonl", "csv", "tsv", "parquet")
COLUMNS = ("user_id", "item_id", "rating", "text", "timestamp")  # of the canonical table
_AMAZON = ("reviewerID", "asin", "overall", "reviewText", "unixReviewTime")
_SOURCES = {
    "amazon2014": _AMAZON,
    "amazon2018": _AMAZON,
    "amazon2023": ("user_id", "parent_asin", "rating", "text", "timestamp"),
}
_MAX_SECONDS = 100_000_000_000  # the year 5138; detects milliseconds


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns and units of a source."""

    names: Mapping[str, str]  # of all COLUMNS, in their order: canonical name -> the source's name
    chosen: frozenset[str]  # canonical names mapped by the user
    item_else: str  # column used if the item column is missing or empty
    ticks_per_s: int


def layout(format: str, overrides: Mapping[str, str]) -> Layout:
    """The layout of a format with the user's column names.

    In Amazon 2023 the item is `parent_asin`, else `asin`; the title is not read.

    Raises:
        BadSetting: an override of an unknown column, or an empty name.
    """
    for name, source in overrides.items():
        if name not in COLUMNS or not source:
            raise BadSetting(
                "invalid column mapping",
                where="--columns",
                expected="NAME=SOURCE with NAME one of " + ", ".join(COLUMNS),
                got=repr(f"{name}={source}"),
                fix="Give for example --columns user_id=reviewer,text=body",
            )
    is_2023 = format == "amazon2023"
    names = {**dict(zip(COLUMNS, _SOURCES.get(format, COLUMNS), strict=True)), **overrides}
    item_else = "asin" if is_2023 and "item_id" not in overrides else ""
    return Layout(names, frozenset(overrides), item_else, 1000 if is_2023 else 1)


class BadValue(ValueError):
    """An invalid value in a source."""

    def __init__(self, reason: str, expected: str = "", value: object = "") -> None:
        got = value if isinstance(value, str) and not expected else repr(value)
        super().__init__(reason)
        self.reason, self.expected, self.got = reason, expected, got if len(got) <= 80 else got[:77] + "..."


def id_of(kind: str, value: object) -> str:
    """A user or item id; integers become decimal strings.

    Raises:
        BadValue: missing, empty, with a null byte, or neither text nor an integer.
    """
    if type(value) is int:
        return str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadValue(f"the {kind} is missing or empty", "an id", value)
    if not isinstance(value, str):
        raise BadValue(f"the {kind} is not an id", "text or a whole number", value)
    if "\0" in value:
        raise BadValue(f"the {kind} has a null byte", "an id without one", value)
    return value


def rating_of(value: object, low: float, high: float) -> float:
    """A rating from `low` to `high`, given as a number or as text.

    Raises:
        BadValue: missing, not a number, not finite, or outside the range.
    """
    try:
        rating = _number(value)
        if low <= rating <= high:
            return rating
        problem = "outside the range" if math.isfinite(rating) else "not finite"
    except (TypeError, ValueError, OverflowError):
        problem = "missing" if value is None or value == "" else "not a number"
    raise BadValue(f"the rating is {problem}", f"a number from {low:g} to {high:g}", value)


def text_of(value: object) -> str:
    """A review's text with HTML entities unescaped; empty if missing. Null bytes are kept.

    Raises:
        BadValue: not text.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadValue("the text is not text", "text", value)
    return html.unescape(value) if "&" in value else value


def seconds_of(value: object, ticks_per_s: int) -> int | None:
    """A timestamp in seconds since 1970, rounded down; None if missing, empty or NaN.

    Raises:
        BadValue: not a number, infinite, or beyond the year 5000.
    """
    if value is None or value == "":
        return None
    try:
        ticks = _number(value)
        if math.isnan(ticks):
            return None
        seconds = math.floor(ticks) // ticks_per_s
    except (TypeError, ValueError, OverflowError):
        raise BadValue("the timestamp is not a number", "seconds since 1970, or nothing", value) from None
    if abs(seconds) > _MAX_SECONDS:
        raise BadValue("the timestamp is out of bounds, maybe not in seconds", "seconds since 1970, or nothing", value)
    return seconds


def _number(value: Any) -> float:
    # float() accepts 1_000 and True.
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise ValueError
    return float(value)
