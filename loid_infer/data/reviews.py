"""Reads the canonical table of a domain as a corpus of texts and as interactions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loid_infer.data.canonical import (
    INTERACTION_FORMAT,
    METADATA_KEY,
    SCHEMA,
    TABLE_FORMAT,
    TableFacts,
    arrow_errors,
    blank,
    string_parts,
)
from loid_infer.data.corpora import hashed
from loid_infer.errors import BadTable
from loid_infer.records import decode, typed
from loid_infer.settings import Workspace
from loid_infer.types import DIGEST_BYTES, NO_TIME, Bools, Digests, Interactions, Ints, Progress

MAX_PIECE_TEXTS = 4_096
MAX_PIECE_BYTES = 8_000_000
F = TypeVar("F")


def open_table(path: Path, domain: str) -> ReviewTable:
    """Open the canonical table of `domain`.

    Raises BadTable if it is missing, damaged, not written by `ingest`, or has interactions without reviews.
    """
    fix = f"Run: loid-infer ingest SRC --domain {domain}"
    if not path.is_file():
        known = ", ".join(sorted(table.stem for table in path.parent.glob("[!.]*.parquet") if "." not in table.stem))
        what = f"there is no table for domain {domain!r}"
        raise BadTable(what, where=str(path), got=known and f"tables for {known}", fix=fix)
    if is_implicit(path):
        what, expected = "the table has interactions without reviews, which have neither ratings nor texts", "reviews"
        advice = "Give a domain with reviews, or ingest reviews under another name: loid-infer ingest SRC --domain NAME"
        raise BadTable(what, where=str(path), expected=expected, got="what ingest --implicit wrote", fix=advice)
    facts, group_rows = open_file(path, SCHEMA, TABLE_FORMAT, TableFacts, fix)
    return ReviewTable(path, domain, facts, np.cumsum([0, *group_rows]))


def open_file(
    path: Path, schema: Any, form: object, facts: type[F], fix: str, count: str = "n_rows"
) -> tuple[F, list[int]]:
    """The metadata of a table written by `RowWriter`, and the numbers of rows of its row groups.

    Raises BadTable, with `fix`, if it cannot be read, has another format than `form`, or contradicts its metadata, of
    which the field `count` is the number of rows.
    """

    def bad(what: str, expected: str = "", got: str = "") -> BadTable:
        return BadTable(what, where=str(path), expected=expected, got=got, fix=fix)

    with arrow_errors("the table cannot be read", str(path), fix), pq.ParquetFile(path) as file:
        found, stored = file.schema_arrow, file.metadata.metadata or {}
        group_rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    got = ", ".join(found.names)
    if METADATA_KEY not in stored:
        raise bad("not a canonical table", "a parquet file written by ingest", f"one with the columns {got}")
    where = f"{path}, metadata"
    metadata = decode(stored[METADATA_KEY], dict[str, Any], fix, where=where, error=BadTable)
    if metadata.get("format") != form:
        raise bad("unsupported table format", str(form), str(metadata.get("format")))
    record = typed(metadata, facts, fix, where=where, error=BadTable)
    n_rows = getattr(record, count)
    if not found.equals(schema, check_metadata=False) or n_rows != sum(group_rows):
        expected = f"{n_rows} rows of {', '.join(schema.names)}"
        raise bad("the table contradicts its metadata", expected, f"{sum(group_rows)} rows of {got}")
    return record, group_rows


def is_implicit(path: Path) -> bool:
    """Whether a table was written by `ingest --implicit`. False for what cannot be read."""
    try:
        stored = (pq.read_metadata(path).metadata or {}).get(METADATA_KEY, b"")
    except (pa.ArrowException, UnicodeDecodeError, OSError):
        return False
    return INTERACTION_FORMAT.rstrip("0123456789").encode() in stored  # of any version


def review_domains(workspace: Workspace) -> list[str]:
    """The domains whose table is of reviews, or cannot be read."""
    return [domain for domain in workspace.domains() if not is_implicit(workspace.table(domain))]


@dataclass(frozen=True, slots=True, eq=False)
class ReviewTable:
    """The reviews of a domain, opened by `open_table` and read on demand."""

    path: Path
    domain: str
    facts: TableFacts
    group_starts: Ints  # [n_groups + 1], first row of each row group, then n_rows

    @property
    def name(self) -> str:
        """The domain; see `Corpus`."""
        return self.domain

    @property
    def n_rows(self) -> int:
        """Number of reviews."""
        return self.facts.n_rows

    @property
    def digest(self) -> str:
        """Digest of the table's content, 64 hex digits."""
        return self.facts.digest

    def digests(self, progress: Progress) -> Digests:
        """See `Corpus`."""
        return self._digests_and_blanks(progress)[0]

    def pieces(self, progress: Progress) -> Iterator[tuple[int, Digests]]:
        """See `Corpus`; one per row group."""
        for start, digests, _ in self._hashed_groups(progress):
            yield start, digests

    def texts(self, rows: Ints) -> Iterator[tuple[Ints, Sequence[str]]]:
        """See `Corpus`; in batches of at most 4,096 texts and about 8 MB. Only the necessary row groups are read."""
        rows = np.asarray(rows)
        if len(rows) and (rows[0] < 0 or rows[-1] >= self.n_rows or (np.diff(rows) < 0).any()):
            raise ValueError(f"row numbers must ascend within 0..{self.n_rows - 1}")
        bounds = np.searchsorted(rows, self.group_starts)
        with self._file() as file:
            for number in np.flatnonzero(np.diff(bounds)):
                wanted = rows[bounds[number] : bounds[number + 1]]
                column = file.read_row_group(int(number), columns=["text"]).column("text").combine_chunks()
                column = column.take(pa.array(wanted - self.group_starts[number]))
                for first, last in _pieces(string_parts(column)[0]):
                    yield wanted[first:last], column[first:last].to_pylist()

    def interactions(self, progress: Progress) -> Interactions:
        """The reviews as arrays."""
        ids = ["user_id", "item_id"]
        with self._file(read_dictionary=ids) as file:
            table = file.read(columns=[*ids, "rating", "timestamp"])
        user_ids, users = coded(table.column("user_id"))
        item_ids, items = coded(table.column("item_id"))
        ratings = table.column("rating").to_numpy()
        timestamps = pc.fill_null(table.column("timestamp"), NO_TIME).to_numpy()
        del table
        digests, empty = self._digests_and_blanks(progress)
        # The first row of each unique digest, in digest order, and the position of every row's digest.
        _, first, texts = np.unique(digests.view("S16").ravel(), return_index=True, return_inverse=True)
        return Interactions(
            user_ids=user_ids,
            item_ids=item_ids,
            users=users,
            items=items,
            ratings=ratings,
            timestamps=timestamps,
            texts=texts,
            digests=digests[first],
            empty=empty[first],
            rating_range=self.facts.rating_range,
            digest=self.digest,
        )

    @contextmanager
    def _file(self, read_dictionary: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
        """The open parquet file; page checksums are verified. Raises BadTable if it is damaged."""
        fix = f"Run: loid-infer ingest SRC --domain {self.domain}"
        with (
            arrow_errors("the table is damaged", str(self.path), fix),
            pq.ParquetFile(self.path, read_dictionary=read_dictionary, page_checksum_verification=True) as file,
        ):
            yield file

    def _digests_and_blanks(self, progress: Progress) -> tuple[Digests, Bools]:
        digests = np.empty((self.n_rows, DIGEST_BYTES), np.uint8)
        blanks = np.empty(self.n_rows, np.bool_)
        for start, hashed_texts, blank_texts in self._hashed_groups(progress):
            digests[start : start + len(hashed_texts)] = hashed_texts
            blanks[start : start + len(hashed_texts)] = blank_texts
        return digests, blanks

    def _hashed_groups(self, progress: Progress) -> Iterator[tuple[int, Digests, Bools]]:
        """First row of each row group, and for its texts the digests `[m, 16]` and whether they are blank `[m]`."""
        with progress.task("digests", self.n_rows, "texts") as task, self._file() as file:
            for number, start in enumerate(self.group_starts[:-1].tolist()):
                column = file.read_row_group(number, columns=["text"]).column("text").combine_chunks()
                offsets, content = string_parts(column)
                # Slices of the buffer are hashed in place, without creating strings.
                yield start, hashed(content[a:b] for a, b in pairwise(offsets.tolist())), blank(column)
                task.advance(len(column))


def _pieces(offsets: Ints) -> Iterator[tuple[int, int]]:
    """Ranges of at most MAX_PIECE_TEXTS strings and MAX_PIECE_BYTES bytes, but at least one string."""
    first, n = 0, len(offsets) - 1
    while first < n:
        fitting = int(np.searchsorted(offsets, offsets[first] + MAX_PIECE_BYTES, side="right")) - 1
        last = min(max(fitting, first + 1), first + MAX_PIECE_TEXTS, n)
        yield first, last
        first = last


def coded(column: Any) -> tuple[list[str], Ints]:
    """The sorted distinct strings of a dictionary-encoded column, and codes `[n]` into them."""
    column = column.combine_chunks()
    # Arrow sorts by UTF-8 bytes, which is the same order as Python's.
    order = pc.sort_indices(column.dictionary).to_numpy()
    ranks = np.argsort(order).astype(np.int32)
    return column.dictionary.take(pa.array(order)).to_pylist(), ranks[column.indices.to_numpy()]
