"""`ingest --implicit`: writes a domain's table of interactions, which have a time or position but no rating or text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from loid_infer.artifact import new_file
from loid_infer.data.addresses import from_addresses
from loid_infer.data.canonical import InteractionFacts, RowWriter, finish_interactions
from loid_infer.data.duplicates import KEEP_ALL, POLICIES
from loid_infer.data.formats import inspect_all
from loid_infer.data.kinds import INTERACTIONS, interaction_check
from loid_infer.data.reviews import is_implicit
from loid_infer.data.stream import PairTable, Stream
from loid_infer.errors import BadTable
from loid_infer.records import narrowed
from loid_infer.settings import Workspace, WorkspaceLike, check_choice
from loid_infer.types import SILENT, Progress


@dataclass(frozen=True, slots=True)
class ImplicitResult:
    """A finished ingest of interactions. `n_rows` does not include duplicates and skipped lines."""

    domain: str
    n_rows: int
    n_users: int
    n_items: int
    n_empty_text: int  # all rows
    n_duplicates: int
    n_skipped: int
    n_tied_times: int  # rows whose user has another one of the same time, and position where there is one
    digest: str
    path: str
    n_cleaned_ids: int  # rows with spaces, invisible characters or another Unicode form removed from an id
    first_date: str | None  # of the timestamps, in UTC
    last_date: str | None
    warning: str | None


@from_addresses
def ingest_implicit(
    sources: Sequence[Path],
    domain: str,
    *,
    workspace: WorkspaceLike = None,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    quoting: str = "auto",
    duplicates: str = "keep-first",
    on_bad: str = "error",
    progress: Progress = SILENT,
) -> ImplicitResult:
    """Read interactions, without ratings and texts, into `data/<domain>.parquet`.

    After an error the old table is unchanged.

    Args:
        columns: `user_id`, `item_id`, `timestamp`, `position` -> the source's name.
        duplicates: which interaction of a (user, item) pair to keep, by time and then by position: `keep-first`, since
            what a recommender predicts is the first one, and items a user has met are not candidates; `keep-last`;
            `error`; or `keep-all`, where repeated interactions count (reorders, plays).
        quoting, on_bad: see `ingest`.

    Raises:
        BadName, BadSetting, NoSpace: see `ingest`.
        BadTable: a source cannot be read or has neither times nor positions, a bad line, a duplicate with `error`, no
            interactions, or some that have only a time and others only a position.
    """
    path = Workspace.of(workspace).table(domain)
    check_choice("duplicates", duplicates, (*POLICIES, KEEP_ALL))
    check_choice("on-bad", on_bad, ("error", "skip"))
    inspected = inspect_all(sources, format, columns or {}, quoting, INTERACTIONS)
    stream = Stream(inspected, interaction_check(), on_bad == "skip")
    table = PairTable(stream)

    def finish(writer: RowWriter, n_users: int, n_items: int) -> InteractionFacts:
        n_timeless, n_placeless = writer.n_null["timestamp"], writer.n_null["position"]
        if n_timeless and n_placeless:
            what = "some interactions have only a timestamp, and others only a position, so their order is unknown"
            where, got = ", ".join(str(source.path) for source in inspected), f"{n_placeless:,} and {n_timeless:,} rows"
            fix = "Give sources that all have the one or the other."
            raise BadTable(what, where=where[:200], got=got, fix=fix)
        return finish_interactions(writer, n_users=n_users, n_items=n_items, n_tied_times=table.n_tied())

    replaces_reviews = path.is_file() and not is_implicit(path)
    with new_file(path) as temporary:
        facts = table.write(temporary, duplicates, progress, finish)
    rest = {"domain": domain, "path": str(path), "n_empty_text": facts.n_rows}
    result = narrowed({**structs.asdict(facts), **rest, **table.summary()}, ImplicitResult)
    stream.say_skipped(progress)
    if replaces_reviews:
        progress.say(f"the table of reviews of {domain} was replaced by one of interactions")
    if result.warning:
        progress.say(result.warning)
    return result
