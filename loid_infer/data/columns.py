"""Which column of a source means what, and which values are valid in it.

This file knows names and values; it opens no file.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace

from loid_infer.errors import BadSetting

FORMATS = ("amazon2014", "amazon2018", "amazon2023", "jsonl", "csv", "tsv", "parquet")
_MAX_SECONDS = 100_000_000_000  # the year 5138; milliseconds of our time lie far beyond


@dataclass(frozen=True, slots=True)
class Columns:
    """The source's name of each canonical column."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    rating: str = "rating"
    text: str = "text"
    timestamp: str = "timestamp"


@dataclass(frozen=True, slots=True)
class Layout:
    """How the records of one source become reviews."""

    columns: Columns
    chosen: frozenset[str] = frozenset()  # canonical names whose column the user named
    item_else: str = ""  # read where the item column is absent or empty
    ticks_per_s: int = 1

    @property
    def names(self) -> dict[str, str]:
        """Canonical name -> the source's name."""
        return dict(zip((field.name for field in fields(Columns)), astuple(self.columns), strict=True))


def layout(format: str, overrides: Mapping[str, str]) -> Layout:
    """The layout of a format with the columns the user named put in.

    Amazon 2023 reviews have a title beside the text: only the text is read. Their item is `parent_asin`, else `asin`.

    Raises:
        BadSetting: an override of a column there is not, or an empty name.
    """
    names = [field.name for field in fields(Columns)]
    for name, source in overrides.items():
        if name not in names or not source:
            raise BadSetting(
                "not a column mapping",
                where="--columns",
                expected="NAME=SOURCE with NAME one of " + ", ".join(names),
                got=repr(f"{name}={source}"),
                mend="Give for example --columns user_id=reviewer,text=body",
            )
    chosen = frozenset(overrides)
    if format in ("amazon2014", "amazon2018"):
        columns = Columns("reviewerID", "asin", "overall", "reviewText", "unixReviewTime")
        return Layout(replace(columns, **overrides), chosen)
    if format == "amazon2023":
        columns = replace(Columns(item_id="parent_asin"), **overrides)
        return Layout(columns, chosen, item_else="" if "item_id" in chosen else "asin", ticks_per_s=1000)
    return Layout(replace(Columns(), **overrides), chosen)


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
    expected = f"a number from {low:g} to {high:g}"
    if value is None or value == "":
        raise BadValue("the rating is missing", expected, value)
    try:
        # float() takes 1_000 and True, which no source means as a rating.
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
            raise ValueError
        rating = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise BadValue("the rating is not a number", expected, value) from None
    if not math.isfinite(rating):
        raise BadValue("the rating is not finite", expected, value)
    if not low <= rating <= high:
        raise BadValue("the rating is outside the range", expected, value)
    return rating


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
    if value is None or value == "" or value != value:  # noqa: PLR0124 - NaN
        return None
    try:
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
            raise ValueError
        try:
            ticks = int(value)  # type: ignore[call-overload]
        except ValueError:
            number = float(value)  # type: ignore[arg-type]
            if math.isnan(number):
                return None
            ticks = math.floor(number)
    except (TypeError, ValueError, OverflowError):
        raise BadValue("the timestamp is not a number", "seconds since 1970, or nothing", value) from None
    seconds = int(ticks) // ticks_per_s
    if abs(seconds) > _MAX_SECONDS:
        raise BadValue("the timestamp is out of bounds, maybe not in seconds", "seconds since 1970, or nothing", value)
    return seconds
