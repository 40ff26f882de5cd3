"""`ingest` and `sample`: write canonical tables, of source files or of synthetic reviews."""

from __future__ import annotations

import math
import re
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import structs

from loid_infer.artifact import new_file
from loid_infer.data.canonical import TableFacts, TableWriter, filter_table, table_writer
from loid_infer.data.duplicates import POLICIES, PairHashes
from loid_infer.data.formats import Source, files_of, inspect
from loid_infer.data.sample import draw_world
from loid_infer.data.sources import location, read_source
from loid_infer.errors import BadSetting, BadTable
from loid_infer.records import narrowed
from loid_infer.settings import SAMPLE_DOMAINS, Workspace, WorkspaceLike, check_choice, check_number
from loid_infer.types import SILENT, Bools, Progress

NOTE = "These reviews are synthetic: nobody wrote them, and figures measured on them say nothing of real data."
_TIME_NAME = re.compile(r"(?:^|[^A-Za-z])(?i:date|time)|[a-z](?:Date|Time)(?:stamp|$)")
_FIRST_REVIEWS, _DAY = 631_152_000, 86_400  # 1990, in seconds since 1970; seconds


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
    if not sources:
        raise BadSetting("there is no source", where="ingest", expected="at least one file")
    check_choice("duplicates", duplicates, POLICIES)
    check_choice("on-bad", on_bad, ("error", "skip"))
    low, high = rating_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        got, fix = f"{low:g},{high:g}", "Give for example --rating-range 1,5"
        raise BadSetting("not a range: LOW,HIGH with LOW < HIGH", where="--rating-range", got=got, fix=fix)
    files = [file for source in sources for file in files_of(Path(source))]
    inspected = [source for file in files if (source := inspect(file, format, columns or {}, quoting))]
    if not inspected:
        where = ", ".join(map(str, files))[:200]
        got = "white space only" if any(file.stat().st_size for file in files) else "an empty file"
        raise BadTable("the file has no content", where=where, got=got, fix="Give another file.")
    with new_file(path) as temporary:
        stream = _Stream(inspected, on_bad == "skip", rating_range)
        facts = stream.write(temporary, duplicates, progress)
    rest = {"domain": domain, "n_duplicates": len(stream.numbers) - facts.n_rows, "path": str(path)}
    result = narrowed({**structs.asdict(facts), **rest, **stream.summary()}, IngestResult)
    if stream.first_skipped:
        progress.say(f"skipped {result.n_skipped:,} bad lines, the first: {stream.first_skipped}")
    if result.warning:
        progress.say(result.warning)
    return result


