"""Reads dates that are given as text, in the forms that dumps of reviews use."""

from __future__ import annotations

import datetime
import re

# Forms other than ISO 8601, after `_CLEANED`: Goodreads and Twitter, RFC 2822, JavaScript, C, Amazon's reviewTime,
# Steam, Oracle and written dates.
_FORMATS = [
    "%a %b %d %H:%M:%S %z %Y",
    "%a, %d %b %Y %H:%M:%S %z",
    "%a %b %d %Y %H:%M:%S %z",
    "%a %b %d %H:%M:%S %Y",
    "%d/%b/%Y:%H:%M:%S %z",
    "%m %d, %Y",
    "%B %d, %Y",
    "%b %d, %Y",
    "%B %d %Y",
    "%b %d %Y",
    "%d %B %Y",
    "%d %b %Y",
    "%d-%b-%Y",
    "%d-%b-%y",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%Y.%m.%d",
    "%B %d, %Y %H:%M:%S",
    "%b %d, %Y %H:%M:%S",
    "%b %d, %Y %I:%M:%S %p",
]
# `Posted November 5, 2011.`, `Reviewed in the United States on July 22, 2013`, `... GMT-0700 (PDT)`, `... UTC`.
_CLEANED = [
    (re.compile(r"^(?:Posted|(?:Reviewed|Rated)\b.*\bon)\s+|\s*\([^)]*\)$|\.$"), ""),
    (re.compile(r"\s*\b(?:UTC|GMT)$"), " +0000"),
    (re.compile(r"\bGMT(?=[+-]\d{4})"), ""),
    (re.compile(r"(?<=\d)(?:st|nd|rd|th)\b"), ""),
]
_ISO_ZONE = re.compile(r"\s+(?=[+-]\d\d:?\d\d$)")


class Dates:
    """A reader of dates that tries the form of the previous date first."""

    def __init__(self) -> None:
        self._formats = list(_FORMATS)

    def seconds(self, text: str) -> int | None:
        """Seconds since 1970, rounded down; None if the text is no date, or one that may be read in two ways.

        Times without a zone are in UTC. `07/08/2013` may be July or August, so dates in numbers start with the year.
        """
        text = text.strip()
        try:
            return _since_1970(datetime.datetime.fromisoformat(text))
        except ValueError:
            pass
        for pattern, replacement in _CLEANED:
            text = pattern.sub(replacement, text).strip()
        try:
            return _since_1970(datetime.datetime.fromisoformat(_ISO_ZONE.sub("", text)))
        except ValueError:
            pass
        for position, form in enumerate(self._formats):
            try:
                date = datetime.datetime.strptime(text, form)
            except ValueError:
                continue
            self._formats.insert(0, self._formats.pop(position))
            return _since_1970(date)
        return None


def _since_1970(date: datetime.datetime) -> int:
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return (date - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(seconds=1)
