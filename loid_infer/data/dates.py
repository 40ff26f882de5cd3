"""Reads dates that are given as text, in the forms that dumps of reviews use."""

from __future__ import annotations

import datetime
import re
from itertools import product

_DAYS = ("%Y-%m-%d", "%B %d %Y", "%b %d %Y", "%d %B %Y", "%d %b %Y", "%d %b %y", "%d.%m.%Y")
_TIMES = ("", " %H:%M:%S", " %H:%M", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p", " %I:%M%p")
_YEAR_LAST = ("%b %d %H:%M:%S %z %Y", "%b %d %H:%M:%S %Y")  # C, Goodreads and Twitter
_NAMES = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
# What is rewritten before those forms are tried, in this order.
_REWRITTEN = [
    (re.compile(r"^(?:Posted|(?:Reviewed|Rated)\b.*\bon)\s+"), ""),  # Steam and Amazon's pages
    (re.compile(r"\s*(?:\([^)]*\)|\[[^]]*\])$|(?<=\d)\.$"), ""),  # (PDT) in JavaScript, [UTC] in Java
    (re.compile(r"^(\d{1,2}) (\d{1,2}), (\d{4})$"), r"\3-\1-\2"),  # Amazon's reviewTime
    (re.compile(r"^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,?\s+"), ""),
    (re.compile(r"^(\d{4})[/.](\d{1,2})[/.](\d{1,2})"), r"\1-\2-\3"),
    (re.compile(r"^(\d{1,2})[-/]([A-Za-z]{3,9})[-/](\d{2,4}):?"), r"\1 \2 \3 "),  # Oracle, Apache
    (re.compile(r"(?<=\d)(?:st|nd|rd|th)\b|,|\bat\b"), " "),
    (re.compile(rf"\b({_NAMES})t?\.", re.IGNORECASE), r"\1 "),
    (re.compile(r"\bSept\b"), "Sep"),
    (re.compile(r"(?<=[+-]\d{4}) (?:UTC|GMT)$"), ""),  # Go
    (re.compile(r"\bGMT(?=[+-]\d{4})"), ""),
    (re.compile(r"\b(?:UTC|GMT)\b"), "+0000"),
    (re.compile(r"\s+"), " "),
]
_ISO_ZONE = re.compile(r"\s+(?=[+-]\d\d:?\d\d$)")
_NO_DATE = "0000-00-00"  # MySQL


class Dates:
    """A reader of dates that tries the form of the previous date first."""

    def __init__(self) -> None:
        forms = product(_DAYS, _TIMES, ("", " %z"))
        self._forms = [*map("".join, forms), *_YEAR_LAST]

    def seconds(self, text: str) -> int | None:
        """Seconds since 1970, rounded down. Times without a zone are in UTC.

        Raises ValueError if the text is no date, or one that may be read in two ways: `07/08/2013` may be in July or
        in August.
        """
        text = text.strip()
        if text.startswith(_NO_DATE):
            return None
        iso = _iso(text)
        if iso is not None:
            return iso
        for pattern, replacement in _REWRITTEN:
            text = pattern.sub(replacement, text).strip()
        iso = _iso(_ISO_ZONE.sub("", text))
        if iso is not None:
            return iso
        for position, form in enumerate(self._forms):
            try:
                date = datetime.datetime.strptime(text, form)
            except ValueError:
                continue
            self._forms.insert(0, self._forms.pop(position))
            return _since_1970(date)
        raise ValueError(text)


def _iso(text: str) -> int | None:
    try:
        return _since_1970(datetime.datetime.fromisoformat(text))
    except ValueError:
        return None


def _since_1970(date: datetime.datetime) -> int:
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return (date - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(seconds=1)
