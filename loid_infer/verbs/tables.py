"""`ingest` and `sample`: write canonical tables, of source files or of synthetic reviews."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import structs

from loid_infer.artifact import new_file
from loid_infer.data.canonical import TableFacts, TableWriter, filter_table, table_writer
from loid_infer.data.duplicates import POLICIES, PairHashes
from loid_infer.data.formats import Source, inspect
from loid_infer.data.sample import draw_world
from loid_infer.data.sources import location, read_source
from loid_infer.errors import BadSetting, BadTable
from loid_infer.records import narrowed
from loid_infer.settings import SAMPLE_DOMAINS, Workspace, WorkspaceLike, check_choice, check_number
from loid_infer.types import SILENT, Bools, Progress

NOTE = "These reviews are synthetic: nobody wrote them, and figures measured on them say nothing of real data."


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


def ingest(
    sources: Sequence[Path],
    domain: str,
    *,
    workspace: WorkspaceLike = None,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    duplicates: str = "keep-last",
    on_bad: str = "error",
    rating_range: tuple[float, float] = (1.0, 5.0),
    progress: Progress = SILENT,
) -> IngestResult:
    """Read `sources` in order into `data/<domain>.parquet`. After an error the old table is unchanged.

    Args:
        columns: canonical column -> the source's name, for any format.
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
    inspected = [inspect(Path(source), format, columns or {}) for source in sources]
    with new_file(path) as temporary:
        stream = _Stream(inspected, on_bad == "skip", rating_range)
        facts = stream.write(temporary, duplicates, progress)
    rest = {"domain": domain, "n_duplicates": len(stream.numbers) - facts.n_rows, "n_skipped": stream.n_skipped}
    return narrowed({**structs.asdict(facts), **rest, "path": str(path)}, IngestResult)


class _Stream:
    """The sources as one stream of rows. Needs 24 bytes of memory per row."""

    def __init__(self, sources: Sequence[Source], skip_bad: bool, rating_range: tuple[float, float]) -> None:
        self._sources, self._skip_bad, self._rating_range = sources, skip_bad, rating_range
        self._hashes = PairHashes()
        self.numbers = array("q")  # first line of each row
        self._starts: list[int] = []  # first row of each source
        self.n_skipped = 0

    def write(self, path: Path, duplicates: str, progress: Progress) -> TableFacts:
        """Write the table without duplicates to `path`."""
        n_bytes = sum(source.n_bytes for source in self._sources)
        with table_writer(path) as writer, progress.task("ingest", n_bytes, "bytes") as task:
            for source in self._sources:
                self._starts.append(len(self.numbers))
                position = 0
                for batch in read_source(source, skip_bad=self._skip_bad, rating_range=self._rating_range):
                    self.n_skipped += batch.n_skipped
                    if batch.rows:
                        numbers, *columns = zip(*batch.rows, strict=True)
                        self.numbers.extend(numbers)
                        self._hashes.add(columns[0], columns[1])
                        writer.write(columns)
                    task.advance(batch.position - position)
                    position = batch.position
            if not self.numbers:
                where, fix = ", ".join(str(source.path) for source in self._sources), "Use --on-bad error to see why."
                raise BadTable("there are no valid reviews", where=where, got=f"{self.n_skipped:,} bad lines", fix=fix)
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

    def _finish(self, writer: TableWriter, keep: Bools) -> TableFacts:
        n_users, n_items = self._hashes.counts(keep)
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
