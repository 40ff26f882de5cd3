"""Source files as one stream of checked rows, and tables of (user, item) pairs without duplicates from it."""

from __future__ import annotations

import re
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from loid_infer.data.canonical import RowWriter, filter_table, row_writer
from loid_infer.data.duplicates import KEEP_ALL, PairHashes
from loid_infer.data.formats import Source
from loid_infer.data.kinds import REVIEWS, Check
from loid_infer.data.sources import SourceBatch, location, read_source
from loid_infer.errors import BadTable
from loid_infer.types import NO_TIME, Bools, Ints, Progress

_TIME_NAME = re.compile(r"(?:^|[^A-Za-z])(?i:date|time)|[a-z](?:Date|Time)(?:stamp|$)")
_FIRST_REVIEWS, _DAY = 631_152_000, 86_400  # 1990, in seconds since 1970; seconds
T = TypeVar("T")


class Stream:
    """The rows of sources of one kind, in order."""

    def __init__(self, sources: Sequence[Source], check: Check, skip_bad: bool) -> None:
        self.sources, self.kind = sources, sources[0].kind
        self._check, self._skip_bad = check, skip_bad
        self.n_rows, self.n_skipped, self.n_cleaned_ids = 0, 0, 0
        self.first_skipped: BadTable | None = None

    def batches(self, progress: Progress) -> Iterator[tuple[int, SourceBatch]]:
        """The number of each batch's source, and the batch, which has rows.

        Raises BadTable for a bad line unless bad ones are skipped, and if there are no rows in the end.
        """
        n_bytes = sum(source.n_bytes for source in self.sources)
        with progress.task("ingest", n_bytes, "bytes") as task:
            for number, source in enumerate(self.sources):
                position = 0
                for batch in read_source(source, self._check, skip_bad=self._skip_bad):
                    self.n_rows += len(batch.numbers)
                    self.n_skipped += batch.n_skipped
                    self.n_cleaned_ids += batch.n_cleaned_ids
                    self.first_skipped = self.first_skipped or batch.first_skipped
                    if batch.numbers:
                        yield number, batch
                    task.advance(batch.position - position)
                    position = batch.position
                    del batch  # before the next one is read
        if not self.n_rows:
            where, got = ", ".join(str(source.path) for source in self.sources), f"{self.n_skipped:,} bad lines"
            fix = f"The first: {self.first_skipped}" if self.first_skipped else f"Give a file with {self.kind.what}."
            raise BadTable(f"there are no valid {self.kind.what}", where=where, got=got, fix=fix)

    def say_skipped(self, progress: Progress) -> None:
        """Tell how many bad lines were skipped, and the first."""
        if self.first_skipped:
            progress.say(f"skipped {self.n_skipped:,} bad lines, the first: {self.first_skipped}")


class PairTable:
    """Writes the rows of a stream as a table with one row for each pair of a user and an item.

    Needs 24 bytes of memory per row, and 40 for interactions.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._hashes = PairHashes()
        self._numbers = array("q")  # first line of each row
        self._starts: list[tuple[int, int]] = []  # first row and number of each source that has rows
        # Time and position of each row, unless it is a review.
        self._order = None if stream.kind is REVIEWS else (array("q"), array("q"))
        self._writer: RowWriter | None = None
        self._keep: Bools = np.ones(0, np.bool_)

    def write(self, path: Path, duplicates: str, progress: Progress, finish: Callable[[RowWriter, int, int], T]) -> T:
        """Write the table to `path`, and return what `finish(writer, n_users, n_items)` makes of it.

        `duplicates` is one of POLICIES or KEEP_ALL. Interactions of a pair are compared by time and position, reviews
        by the order of rows. Raises BadTable for `error` if there are duplicates, and see `Stream.batches`.
        """
        schema = self._stream.kind.schema
        with row_writer(path, schema) as writer:
            self._read(writer, progress)
            self._keep = np.ones(len(self._numbers), np.bool_)
            if duplicates != KEEP_ALL:
                self._keep = self._hashes.keep(duplicates, self._times() if duplicates != "error" else ())
            if self._keep.all():
                return self._finished(writer, finish)
        if duplicates == "error":
            first, second = self._hashes.first_repeat(self._keep)
            done = "has reviewed the same item" if not self._order else "has interacted with the same item"
            what = f"the same user {done} before, at {self._location(first)}"
            raise BadTable(what, where=self._location(second), fix="Give --duplicates keep-last or keep-first.")
        all_rows = path.replace(path.with_stem(f"{path.stem}-all"))
        try:
            with row_writer(path, schema) as writer:
                filter_table(all_rows, self._keep, writer)
                return self._finished(writer, finish)
        finally:
            all_rows.unlink()

    @property
    def n_duplicates(self) -> int:
        """Rows that were left out."""
        return int(np.count_nonzero(~self._keep))

    def n_tied(self) -> int:
        """Rows of the table whose order is unknown: the user has another one of the same time and position."""
        users, _ = self._hashes.codes()
        keys = [part[self._keep] for part in (*self._times(), users)]
        order = np.lexsort(keys)
        same = np.logical_and.reduce([part[order][1:] == part[order][:-1] for part in keys])
        padded = np.concatenate([[False], same, [False]])
        return int(np.count_nonzero(padded[1:] | padded[:-1]))

    def summary(self) -> dict[str, object]:
        """Counts, the range of dates, and a warning if it cannot be that of what people did."""
        times, warning = self._writer.times if self._writer else None, None
        first, last = [str(np.datetime64(at, "s").astype("M8[D]")) for at in times or ()] or (None, None)
        if times and not _FIRST_REVIEWS <= times[0] <= times[1] <= time.time() + _DAY:
            warning = (
                f"the timestamps are from {first} to {last}: are they seconds since 1970? Only their order is used."
            )
        unread = [name for source in self._stream.sources for name in source.keys if name not in source.names.values()]
        names = dict.fromkeys(name for name in unread if _TIME_NAME.search(name))
        if not times and names:
            what = f"no timestamps are read, though there are columns named {', '.join(names)}"
            warning = f"{what}: --columns timestamp={next(iter(names))} reads them."
        counts = {"n_skipped": self._stream.n_skipped, "n_cleaned_ids": self._stream.n_cleaned_ids}
        dates = {"first_date": first, "last_date": last, "warning": warning}
        return {**counts, **dates, "n_duplicates": self.n_duplicates}

    def _read(self, writer: RowWriter, progress: Progress) -> None:
        for number, batch in self._stream.batches(progress):
            if not self._starts or self._starts[-1][1] != number:
                self._starts.append((len(self._numbers), number))
            columns = batch.columns
            self._numbers.extend(batch.numbers)
            self._hashes.add(*columns[:2])
            writer.write(columns)
            for values, column in zip(self._order or (), columns[2:], strict=False):
                values.extend(NO_TIME if value is None else value for value in column)

    def _times(self) -> list[Ints]:
        """Positions and times `[n]`, the more important last; none for reviews."""
        return [np.asarray(part) for part in reversed(self._order or ())]

    def _finished(self, writer: RowWriter, finish: Callable[[RowWriter, int, int], T]) -> T:
        self._writer = writer
        return finish(writer, *self._hashes.counts(self._keep))

    def _location(self, row: int) -> str:
        _, number = max(start for start in self._starts if start[0] <= row)
        return location(self._stream.sources[number], self._numbers[row])
