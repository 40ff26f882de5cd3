"""What the cells of a table of reviews mean: ids, ratings, texts and times, of whatever type a file gives them."""

from __future__ import annotations

import datetime
import html
import html.entities
import math
import re
import unicodedata
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from loid_infer.data.dates import Dates
from loid_infer.errors import BadTable

# How pandas, R, SQL databases, Hive, JavaScript and spreadsheets spell a missing value in text.
MISSING = frozenset(
    {"", "nan", "NaN", "NAN", "Nan", "-nan", "-NaN", "null", "Null", "NULL", "(null)", "(NULL)", "<null>", "[NULL]"}
    | {"none", "None", "NONE", "<NA>", "NA", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "#NULL!", "NaT", "\\N", "\\\\N"}
    | {"undefined", "1.#QNAN", "-1.#QNAN", "1.#IND", "-1.#IND", "nil"}
)
LABELS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}  # of lower-case texts
_MAX_MISSING = 16  # characters, at least those of the longest of them and some white space
# White space and characters without a glyph, at either end of an id; then those also removed within it.
_OUTER = (
    "\x09\x0a\x0b\x0c\x0d\x1c\x1d\x1e\x1f\x20\x85\xa0\xad\u1680\u180e\u2000\u2001\u2002\u2003\u2004\u2005"
    "\u2006\u2007\u2008\u2009\u200a\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e"
    "\u202f\u205f\u2060\u2061\u2062\u2063\u2064\u2065\u2066\u2067\u2068\u2069\u206a\u206b\u206c\u206d\u206e"
    "\u206f\u3000\ufeff"
)
_INNER = {0x200B: None, 0x2060: None, 0xFEFF: None, 0xAD: None, 0xA0: " ", 0x2007: " ", 0x202F: " "}
_TRAILING_ZEROS = re.compile(r"(?<=\d)\.0+$")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_ENTITY = re.compile(r"&(#[0-9]{1,8}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]*);")
_MAX_EXACT_FLOAT = 2**53
# Numbers of at least this size are not seconds but milliseconds, microseconds and nanoseconds since 1970.
MAX_SECONDS = 100_000_000_000
_UNITS = ((MAX_SECONDS, 1), (10**14, 1_000), (10**17, 1_000_000), (10**20, 1_000_000_000))
# Dates and times written as one number of 14 digits; as milliseconds they would be after the year 2570.
_FIRST_COMPACT, _LAST_COMPACT = 19_000_101_000_000, 21_001_231_235_959
_DAY_OR_MONTH = re.compile(r"\d{1,2}[/-]\d{1,2}[/-]\d{2,4}")
_TIME = "a number or date, or nothing"
_ID = "text or a whole number"


def bad(what: str, expected: str = "", value: object = "") -> BadTable:
    """The error of a line or row, without its location."""
    got = value if isinstance(value, str) and not expected else repr(value)
    return BadTable(what, expected=expected, got=got if len(got) <= 80 else got[:77] + "...")


def bad_encoding(value: object) -> BadTable:
    """The error of a line that is not UTF-8, without its location."""
    fault = bad("the line is not UTF-8", "UTF-8", value)
    fault.fix = "If the file is Windows-1252, convert it with: iconv -f WINDOWS-1252 -t UTF-8"
    return fault


def clean_id(kind: str, value: object) -> str:
    """A user or item id as text: in Unicode form NFC, without white space or invisible characters around it.

    Raises BadTable if it is missing, also by a spelling of MISSING, or is neither text nor a whole number.
    """
    if type(value) is str and value.isascii() and value.isprintable():
        if value not in MISSING and value[0] != " " and value[-1] != " ":
            return value
    elif type(value) is int:
        return str(value)
    text = clean_name(_id_text(kind, value))
    if text in MISSING:
        raise bad(f"the {kind} is missing or empty", "an id", value)
    if "\0" in text:
        raise bad(f"the {kind} has a null byte", "an id without one", value)
    return text


def clean_name(name: str) -> str:
    """The name of a column in Unicode form NFC, without white space and invisible characters around it."""
    return unicodedata.normalize("NFC", name).translate(_INNER).strip(_OUTER)


def id_form(text: str) -> str:
    """What ids that differ in form only have in common: `100`, `0100`, `100.0` and `"100"`; `Ab` and `aB`."""
    text = unicodedata.normalize("NFKC", text).casefold().strip(" \t'\"")
    return _TRAILING_ZEROS.sub("", text).lstrip("0") or "0"


def _id_text(kind: str, value: Any) -> str:
    match value:
        case str():
            return value
        case None:
            return ""
        case bytes():
            return _decoded(value)
        case uuid.UUID():
            return str(value)
        case float() if math.isnan(value):
            return ""
        case float() if value.is_integer() and abs(value) < _MAX_EXACT_FLOAT:
            return str(int(value))
        case Decimal() if value == value.to_integral_value():
            return str(int(value))
        case int() if not isinstance(value, bool):
            return str(value)
        case dict() if _is_wrapped(value):
            return _id_text(kind, *value.values())
    raise bad(f"the {kind} is not an id", _ID, value)


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise bad("binary data that is not UTF-8", "UTF-8", value[:20]) from None


