"""`ingest --clicks`: writes a domain's table of labeled pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from loid_infer.artifact import new_file
from loid_infer.data.addresses import from_addresses
from loid_infer.data.canonical import ClickFacts, RowWriter, finish_clicks
from loid_infer.data.duplicates import KEEP_ALL, POLICIES
from loid_infer.data.formats import inspect_all
from loid_infer.data.kinds import CLICKS, PARTS, click_check
from loid_infer.data.stream import PairTable, Stream
from loid_infer.errors import BadTable
from loid_infer.records import narrowed
from loid_infer.settings import Workspace, WorkspaceLike, check_choice
from loid_infer.types import SILENT, Progress


@dataclass(frozen=True, slots=True)
class ClicksResult:
    """A finished ingest of labeled pairs. `n_rows` does not include duplicates and skipped lines."""

    domain: str
    n_rows: int
    n_users: int
    n_items: int
    n_positive: int
    n_valid: int  # rows of the parts that the source has; 0: it has none
    n_test: int
    n_duplicates: int
    n_skipped: int
    digest: str
    path: str
    n_cleaned_ids: int  # rows with spaces, invisible characters or another Unicode form removed from an id
    first_date: str | None  # of the timestamps, in UTC
    last_date: str | None
    warning: str | None


@from_addresses
def ingest_clicks(
    sources: Sequence[Path],
    domain: str,
    *,
    workspace: WorkspaceLike = None,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    quoting: str = "auto",
    duplicates: str = "keep-first",
    on_bad: str = "error",
    liked_from: float | None = None,
    progress: Progress = SILENT,
) -> ClicksResult:
    """Read pairs of a user and an item with a label into `data/<domain>.clicks.parquet`.

    After an error the old table is unchanged. The domain's other tables are independent of it.

    Args:
        columns: `user_id`, `item_id`, `label`, `timestamp`, `position`, `split` -> the source's name. The column of
            parts has train, valid or test in every row, or is empty.
        duplicates: which row of a (user, item) pair to keep, as `ingest_implicit`.
        liked_from: labels are numbers, such as ratings, that are positive from here on; by default they are 0 or 1.
        quoting, on_bad: see `ingest`.

    Raises:
        BadName, BadSetting, NoSpace: see `ingest`.
        BadTable: a source cannot be read, a bad line, a duplicate with `error`, no pairs, or a part in some rows only.
    """
    path = Workspace.of(workspace).clicks(domain)
    check_choice("duplicates", duplicates, (*POLICIES, KEEP_ALL))
    check_choice("on-bad", on_bad, ("error", "skip"))
    inspected = inspect_all(sources, format, columns or {}, quoting, CLICKS)
    stream = Stream(inspected, click_check(liked_from), on_bad == "skip")
    table = PairTable(stream)

    def finish(writer: RowWriter, n_users: int, n_items: int) -> ClickFacts:
        n = writer.counts["split"]
        if {*n} not in ({""}, {*PARTS[:-1]}):
            where = ", ".join(str(source.path) for source in inspected)
            got = ", ".join(f"{name or 'nothing'} {count:,}" for name, count in n.items())
            what, expected = "the column of parts is incomplete", "train, valid and test in all rows, or none at all"
            raise BadTable(what, where=where[:200], expected=expected, got=got, fix="Complete it, or leave it out.")
        return finish_clicks(writer, n_users=n_users, n_items=n_items)

    with new_file(path) as temporary:
        facts = table.write(temporary, duplicates, progress, finish)
    rest = {"domain": domain, "path": str(path)}
    result = narrowed({**structs.asdict(facts), **rest, **table.summary()}, ClicksResult)
    stream.say_skipped(progress)
    if result.warning:
        progress.say(result.warning)
    return result
