"""Which column of a source means what, and which values are valid in it.

This file knows names and values; it opens no file.
"""

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
_MAX_SECONDS = 100_000_000_000  # the year 5138; milliseconds of our time lie far beyond


@dataclass(frozen=True, slots=True)
class Layout:
    """How the records of one source become reviews."""

    names: Mapping[str, str]  # of all COLUMNS, in their order: canonical name -> the source's name
    chosen: frozenset[str]  # canonical names whose column the user named
    item_else: str  # read where the item column is absent or empty
    ticks_per_s: int


def layout(format: str, overrides: Mapping[str, str]) -> Layout:
    """The layout of a format with the columns the user named put in.

    Amazon 2023 reviews have a title beside the text: only the text is read. Their item is `parent_asin`, else `asin`.

    Raises:
        BadSetting: an override of a column there is not, or an empty name.
    """
    for name, source in overrides.items():
        if name not in COLUMNS or not source:
            raise BadSetting(
                "not a column mapping",
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
    """One value that makes its line a bad line."""

    def __init__(self, reason: str, expected: str = "", value: object = "") -> None:
        got = value if isinstance(value, str) and not expected else repr(value)
        super().__init__(reason)
        self.reason, self.expected, self.got = reason, expected, got if len(got) <= 80 else got[:77] + "..."


def id_of(kind: str, value: object) -> str:
    """A user or item id. Whole numbers are taken as their decimal digits.

    Raises:
        BadValue: missing, empty, with a null byte, or neither text nor a whole number.
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
    """A rating within `low..high`, given as a number or as the text of one.

    Raises:
        BadValue: missing, not a number, not finite, or outside the range.
    """
    try:
        rating = _number(value)
        if low <= rating <= high:
            return rating
        fault = "outside the range" if math.isfinite(rating) else "not finite"
    except (TypeError, ValueError, OverflowError):
        fault = "missing" if value is None or value == "" else "not a number"
    raise BadValue(f"the rating is {fault}", f"a number from {low:g} to {high:g}", value)


def text_of(value: object) -> str:
    """A review's text with HTML entities unescaped; a missing one is the empty text.

    Null bytes stay: U+0000 is valid in a text, and a tokenizer drops it by itself.

    Raises:
        BadValue: neither text nor missing.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadValue("the text is not text", "text", value)
    return html.unescape(value) if "&" in value else value


def seconds_of(value: object, ticks_per_s: int) -> int | None:
    """A timestamp in whole seconds since 1970, rounded down; None where it is missing, empty or NaN.

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
    # float() takes 1_000 and True, which no source means as a number.
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise ValueError
    return float(value)
