"""`ingest --items`: writes the table of a domain's items, with their titles, from metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from loid_infer.artifact import new_file
from loid_infer.data.addresses import from_addresses
from loid_infer.data.formats import inspect_all
from loid_infer.data.items import ItemRows
from loid_infer.data.kinds import ITEMS, check_item
from loid_infer.data.stream import Stream
from loid_infer.records import narrowed
from loid_infer.settings import Workspace, WorkspaceLike, check_choice
from loid_infer.types import SILENT, Progress


@dataclass(frozen=True, slots=True)
class ItemsResult:
    """A finished ingest of items."""

    domain: str
    n_items: int
    n_untitled: int  # items without a title; one without letters and digits is none
    n_markup: int  # of those, items whose only title was HTML or a script
    n_repeated: int  # items with a title that another one has, too
    n_duplicates: int  # further rows of an item
    n_skipped: int
    n_cleaned_ids: int  # rows with spaces, invisible characters or another Unicode form removed from the id
    digest: str
    path: str
    warning: str | None


@from_addresses
def ingest_items(
    sources: Sequence[Path],
    domain: str,
    *,
    workspace: WorkspaceLike = None,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    quoting: str = "auto",
    on_bad: str = "error",
    progress: Progress = SILENT,
) -> ItemsResult:
    """Read item metadata into `data/<domain>.items.parquet`. After an error the old table is unchanged.

    The texts of all items are held in memory. Of several rows of an item, each field keeps its first text that is not
    empty. A title that is markup is no title.

    Args:
        columns: `item_id`, `title`, `brand`, `category`, `description` -> the source's name.
        quoting, on_bad: see `ingest`.

    Raises:
        BadName, BadSetting, NoSpace: see `ingest`.
        BadTable: a source cannot be read, a bad line, or no items.
    """
    path = Workspace.of(workspace).items(domain)
    check_choice("on-bad", on_bad, ("error", "skip"))
    stream = Stream(inspect_all(sources, format, columns or {}, quoting, ITEMS), check_item, on_bad == "skip")
    items = ItemRows()
    with new_file(path) as temporary:
        for _, batch in stream.batches(progress):
            for row in zip(*batch.columns, strict=True):
                items.add(row)
        facts = items.write(temporary)
    warning = None
    if facts.n_untitled * 2 > facts.n_items:
        why = f"{facts.n_markup:,} because it is HTML or a script" if facts.n_markup else "is the column the right one?"
        warning = f"{facts.n_untitled:,} of {facts.n_items:,} items have no title: {why}"
    rest = {"domain": domain, "path": str(path), "n_duplicates": items.n_duplicates, "warning": warning}
    counts = {"n_skipped": stream.n_skipped, "n_cleaned_ids": stream.n_cleaned_ids}
    stream.say_skipped(progress)
    if warning:
        progress.say(warning)
    return narrowed({**structs.asdict(facts), **rest, **counts}, ItemsResult)
