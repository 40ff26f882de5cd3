"""The kinds of tables that are read from sources: their columns, the sources' names for them, and checks of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa

from loid_infer.data.canonical import SCHEMA
from loid_infer.data.dates import Dates
from loid_infer.data.titles import join_words, plain_title
from loid_infer.data.values import bad, clean_id, to_label, to_position, to_rating, to_seconds, to_text

PARTS = ("train", "valid", "test", "")  # of a split that the source has, "" in one that has none

# The values of a row in the order of a kind's columns -> the same, checked and converted. Raises BadTable.
Check: TypeAlias = Callable[[Sequence[Any]], tuple[Any, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """What is read from sources."""

    what: str  # in the plural, for messages
    schema: Any  # of the table
    required: tuple[str, ...]  # columns that a source must have
    n_ids: int  # how many columns from the first are ids
    texts: tuple[int, ...]  # numbers of the columns with texts
    example: str  # of a mapping of columns
    # Names that sources have for a column, the first found counts. Without them, by format or canonical.
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """The canonical names, in the order of the schema."""
        return tuple(self.schema.names)


REVIEWS = Kind("reviews", SCHEMA, ("user_id", "item_id", "rating", "text"), 2, (3,), "user_id=reviewer,text=body")
INTERACTIONS = Kind(
    "interactions",
    pa.schema(
        [("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64()), ("position", pa.int64())]
    ),
    ("user_id", "item_id"),
    2,
    (),
    "user_id=visitor,timestamp=when",
    {
        "user_id": ("user_id", "reviewerID", "userId"),
        "item_id": ("item_id", "parent_asin", "asin", "movieId"),
        "timestamp": ("timestamp", "unixReviewTime"),
        "position": ("position",),
    },
)
CLICKS = Kind(
    "labeled pairs",
    pa.schema([*INTERACTIONS.schema, ("label", pa.int64()), ("split", pa.string())]),
    ("user_id", "item_id", "label"),
    2,
    (),
    "user_id=visitor,label=clicked",
    {**INTERACTIONS.aliases, "label": ("label", "clicked", "click", "liked"), "split": ("split",)},
)
ITEMS = Kind(
    "items",
    pa.schema([(name, pa.string()) for name in ("item_id", "title", "brand", "category", "description")]),
    ("item_id", "title"),
    1,
    (1, 2, 3, 4),
    "item_id=sku,title=name",
    {
        "item_id": ("item_id", "parent_asin", "asin", "movieId"),
        "title": ("title",),
        "brand": ("brand", "store"),
        "category": ("category", "categories", "genres"),
        "description": ("description",),
    },
)


def review_check(low: float, high: float) -> Check:
    """The check of reviews with ratings from `low` to `high`."""
    dates = Dates()

    def check(values: Sequence[Any]) -> tuple[Any, ...]:
        user, item, rating, text, time = values
        user_id, item_id, text = clean_id("user", user), clean_id("item", item), to_text(text)
        return user_id, item_id, to_rating(rating, low, high), text, to_seconds(time, dates)

    return check


def interaction_check() -> Check:
    """The check of interactions, which have a time, a position or both."""
    dates = Dates()

    def check(values: Sequence[Any]) -> tuple[Any, ...]:
        user, item, time, position = values
        seconds, place = to_seconds(time, dates), to_position(position)
        if seconds is None and place is None:
            raise bad("the interaction has neither a timestamp nor a position", "one of them", time)
        return clean_id("user", user), clean_id("item", item), seconds, place

    return check


def click_check(liked_from: float | None) -> Check:
    """The check of labeled pairs, which are interactions with a label and possibly a part of a split.

    `liked_from`: labels are numbers, such as ratings, that count as 1 from here on; None: they are 0 or 1.
    """
    check_interaction = interaction_check()

    def check(values: Sequence[Any]) -> tuple[Any, ...]:
        *interaction, label, part = values
        part = part or ""
        if part not in PARTS:
            raise bad("unknown part of a split", f"{', '.join(PARTS[:-1])} or nothing", part)
        liked = to_label(label) if liked_from is None else to_rating(label, -math.inf, math.inf) >= liked_from
        return *check_interaction(interaction), int(liked), part

    return check


def check_item(values: Sequence[Any]) -> tuple[Any, ...]:
    """The check of items. Appends whether the title was markup, and is empty for that reason."""
    item, title, brand, category, description = values
    item_id = clean_id("item", item)
    text, is_markup = plain_title(join_words("title", title))
    brand, category = join_words("brand", brand), join_words("category", category, " | ")
    return item_id, text, brand, category, join_words("description", description), is_markup
