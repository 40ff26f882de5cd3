"""Files of MovieLens that have no header: `movies.dat`, `ratings.dat`, `u.item` and `u.data`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
# The delimiter, how the first line looks, and the names of its fields. Each genre of u.item is a field with 0 or 1.
_RATINGS = ("user_id", "item_id", "rating", "timestamp")
_LAYOUTS = (
    ("::", re.compile(rb"\d+::\d+::\d(?:\.\d+)?::\d+\r?"), _RATINGS),
    ("::", re.compile(rb"\d+::(?:(?!::).)+::(?:(?!::).)*\r?"), ("item_id", "title", "genres")),
    ("\t", re.compile(rb"\d+\t\d+\t[1-5]\t\d{6,}\r?"), _RATINGS),
    (
        "|",
        re.compile(rb"\d+(?:\|[^|]*){4}(?:\|[01]){19}\r?"),
        ("item_id", "title", "date", "video_date", "url", "genres"),
    ),
)


def layout_of(head: bytes) -> tuple[str, Sequence[str]] | None:
    """The delimiter and the names of the fields of a file that starts with `head`; None if it is no such file."""
    first = head.split(b"\n", 1)[0]
    return next(((mark, names) for mark, pattern, names in _LAYOUTS if pattern.fullmatch(first)), None)


def fields_of(lines: Iterable[bytes], delimiter: str) -> Iterator[list[str]]:
    """The fields of each line, which is UTF-8 or else Latin-1; those of u.item end with its genres, as one field."""
    for line in lines:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = line.decode("latin-1")
        fields = text.rstrip("\r\n").split(delimiter)
        if delimiter == "|":
            flags = dict(zip(_GENRES, fields[5:], strict=False))
            fields = [*fields[:5], "|".join(name for name, flag in flags.items() if flag == "1")]
        yield fields
