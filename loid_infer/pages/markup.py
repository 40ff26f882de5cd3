"""Markup in which text cannot become a tag: what is not `Html` is escaped, everywhere and without being asked.

This file knows HTML's syntax; it knows no page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

_VOID = frozenset({"br", "meta"})
# Neither HTML nor UTF-8 has a place for these; a JSON file can hold them all the same.
_UNSPEAKABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Html:
    """Finished markup."""

    text: str


Content: TypeAlias = Html | str
Value: TypeAlias = str | int | float
NOTHING = Html("")


def escaped(content: Content) -> str:
    """Markup as it is, text with everything that means something to a browser escaped."""
    return content.text if isinstance(content, Html) else escape(_UNSPEAKABLE.sub("\ufffd", content))


def joined(parts: Iterable[Content]) -> Html:
    """`parts`, one after another."""
    return Html("".join(escaped(part) for part in parts))


def element(tag: str, *content: Content, at: Mapping[str, Value] | None = None) -> Html:
    """An element.

    Args:
        tag: its name, with the classes it has: `p.note`.
        at: its attributes; numbers are written with two digits at most: the same text on every machine.
    """
    name, *classes = tag.split(".")
    attributes = {"class": " ".join(classes)} if classes else {}
    said = "".join(f' {key}="{escaped(_value(value))}"' for key, value in (attributes | dict(at or {})).items())
    return Html(f"<{name}{said}>") if name in _VOID else Html(f"<{name}{said}>{joined(content).text}</{name}>")


def _value(value: Value) -> str:
    if isinstance(value, str):
        return value
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def table(head: Iterable[Content], rows: Iterable[Iterable[Content]], *, n_left: int = 1) -> Html:
    """A table that scrolls sideways where there is no room for it.

    Args:
        n_left: how many of the first columns are text; the others are figures, set flush right.
    """

    def row(cell: str, parts: Iterable[Content]) -> Html:
        return element("tr", *(element(cell if i < n_left else f"{cell}.figure", part) for i, part in enumerate(parts)))

    body = (row("td", parts) for parts in rows)
    return element("div.wide", element("table", element("thead", row("th", head)), element("tbody", *body)))
