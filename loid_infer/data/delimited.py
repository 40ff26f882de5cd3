"""Reads CSV and TSV of every quoting, and detects rows that a stray quote would swallow."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias, cast

from loid_infer.data.values import bad, bad_encoding, clean_name
from loid_infer.errors import BadTable

QUOTINGS = ("auto", "standard", "backslash", "none")
MAX_FIELD_BYTES = 1 << 26  # bounds the memory a quote that is never closed can take

# Numbers of the first lines of rows, and their fields; or the number, the error, and how many lines it concerns.
DelimitedRows: TypeAlias = tuple[Sequence[int], list[list[str]]] | tuple[int, BadTable, int]
_BATCH_ROWS = 128  # with more, Python's garbage collector runs within a batch: twice as slow
_PEEKED_BYTES, _MIN_LINES = 8192, 8
SEP_LINE = re.compile(rb"(?i)sep=.\r?\n")  # the line with which Excel names the delimiter
_CR = "\udc0d"  # stands for CR in a file whose lines end with LF; invalid UTF-8 gives other surrogates
_LINE_END = re.compile(r"\r\n|\r|\n")
_QUOTING_FIX = 'If quotes are ordinary characters in this file, give --quoting none; if they are escaped as \\", {}.'


class DelimitedReader:
    """The rows of a CSV or TSV file.

    Quoting `standard` (RFC 4180) doubles a quote within quotes, `backslash` (Spark, MySQL) escapes it, and `none` makes
    it an ordinary character, so that each line is a row. `auto` and `auto backslash` are the first two, and refuse a
    quoted field which contains what look like further rows.
    """

    def __init__(self, content: io.BufferedReader, delimiter: str, quoting: str) -> None:
        csv.field_size_limit(MAX_FIELD_BYTES)
        head = content.peek(_PEEKED_BYTES)[:_PEEKED_BYTES].removeprefix(b"\xef\xbb\xbf")
        # Invalid UTF-8 becomes lone surrogates here, for `not_utf8`. Kept, since it closes the file when collected.
        self._text = io.TextIOWrapper(content, encoding="utf-8-sig", errors="surrogateescape", newline="\n")
        self._delimiter, self._quoting, self._has_cr = delimiter, quoting, False
        sep = SEP_LINE.match(head)
        self._n_before = 0  # lines that are not part of the table
        if sep:
            self._n_before, head = 1, head[sep.end() :]
            self._text.readline()
        lines = self._lines(ends_with_lf(head))
        escapes = quoting.endswith("backslash")
        if escapes:
            # A backslash before any other character is one, as Spark writes it.
            special = rf'[\\"{re.escape(delimiter)}\r\n]'
            pattern = re.compile(rf"\\(?!{special})|(\\{special})")
            lines = (pattern.sub(_doubled, line) if "\\" in line else line for line in lines)
        spaced = head.split(b"\n", 1)[0].replace(f"{delimiter} ".encode(), b"")
        self._reader = csv.reader(
            lines,
            delimiter=delimiter,
            escapechar="\\" if escapes else None,
            quoting=csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL,
            skipinitialspace=quoting != "none" and delimiter.encode() not in spaced,
            strict=quoting != "none",
        )

    def _lines(self, lf: bool) -> Iterator[str]:
        """The lines of the file. Where they end with LF, CR is an ordinary character and replaced."""
        for line in self._text:
            if "\r" not in line:
                yield line
            elif lf:
                self._has_cr = True
                yield line.replace("\r", _CR)
            elif line.endswith("\n"):
                yield line
            else:
                yield from io.StringIO(line, newline="")  # lines that end with CR

    def header(self) -> list[str]:
        """The first row that is not empty, its names cleaned. Raises `csv.Error`."""
        names = next((row for row in self._reader if row), [])
        self._has_cr = False
        return [clean_name(name.replace(_CR, "")) for name in names]

    def batches(self, n_fields: int, is_row: Callable[[Sequence[str]], bool]) -> Iterator[DelimitedRows]:
        """The rows after the header. `is_row` tells whether the fields of a line look like a row, be it a bad one."""
        while True:
            number, fault = self._n_lines() + 1, None
            rows: list[list[str]] = []
            try:
                rows.extend(islice(self._reader, _BATCH_ROWS))
            except csv.Error as error:  # after the rows before it
                fault = error
            if not rows and fault is None:
                return
            if self._has_cr:
                rows = [[field.replace(_CR, "\r") for field in row] for row in rows]
                self._has_cr = False
            regular = fault is None and self._n_lines() - number + 1 == len(rows)
            if regular and {*map(len, rows)} == {n_fields} and "".join(map("".join, rows)).isascii():
                yield range(number, number + len(rows)), rows
                continue
            numbers: list[int] = []
            good: list[list[str]] = []
            for row in rows:
                joined = "".join(row)
                n_lines = 1 + joined.count("\n")
                regular = n_lines == 1 and len(row) == n_fields and joined.isascii()
                if row and not regular and (problem := self._problem(row, n_lines, n_fields, is_row)):
                    if good:
                        yield numbers, good
                        numbers, good = [], []
                    yield number, problem, n_lines
                elif row:
                    numbers.append(number)
                    good.append(row)
                number += n_lines
            if good:
                yield numbers, good
            if fault:
                n_lines = self._n_lines() - number + 1
                yield number, self._fault(fault, n_lines), n_lines

    def _n_lines(self) -> int:
        """The number of lines read so far."""
        return self._reader.line_num + self._n_before

    def _problem(
        self, row: list[str], n_lines: int, n_fields: int, is_row: Callable[[Sequence[str]], bool]
    ) -> BadTable | None:
        if len(row) != n_fields:
            return bad("the number of fields differs from the header", str(n_fields), len(row))
        if problem := not_utf8(row):
            return problem
        if n_lines > 1 and self._quoting.startswith("auto") and self._swallows(row, is_row):
            what = "a quoted field contains what look like further rows"
            fix = _QUOTING_FIX.format("--quoting backslash; if the field is right, --quoting standard")
            return BadTable(what, got=f"{n_lines} lines", fix=fix)
        return None

    def _fault(self, error: csv.Error, n_lines: int) -> BadTable:
        kind = "TSV" if self._delimiter == "\t" else "CSV"
        if "unexpected end of data" in str(error):
            what, got = "a quote is opened and not closed until the end of the file", f"{n_lines:,} lines"
        else:
            what, got = f"not {kind}: {error}", f"{n_lines:,} lines"
        return BadTable(what, got=got if n_lines > 1 else "", fix=_QUOTING_FIX.format("--quoting backslash"))

    def _swallows(self, row: list[str], is_row: Callable[[Sequence[str]], bool]) -> bool:
        """Whether the first and another line of a row of several lines are rows themselves without quoting."""
        lines = [line.split(self._delimiter) for line in _LINE_END.split(self._delimiter.join(row))]
        if self._reader.dialect.skipinitialspace:
            lines = [[field.lstrip(" ") for field in fields] for fields in lines]
        first, *others = (len(fields) >= len(row) and is_row(fields) for fields in lines)
        return first and any(others)


def not_utf8(fields: Sequence[str]) -> BadTable | None:
    """The error of fields that were not UTF-8, or None."""
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return bad_encoding(list(fields))
    return None


def ends_with_lf(head: bytes) -> bool:
    """Whether lines end with LF alone: the first one does, and not most of the others with CR LF."""
    first, *others = head.split(b"\n")[:-1] or [b"\r"]
    n_crlf = sum(line.endswith(b"\r") for line in others)
    return not first.endswith(b"\r") and not (len(others) >= _MIN_LINES and n_crlf * 2 > len(others))


def uses_backslash(head: bytes, delimiter: str) -> bool:
    """Whether quotes are escaped by backslashes in the first lines of a file: only then are they rows of equal length.

    Or either way, and a field that is not quoted contains an escaped quote, which the standard does not allow.
    """
    if b'\\"' not in head or _rows(head, delimiter, "backslash") is None:
        return False
    rows = _rows(head, delimiter, "standard")
    return rows is None or (b'\\""' not in head and any('\\"' in field for row in rows for field in row))


def _rows(head: bytes, delimiter: str, quoting: str) -> list[list[str]] | None:
    """The rows of the head, or None if not all have the length of the header."""
    reader = DelimitedReader(io.BufferedReader(cast(io.RawIOBase, io.BytesIO(head))), delimiter, quoting)
    try:
        n_fields = len(reader.header())
    except csv.Error:
        return None
    rows: list[list[str]] = []
    faults = []
    for entry in reader.batches(n_fields, lambda _: True):
        if len(entry) == 3:
            faults.append(entry[1].what)
        else:
            rows += entry[1]
    # The head may end within a quoted field.
    return rows if not faults or (len(faults) == 1 and faults[0].startswith("a quote is opened")) else None


def _doubled(match: re.Match[str]) -> str:
    return match[1] or "\\\\"