def to_rating(value: object, low: float, high: float) -> float:
    """A rating from `low` to `high`, given as a number or as text. Raises BadTable for anything else."""
    if isinstance(value, dict) and _is_wrapped(value):
        (value,) = value.values()
    try:
        rating = float(value) if type(value) is str and "_" not in value else _number(value)
        if low <= rating <= high:
            return rating
        problem = "outside the range" if math.isfinite(rating) else "not finite"
    except (TypeError, ValueError, OverflowError):
        problem = "missing" if value is None or (isinstance(value, str) and is_missing(value)) else "not a number"
        if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip()):
            problem = "written with a decimal comma, which is not a number"
    raise bad(f"the rating is {problem}", f"a number from {low:g} to {high:g}", value)


def to_label(value: object) -> bool:
    """A label, given as a bool, 1 or 0, or as their text. Raises BadTable for anything else."""
    found = LABELS.get(str(value).strip().lower())
    if found is None:
        fault = bad("the label is neither 1 nor 0", "1 or 0", value)
        fault.fix = "If labels are numbers such as ratings, give --liked-from, for example 4."
        raise fault
    return found


def is_missing(text: str) -> bool:
    """Whether a text is empty, white space or a spelling of a missing value."""
    return len(text) <= _MAX_MISSING and text.strip() in MISSING


def to_text(value: object) -> str:
    """A review's text with HTML entities unescaped; empty if missing. Null bytes are kept.

    Only entities that end with a semicolon: `&copy=2` in an address is not one.
    """
    if type(value) is bytes:
        value = _decoded(value)
    elif type(value) is int or (type(value) is float and not math.isnan(value)):
        return str(value)
    if type(value) is str:
        if len(value) <= _MAX_MISSING and value.strip() in MISSING:
            return value if value.isspace() else ""
        return _ENTITY.sub(_unescaped, value) if "&" in value else value
    if value is None or (type(value) is float and math.isnan(value)):
        return ""
    raise bad("the text is not text", "text", value)


def _unescaped(entity: re.Match[str]) -> str:
    # html.unescape replaces the beginning of an unknown name too: `&regional;`.
    known = entity[1][0] == "#" or f"{entity[1]};" in html.entities.html5
    return html.unescape(entity[0]) if known else entity[0]


def to_seconds(value: Any, dates: Dates) -> int | None:
    """A timestamp in seconds since 1970, rounded down; None if missing.

    A number counts seconds, milliseconds, microseconds or nanoseconds, by its size. A text may be such a number or a
    date, in UTC unless it says otherwise.
    """
    if type(value) is int and -MAX_SECONDS < value < MAX_SECONDS:
        return value
    if type(value) is str and len(value) < 12 and value.isdecimal():
        return int(value)
    if value is None or (isinstance(value, str) and is_missing(value)):
        return None
    if isinstance(value, dict) and _is_wrapped(value):
        (value,) = value.values()
        return to_seconds(value, dates)
    try:
        if isinstance(value, datetime.date):
            return dates.seconds(value.isoformat())
        try:
            ticks = _number(value)
        except ValueError:
            return dates.seconds(value)
        if math.isnan(ticks):
            return None
        exact = int(value) if isinstance(value, int) or (isinstance(value, str) and value.strip().isdigit()) else ticks
        if _FIRST_COMPACT <= exact <= _LAST_COMPACT:
            return dates.seconds(f"{exact:.0f}"[:8] + "T" + f"{exact:.0f}"[8:])
        return next(math.floor(exact // per_second) for bound, per_second in _UNITS if abs(exact) < bound)
    except StopIteration:
        raise bad("the timestamp is out of bounds", _TIME, value) from None
    except (TypeError, AttributeError, ValueError, OverflowError):
        fault = bad("the timestamp is neither a number nor a date", _TIME, value)
        if isinstance(value, str) and _DAY_OR_MONTH.match(value.strip()):
            fault = bad("the date may start with the day or with the month", "dates like 2018-07-31", value)
        raise fault from None


def to_position(value: object) -> int | None:
    """The place of an interaction among its user's, a whole number; None if missing. Raises BadTable otherwise."""
    if value is None or (isinstance(value, str) and is_missing(value)):
        return None
    try:
        place = int(value) if isinstance(value, str) and "_" not in value else _number(value)
        if math.isnan(place):
            return None
        if place == int(place) and abs(place) <= _MAX_EXACT_FLOAT:
            return int(place)
    except (TypeError, ValueError, OverflowError):
        pass
    raise bad("the position is not a whole number", "a whole number", value)


def _is_wrapped(value: Mapping[Any, Any]) -> bool:
    """Whether MongoDB wrapped a value, as in `{"$oid": ...}` and `{"$date": {"$numberLong": ...}}`."""
    return len(value) == 1 and str(next(iter(value))).startswith("$")


def _number(value: Any) -> float:
    # float() accepts 1_000 and True.
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise ValueError
    return float(value)
