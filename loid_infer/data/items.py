"""The items of a domain, `data/D.items.parquet`: titles and other texts, gathered from sources and read back."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from loid_infer.data.canonical import ITEM_FORMAT, MAX_GROUP_CHARS, MAX_GROUP_ROWS, ItemFacts, arrow_errors, row_writer
from loid_infer.data.kinds import ITEMS
from loid_infer.data.reviews import open_file
from loid_infer.errors import BadSetting, BadTable

FIELDS = ITEMS.columns[1:]  # those of a template


@dataclass(slots=True)
class ItemRows:
    """Rows of items as they come, of which each item keeps one: the first text of each field that is not empty."""

    n_duplicates: int = 0  # further rows of an item
    _texts: dict[str, list[str]] = field(default_factory=dict)  # the fields of each item
    _markup: set[str] = field(default_factory=set)  # items with a title that was markup

    def add(self, row: Sequence[Any]) -> None:
        """Add a row, as `check_item` gives it."""
        item_id, *texts, is_markup = row
        known = self._texts.setdefault(item_id, texts)
        if known is not texts:
            self.n_duplicates += 1
            known[:] = [before or text for before, text in zip(known, texts, strict=True)]
        if is_markup:
            self._markup.add(item_id)

    def write(self, path: Path) -> ItemFacts:
        """Write the table to `path`, ascending by item."""
        titles = Counter(texts[0] for texts in self._texts.values())
        n_untitled = titles.pop("", 0)
        with row_writer(path, ITEMS.schema) as writer:
            for group in _groups([(item_id, *self._texts[item_id]) for item_id in sorted(self._texts)]):
                writer.write(list(zip(*group, strict=True)))
            facts = ItemFacts(
                format=ITEM_FORMAT,
                digest=writer.digest({"format": ITEM_FORMAT}),
                n_items=len(self._texts),
                n_untitled=n_untitled,
                n_markup=sum(not self._texts[item_id][0] for item_id in self._markup),
                n_repeated=sum(n for n in titles.values() if n > 1),
            )
            writer.finish(facts)
        return facts


def _groups(rows: Sequence[tuple[str, ...]]) -> Iterator[Sequence[tuple[str, ...]]]:
    first, n_chars = 0, 0
    for end, row in enumerate(rows, 1):
        n_chars += sum(map(len, row))
        if end - first == MAX_GROUP_ROWS or n_chars >= MAX_GROUP_CHARS or end == len(rows):
            yield rows[first:end]
            first, n_chars = end, 0


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """The items of a domain, ascending by id; a text that is not known is empty."""

    item_ids: Sequence[str]  # [n]
    titles: Sequence[str]  # [n]
    brands: Sequence[str]  # [n]
    categories: Sequence[str]  # [n], several joined by " | "
    descriptions: Sequence[str]  # [n]
    digest: str  # of the table

    def texts(self, template: str) -> list[str]:
        """The text of each item, `[n]`, for a template like `"{title}; "`.

        Fields are title, brand, category and description; `{{` and `}}` stand for braces. The text of an item for
        which all fields of the template are empty is empty.

        Raises BadSetting for a template with another field, without a field, or with a single brace.
        """
        parts = _parsed(template)
        columns = dict(zip(FIELDS, (self.titles, self.brands, self.categories, self.descriptions), strict=True))
        fields = [columns[name] for _, name in parts if name]
        return [
            "".join(literal + (columns[name][i] if name else "") for literal, name in parts)
            if any(column[i] for column in fields)
            else ""
            for i in range(len(self.item_ids))
        ]


def _parsed(template: str) -> list[tuple[str, str]]:
    """The parts of a template: a text, and the field after it or ""."""
    expected, fix = "text with " + ", ".join(f"{{{name}}}" for name in FIELDS), "Write a brace as two: {{ or }}."
    try:
        parsed = [*string.Formatter().parse(template)]
    except ValueError as error:
        reason = str(error)
        raise BadSetting(
            f"not a template: {reason}", where="template", expected=expected, got=template, fix=fix
        ) from None
    parts = []
    for literal, name, form, conversion in parsed:
        if name is not None and (name not in FIELDS or form or conversion):
            got = "{" + name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "") + "}"
            raise BadSetting("unknown field of a template", where=repr(template), expected=expected, got=got, fix=fix)
        parts.append((literal, name or ""))
    if not any(name for _, name in parts):
        raise BadSetting("a template without a field", where="template", expected=expected, got=repr(template))
    return parts


def open_items(path: Path, domain: str) -> Items:
    """The items of `domain`. Raises BadTable if their table is missing, damaged, or not written by `ingest --items`."""
    fix = f"Run: loid-infer ingest META --domain {domain} --items"
    if not path.is_file():
        raise BadTable(f"there are no items for domain {domain!r}", where=str(path), fix=fix)
    facts, _ = open_file(path, ITEMS.schema, ITEM_FORMAT, ItemFacts, fix, "n_items")
    with (
        arrow_errors("the table is damaged", str(path), fix),
        pq.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        ids, titles, brands, categories, descriptions = [column.to_pylist() for column in file.read().columns]
    return Items(ids, titles, brands, categories, descriptions, facts.digest)
