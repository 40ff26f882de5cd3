"""`ingest`: converts source files of reviews to the canonical table of a domain."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loid_infer.artifact import new_file
from loid_infer.data.canonical import TableFacts, TableWriter, filter_table, table_writer
from loid_infer.data.duplicates import POLICIES, PairHashes
from loid_infer.data.formats import Source, inspect
from loid_infer.data.sources import location, read_source
from loid_infer.errors import BadSetting, BadTable
from loid_infer.settings import Workspace, WorkspaceLike, check_choice
from loid_infer.types import SILENT, Bools, Progress, Task


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
    _check_options(sources, duplicates, on_bad, rating_range)
    inspected = [inspect(Path(source), format, columns or {}) for source in sources]
    with new_file(path) as temporary:
        stream = _Stream(inspected, on_bad == "skip", rating_range)
        facts = stream.write(temporary, duplicates, progress)
    return IngestResult(
        domain=domain,
        n_rows=facts.n_rows,
        n_users=facts.n_users,
        n_items=facts.n_items,
        n_empty_text=facts.n_empty_text,
        n_duplicates=len(stream.numbers) - facts.n_rows,
        n_skipped=stream.n_skipped,
        digest=facts.digest,
        path=str(path),
    )


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
                self._read(source, writer, task)
            if not self.numbers:
                raise BadTable(
                    "there are no valid reviews",
                    where=", ".join(str(source.path) for source in self._sources),
                    expected="at least one review",
                    got=f"{self.n_skipped:,} bad lines",
                    fix="Run again with --on-bad error to see what is wrong.",
                )
            keep = self._hashes.keep(duplicates)
            if keep.all():
                return self._finish(writer, keep)
        if duplicates == "error":
            first, second = self._hashes.first_repeat(keep)
            raise BadTable(
                "the same user has reviewed the same item before",
                where=self._location(second),
                expected="one review per pair",
                got=f"another at {self._location(first)}",
                fix="Give --duplicates keep-last or keep-first.",
            )
        all_rows = path.replace(path.with_stem(f"{path.stem}-all"))
        try:
            with table_writer(path) as writer:
                filter_table(all_rows, keep, writer)
                return self._finish(writer, keep)
        finally:
            all_rows.unlink()

    def _read(self, source: Source, writer: TableWriter, task: Task) -> None:
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

    def _finish(self, writer: TableWriter, keep: Bools) -> TableFacts:
        n_users, n_items = self._hashes.counts(keep)
        return writer.finish(n_users=n_users, n_items=n_items, rating_range=self._rating_range)

    def _location(self, row: int) -> str:
        source = max(i for i, start in enumerate(self._starts) if start <= row)
        return location(self._sources[source], self.numbers[row])


def _check_options(sources: Sequence[Path], duplicates: str, on_bad: str, rating_range: tuple[float, float]) -> None:
    low, high = rating_range
    if not sources:
        raise BadSetting("there is no source", where="ingest", expected="at least one file")
    check_choice("duplicates", duplicates, POLICIES)
    check_choice("on-bad", on_bad, ("error", "skip"))
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise BadSetting(
            "invalid range",
            where="--rating-range",
            expected="LOW,HIGH with LOW < HIGH",
            got=f"{low:g},{high:g}",
            fix="Give for example --rating-range 1,5",
        )
