"""What the texts of an item's metadata mean: titles, brands, categories and descriptions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from loid_infer.data.values import bad, to_text
from loid_infer.errors import BadTable

_MAX_NESTING = 8  # of lists
_ELEMENTS = (
    "a|abbr|article|aside|b|base|big|blockquote|body|br|button|center|code|dd|div|dl|dt|em|embed|font|footer|form|frame"
    "|h[1-6]|head|header|hr|html|i|iframe|img|input|label|li|link|main|meta|nav|noscript|object|ol|option|p|path|pre"
    "|script|section|select|small|span|strike|strong|style|sub|sup|svg|table|tbody|td|textarea|tfoot|th|thead|title|tr"
    "|tt|u|ul|video"
)
# A tag of HTML, also one that is cut off: `<span class="a"`. Not `<3` or `<Untitled>`.
_TAG = re.compile(rf"<!--|<!doctype\b|<!\[cdata\[|</?(?:{_ELEMENTS})(?=[\s/>]|$)", re.IGNORECASE)
# JavaScript and style sheets as scrapers find them where a title should be.
_SCRIPT = re.compile(
    r"\s*(?:(?:var|let|const)\s+[\w$]+\s*=|(?:window|document)\.\w+\s*[.(=]|(?:jQuery|\$)\(|/\*"
    r"|[.#@][\w-]+[^{}]*\{\s*[a-z-]+\s*:[^{}]*[;}])"
    r"|.*?\bfunction\s*[\w$]*\([^(){}]*\)\s*\{",
    re.DOTALL,
)


def plain_title(text: str) -> tuple[str, bool]:
    """A title without what is none, and whether it was markup: HTML tags or a script, as scrapers leave them.

    A title that is markup, or that has neither letters nor digits, is empty.
    """
    if _TAG.search(text) or _SCRIPT.match(text):
        return "", True
    return (text if any(map(str.isalnum, text)) else ""), False


def join_words(name: str, value: Any, between: str = " ") -> str:
    """A text, or a list of texts joined by `between`, with entities unescaped and white space as single spaces.

    Where `between` is a bar, bars in a text separate as well, and repeated parts of lists of lists count once. Raises
    BadTable, which names the field `name`, for anything else.
    """
    if value is None:
        return ""
    try:
        texts = [" ".join(to_text(part).split()) for part in _parts(value, _MAX_NESTING)]
    except BadTable as fault:
        what = fault.what.replace("the text", f"the {name}")
        raise BadTable(what, expected=fault.expected, got=fault.got) from None
    if "|" in between:
        bars = (part.strip() for text in texts for part in text.split("|"))
        texts = [*dict.fromkeys(bars)]
    return between.join(filter(None, texts))


def _parts(value: Any, depth: int) -> Iterator[Any]:
    if not isinstance(value, list | tuple):
        yield value
        return
    if not depth:
        raise bad("the text is a list within lists", f"at most {_MAX_NESTING} of them", value)
    for part in value:
        yield from _parts(part, depth - 1)