class _Stream:
    """The sources as one stream of rows. Needs 24 bytes of memory per row."""

    def __init__(self, sources: Sequence[Source], skip_bad: bool, rating_range: tuple[float, float]) -> None:
        self._sources, self._skip_bad, self._rating_range = sources, skip_bad, rating_range
        self._hashes = PairHashes()
        self.numbers = array("q")  # first line of each row
        self._starts: list[int] = []  # first row of each source
        self.n_skipped, self.n_cleaned_ids = 0, 0
        self.first_skipped: BadTable | None = None
        self._times: tuple[int, int] | None = None

    def write(self, path: Path, duplicates: str, progress: Progress) -> TableFacts:
        """Write the table without duplicates to `path`."""
        n_bytes = sum(source.n_bytes for source in self._sources)
        with table_writer(path) as writer, progress.task("ingest", n_bytes, "bytes") as task:
            for source in self._sources:
                self._starts.append(len(self.numbers))
                position = 0
                for batch in read_source(source, skip_bad=self._skip_bad, rating_range=self._rating_range):
                    self.n_skipped += batch.n_skipped
                    self.n_cleaned_ids += batch.n_cleaned_ids
                    self.first_skipped = self.first_skipped or batch.first_skipped
                    if batch.numbers:
                        self.numbers.extend(batch.numbers)
                        self._hashes.add(*batch.columns[:2])
                        writer.write(batch.columns)
                    task.advance(batch.position - position)
                    position = batch.position
                    del batch  # before the next one is read
            if not self.numbers:
                where, got = ", ".join(str(source.path) for source in self._sources), f"{self.n_skipped:,} bad lines"
                fix = f"The first: {self.first_skipped}" if self.first_skipped else "Give a file with reviews."
                raise BadTable("there are no valid reviews", where=where, got=got, fix=fix)
            keep = self._hashes.keep(duplicates)
            if keep.all():
                return self._finish(writer, keep)
        if duplicates == "error":
            first, second = self._hashes.first_repeat(keep)
            what = f"the same user has reviewed the same item before, at {self._location(first)}"
            raise BadTable(what, where=self._location(second), fix="Give --duplicates keep-last or keep-first.")
        all_rows = path.replace(path.with_stem(f"{path.stem}-all"))
        try:
            with table_writer(path) as writer:
                filter_table(all_rows, keep, writer)
                return self._finish(writer, keep)
        finally:
            all_rows.unlink()

    def summary(self) -> dict[str, object]:
        """Counts, the range of dates, and a warning if it cannot be that of reviews."""
        times, warning = self._times, None
        first, last = [str(np.datetime64(at, "s").astype("M8[D]")) for at in times or ()] or (None, None)
        if times and not _FIRST_REVIEWS <= times[0] <= times[1] <= time.time() + _DAY:
            warning = (
                f"the timestamps are from {first} to {last}: are they seconds since 1970? Only their order is used."
            )
        unread = [name for source in self._sources for name in source.keys if name not in source.names.values()]
        names = dict.fromkeys(name for name in unread if _TIME_NAME.search(name))
        if not times and names:
            what = f"no timestamps are read, though there are columns named {', '.join(names)}"
            warning = f"{what}: --columns timestamp={next(iter(names))} reads them."
        counts = {"n_skipped": self.n_skipped, "n_cleaned_ids": self.n_cleaned_ids}
        return {**counts, "first_date": first, "last_date": last, "warning": warning}

    def _finish(self, writer: TableWriter, keep: Bools) -> TableFacts:
        n_users, n_items = self._hashes.counts(keep)
        self._times = writer.times
        return writer.finish(n_users=n_users, n_items=n_items, rating_range=self._rating_range)

    def _location(self, row: int) -> str:
        source = max(i for i, start in enumerate(self._starts) if start <= row)
        return location(self._sources[source], self.numbers[row])


@dataclass(frozen=True, slots=True)
class SampleDomain:
    """A written synthetic domain."""

    domain: str
    n_reviews: int
    n_users: int
    n_items: int
    path: str


@dataclass(frozen=True, slots=True)
class SampleResult:
    """The written domains, in the requested order."""

    domains: Sequence[SampleDomain]
    note: str = NOTE


def sample(
    domains: Sequence[str] | None = None,
    *,
    n_reviews: int = 2000,
    seed: int = 0,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> SampleResult:
    """Write synthetic domains of `n_reviews` reviews each to `data/`, replacing tables of that name.

    The reviews depend only on the name, `n_reviews` and `seed`.

    Args:
        domains: names; None for electronics, movies_tv and video_games.

    Raises:
        BadName: a domain is not a slug.
        BadSetting: `n_reviews` below 1 or `seed` below 0.
        NoSpace: the disk is full or the workspace not writable.
    """
    workspace = Workspace.of(workspace)
    check_number("--n-reviews", n_reviews, 1, math.inf)
    check_number("--seed", seed, 0, math.inf)
    paths = {domain: workspace.table(domain) for domain in domains or SAMPLE_DOMAINS}
    written = []
    for domain, path in paths.items():
        world = draw_world(domain, n_reviews, seed)
        n_users, n_items = len(np.unique(world.users)), len(np.unique(world.items))
        with (
            new_file(path) as temporary,
            table_writer(temporary) as writer,
            progress.task(f"sample {domain}", world.n, "reviews") as task,
        ):
            for rows, texts in world.texts():
                ratings, times = world.ratings[rows].tolist(), world.timestamps[rows].tolist()
                writer.write((*world.ids(rows), ratings, texts, times))
                task.advance(len(texts))
            writer.finish(n_users=n_users, n_items=n_items, rating_range=(1.0, 5.0), synthetic=True)
        written.append(SampleDomain(domain, world.n, n_users, n_items, str(path)))
    progress.say(NOTE)
    return SampleResult(written)
