"""`ingest` and `sample`: write canonical tables, of source files or of synthetic reviews and likes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import structs

from loid_infer.artifact import new_file
from loid_infer.data.addresses import from_addresses
from loid_infer.data.canonical import (
    SCHEMA,
    RowWriter,
    TableFacts,
    finish_clicks,
    finish_interactions,
    finish_reviews,
    row_writer,
)
from loid_infer.data.duplicates import POLICIES
from loid_infer.data.formats import inspect_all
from loid_infer.data.items import ItemRows
from loid_infer.data.kinds import CLICKS, INTERACTIONS, REVIEWS, review_check
from loid_infer.data.planted import PlantedLikes, draw_likes
from loid_infer.data.sample import SampleWorld, draw_world
from loid_infer.data.stream import PairTable, Stream
from loid_infer.errors import BadSetting
from loid_infer.records import narrowed
from loid_infer.settings import SAMPLE_DOMAINS, Workspace, WorkspaceLike, check_choice, check_number
from loid_infer.types import SILENT, Progress

NOTE = "These reviews are synthetic: nobody wrote them, and figures measured on them say nothing of real data."
LIKES_NOTE = "These likes are synthetic: nobody clicked, and figures measured on them say nothing of real data."


@dataclass(frozen=True, slots=True)
class IngestResult:
    """A finished ingest. `n_rows` does not include duplicates and skipped lines."""

    domain: str
    n_rows: int
    n_users: int
    n_items: int
    n_empty_text: int
    n_duplicates: int
    n_skipped: int
    digest: str
    path: str
    n_cleaned_ids: int  # rows with spaces, invisible characters or another Unicode form removed from an id
    first_date: str | None  # of the timestamps, in UTC
    last_date: str | None
    warning: str | None


@from_addresses
def ingest(
    sources: Sequence[Path],
    domain: str,
    *,
    workspace: WorkspaceLike = None,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    quoting: str = "auto",
    duplicates: str = "keep-last",
    on_bad: str = "error",
    rating_range: tuple[float, float] = (1.0, 5.0),
    progress: Progress = SILENT,
) -> IngestResult:
    """Read `sources` in order into `data/<domain>.parquet`. After an error the old table is unchanged.

    A folder stands for its files; empty files among others are passed over.

    Args:
        columns: canonical column -> the source's name, for any format.
        quoting: of CSV and TSV: `standard`, `backslash` for quotes escaped as \\", `none` where quotes are ordinary
            characters, or `auto`, which is one of the first two and refuses fields that seem to contain rows.
        duplicates: which review of a (user, item) pair to keep: `keep-last`, `keep-first`, or `error`.
        on_bad: `error` stops at the first bad line, `skip` skips and counts bad lines.
        rating_range: lowest and highest valid rating.

    Raises:
        BadName: `domain` is not a slug.
        BadSetting: an invalid option.
        BadTable: a source cannot be read, a bad line, a duplicate with `error`, or no reviews.
        NoSpace: the disk is full or the workspace not writable.
    """
    path = Workspace.of(workspace).table(domain)
    check_choice("duplicates", duplicates, POLICIES)
    check_choice("on-bad", on_bad, ("error", "skip"))
    low, high = rating_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        got, fix = f"{low:g},{high:g}", "Give for example --rating-range 1,5"
        raise BadSetting("not a range: LOW,HIGH with LOW < HIGH", where="--rating-range", got=got, fix=fix)
    inspected = inspect_all(sources, format, columns or {}, quoting, REVIEWS)

    def finish(writer: RowWriter, n_users: int, n_items: int) -> TableFacts:
        return finish_reviews(writer, n_users=n_users, n_items=n_items, rating_range=rating_range)

    with new_file(path) as temporary:
        stream = Stream(inspected, review_check(low, high), on_bad == "skip")
        table = PairTable(stream)
        facts = table.write(temporary, duplicates, progress, finish)
    rest = {"domain": domain, "path": str(path)}
    result = narrowed({**structs.asdict(facts), **rest, **table.summary()}, IngestResult)
    stream.say_skipped(progress)
    if result.warning:
        progress.say(result.warning)
    return result


@dataclass(frozen=True, slots=True)
class SampleDomain:
    """A written synthetic domain."""

    domain: str
    n_reviews: int  # or interactions, with `implicit`
    n_users: int
    n_items: int
    path: str
    n_pairs: int = 0  # labeled ones, with `implicit`


@dataclass(frozen=True, slots=True)
class SampleResult:
    """The written domains, in the requested order."""

    domains: Sequence[SampleDomain]
    note: str = NOTE


def sample(
    domains: Sequence[str] | None = None,
    *,
    n_reviews: int = 2000,
    implicit: bool = False,
    seed: int = 0,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> SampleResult:
    """Write synthetic domains of `n_reviews` reviews each to `data/`, replacing tables of that name.

    The reviews depend only on the name, `n_reviews` and `seed`.

    Args:
        domains: names; None for electronics, movies_tv and video_games.
        implicit: instead of reviews, write labeled pairs, `n_reviews` rounded up to whole users of 36 pairs, those with
            label 1 as interactions, and items with titles.

    Raises:
        BadName: a domain is not a slug.
        BadSetting: `n_reviews` below 1 or `seed` below 0.
        NoSpace: the disk is full or the workspace not writable.
    """
    workspace = Workspace.of(workspace)
    check_number("--n-reviews", n_reviews, 1, math.inf)
    check_number("--seed", seed, 0, math.inf)
    paths = {domain: workspace.table(domain) for domain in domains or SAMPLE_DOMAINS}
    if implicit:
        written = [_write_likes(domain, draw_likes(domain, n_reviews, seed), workspace) for domain in paths]
    else:
        written = [
            _write_reviews(path, draw_world(domain, n_reviews, seed), progress) for domain, path in paths.items()
        ]
    note = LIKES_NOTE if implicit else NOTE
    progress.say(note)
    return SampleResult(written, note)


def _write_reviews(path: Path, world: SampleWorld, progress: Progress) -> SampleDomain:
    n_users, n_items = len(np.unique(world.users)), len(np.unique(world.items))
    with (
        new_file(path) as temporary,
        row_writer(temporary, SCHEMA) as writer,
        progress.task(f"sample {world.domain}", world.n, "reviews") as task,
    ):
        for rows, texts in world.texts():
            ratings, times = world.ratings[rows].tolist(), world.timestamps[rows].tolist()
            writer.write((*world.ids(rows), ratings, texts, times))
            task.advance(len(texts))
        finish_reviews(writer, n_users=n_users, n_items=n_items, rating_range=(1.0, 5.0), synthetic=True)
    return SampleDomain(world.domain, world.n, n_users, n_items, str(path))


def _write_likes(domain: str, world: PlantedLikes, workspace: Workspace) -> SampleDomain:
    """Write items, labeled pairs, and interactions, which are those with label 1."""
    path, items, liked = workspace.table(domain), ItemRows(), world.labels == 1
    for item_id, title in zip(world.item_ids(), world.titles, strict=True):
        items.add((item_id, title, "", "", "", False))
    with new_file(workspace.items(domain)) as temporary:
        items.write(temporary)
    with new_file(workspace.clicks(domain)) as temporary, row_writer(temporary, CLICKS.schema) as writer:
        for columns in world.columns(np.arange(world.n)):
            writer.write_named(columns)
        n_users, n_items = len(np.unique(world.users)), len(np.unique(world.items))
        finish_clicks(writer, n_users=n_users, n_items=n_items)
    with new_file(path) as temporary, row_writer(temporary, INTERACTIONS.schema) as writer:
        for columns in world.columns(np.flatnonzero(liked)):
            writer.write_named(columns)
        n_users, n_items = len(np.unique(world.users[liked])), len(np.unique(world.items[liked]))
        finish_interactions(writer, n_users=n_users, n_items=n_items, n_tied_times=0)
    return SampleDomain(domain, int(liked.sum()), n_users, n_items, str(path), n_pairs=world.n)
