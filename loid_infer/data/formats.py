"""Recognizes the format of a source file by its content, not its name."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow.parquet as pq

from loid_infer.data.canonical import arrow_errors
from loid_infer.data.compression import READ_FAULTS, accompanies, cut, is_compressed, open_bytes, unpacker
from loid_infer.data.delimited import MAX_FIELD_BYTES, QUOTINGS, SEP_LINE, uses_backslash
from loid_infer.data.jsonlines import record_of
from loid_infer.data.kinds import ITEMS, REVIEWS, Kind
from loid_infer.data.movielens import layout_of
from loid_infer.data.values import clean_name
from loid_infer.errors import BadSetting, BadTable
from loid_infer.settings import check_choice

FORMATS = ("amazon2014", "amazon2018", "amazon2023", "jsonl", "csv", "tsv", "parquet")
HEADLESS = "movielens"  # another format, of interactions and items
UNREAD = "\0"  # stands for the name of a column that is not read
_DELIMITERS = {",": "csv", "\t": "tsv", ";": "csv", "|": "csv"}
_AMAZON = ("reviewerID", "asin", "overall", "reviewText", "unixReviewTime")
_AMAZON_2023 = ("user_id", "parent_asin", "rating", "text", "timestamp")  # the title is not read
# The columns of a source of reviews, in the order of SCHEMA.
_COLUMNS = {"amazon2014": _AMAZON, "amazon2018": _AMAZON, "amazon2023": _AMAZON_2023}

_HEAD_BYTES = 1 << 20
_LAKES = {"_delta_log": "Delta Lake", ".hoodie": "Hudi", "metadata": "Iceberg"}
# Python keeps whole numbers exact, where jq before 1.7 rounds them.
_FROM_ARRAY = 'python3 -c "import json, sys; [print(json.dumps(r)) for r in json.load(sys.stdin)]" <'
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # starts like that of UTF-16
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# The first bytes of what is no table of reviews -> what it is, and what to do.
_FOREIGN = {
    b"version https://git-lfs": ("a Git LFS pointer instead of the file", "Run: git lfs pull"),
    b"SQLite format 3\0": ("an SQLite database", "Run: sqlite3 -header -csv {path} 'SELECT ...' > {out}.csv"),
    b"ARROW1": ("an Arrow (Feather) file", "Run: {to_parquet}"),
    b"\xff\xff\xff\xff": ("an Arrow stream", "Run: {to_parquet}"),
    b"ORC": ("an ORC file", "Run: {to_parquet}"),
    b"Obj\x01": ("an Avro file", "Convert it to parquet or JSON lines."),
    b"\x89HDF": ("an HDF5 file", "Convert it to parquet."),
    b"\x80": ("pickled Python objects", "Convert them to parquet where they were made: to load them can run code."),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "Save the sheet as CSV in UTF-8."),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "Run: 7z x {path}"),
    b"Rar!": ("a RAR archive", "Run: unrar x {path}"),
    b"!<arch>\n": ("an ar archive", "Run: ar x {path}"),
    b"07070": ("a cpio archive", "Run: cpio -id < {path}"),
    b"\xc7\x71": ("a cpio archive", "Run: cpio -id < {path}"),
    b"%PDF": ("a PDF", "Give the file of reviews."),
    b"<": ("an HTML or XML page", "Download the file again: this may be an error page."),
}
_TEXT_LIKE = (b"ORC", b"07070")  # may begin a table, which has no null bytes: ORCID,... and 0707012345,...
# What reads those of them that pyarrow can convert to parquet.
_READ_BY_ARROW = {
    b"ARROW1": "feather.read_table(sys.argv[1])",
    b"\xff\xff\xff\xff": "ipc.open_stream(sys.argv[1]).read_all()",
    b"ORC": "orc.read_table(sys.argv[1])",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A file of known format."""

    path: Path
    format: str  # one of FORMATS, or HEADLESS
    n_bytes: int  # on disk
    names: Mapping[str, str]  # canonical name -> the source's name, in the order of the kind's columns
    overrides: Mapping[str, str]  # those of `names` that the user gave
    delimiter: str = ""  # of CSV, TSV and MovieLens
    quoting: str = "auto"  # of CSV and TSV, see `DelimitedReader`
    keys: Sequence[str] = ()  # the names of columns, or those of the first JSON objects
    kind: Kind = REVIEWS


def inspect_all(
    paths: Sequence[Path], format: str, overrides: Mapping[str, str], quoting: str, kind: Kind
) -> list[Source]:
    """Recognize the files of `paths`, see `files_of` and `inspect`; empty ones are passed over.

    Raises BadSetting without a path, and BadTable if all files are empty.
    """
    if not paths:
        raise BadSetting("there is no source", where="ingest", expected="at least one file")
    files = [file for path in paths for file in files_of(Path(path))]
    sources = [source for file in files if (source := inspect(file, format, overrides, quoting, kind))]
    if not sources:
        where = ", ".join(map(str, files))[:200]
        got = "white space only" if any(file.stat().st_size for file in files) else "an empty file"
        raise BadTable("the file has no content", where=where, got=got, fix="Give another file.")
    return sources


def inspect(
    path: Path, format: str, overrides: Mapping[str, str], quoting: str = "auto", kind: Kind = REVIEWS
) -> Source | None:
    """Recognize the format of a file of some kind of rows; None if it is empty.

    Raises BadSetting for an unknown format, quoting or override, and BadTable if the file cannot be read, is not UTF-8,
    of no known format, or of another one than `format`.
    """
    check_choice("format", format, ("auto", *FORMATS, *([HEADLESS] if kind is not REVIEWS else [])))
    check_choice("quoting", quoting, QUOTINGS)
    names = _names("auto", overrides, kind, ())  # checks the overrides before the file
    head, n_bytes = _head(path), path.stat().st_size
    if not head.strip():
        return None
    wanted = {*names.values(), *chain(*kind.aliases.values())}
    recognized, keys = _format_of(path, head, wanted, kind)
    compatible = {"auto": (*FORMATS, HEADLESS), **dict.fromkeys(FORMATS[:2], FORMATS[:2]), "jsonl": FORMATS[:4]}
    delimiter = ""
    if recognized in _DELIMITERS:
        delimiter, recognized = recognized, _DELIMITERS[recognized]
        quoting = "auto backslash" if quoting == "auto" and uses_backslash(head, delimiter) else quoting
    elif recognized == HEADLESS and (layout := layout_of(head)):
        delimiter = layout[0]
    if recognized not in compatible.get(format, (format,)):
        what, fix = f"the content is {recognized}, not {format}", "Omit --format, or give the correct one."
        raise BadTable(what, where=str(path), fix=fix)
    chosen = recognized if format == "auto" else format
    names = _names(chosen, overrides, kind, keys)
    return Source(path, chosen, n_bytes, names, overrides, delimiter, quoting, keys, kind)


def files_of(path: Path) -> list[Path]:
    """The file itself, or those of a folder in the order of their names, but not those that only accompany data.

    Such are hidden files, `_SUCCESS` and checksums, which Spark writes beside its parts, and read-me files. Raises
    BadTable if there are no others, or if the folder is a table of a format with files for deleted rows.
    """
    if not path.is_dir():
        return [path]
    parts: list[Path] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(path, onerror=_unreadable, followlinks=True):
        lake = next((name for name in folders if name in _LAKES), "")
        if Path(folder).name == "metadata" and any(name.endswith(".metadata.json") for name in names):
            lake = "metadata"
        if lake:
            what = f"a {_LAKES[lake]} table, whose files may hold deleted rows"
            raise BadTable(what, where=str(path), fix="Export it as parquet with the tool that wrote it.")
        real = os.path.realpath(folder)
        if real in seen:  # by a link
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if name[0] not in "._"]
        parts += [Path(folder) / name for name in names if not accompanies(name)]
    if not parts:
        raise BadTable("the folder contains no files of data", where=str(path), fix="Give another folder or a file.")
    return sorted(parts)


def _unreadable(error: OSError) -> None:
    what, fix = f"the folder cannot be read: {error.strerror}", "Make it readable, or give the files to read."
    raise BadTable(what, where=str(error.filename), fix=fix) from error


def _names(format: str, overrides: Mapping[str, str], kind: Kind, keys: Sequence[str]) -> dict[str, str]:
    for name, source in overrides.items():
        if name not in kind.columns or not source:
            expected = f"NAME=SOURCE with NAME one of {', '.join(kind.columns)}"
            got, fix = repr(f"{name}={source}"), f"Give for example --columns {kind.example}"
            raise BadSetting("invalid column mapping", where="--columns", expected=expected, got=got, fix=fix)
    cleaned = {name: clean_name(source) for name, source in overrides.items()}
    names = {**_default_names(format, kind, keys), **cleaned}
    for name, source in cleaned.items():
        other = next((key for key in names if key != name and names[key] == source), None)
        # A column that is read under its own name by default need not exist, but cannot be read as two things.
        if other and (other in overrides or (format != "auto" and other in kind.required)):
            what, got = "one source column is mapped twice", f"{source} as {name} and {other}"
            raise BadSetting(what, where="--columns", got=got, fix=f"Map {other} to another column.")
        if other and format != "auto":
            names[other] = UNREAD
    return names


def _default_names(format: str, kind: Kind, keys: Sequence[str]) -> dict[str, str]:
    if not kind.aliases:
        return dict(zip(kind.columns, _COLUMNS.get(format, kind.columns), strict=True))
    return {name: next((alias for alias in kind.aliases[name] if alias in keys), name) for name in kind.columns}


def _head(path: Path) -> bytes:
    """About the first MiB of the content, up to the end of a line."""
    head = bytearray()
    with open_bytes(path) as (_, content):
        try:
            while len(head) < _HEAD_BYTES and (piece := content.read1(1 << 16)):
                head += piece
            head += content.readline(MAX_FIELD_BYTES)
        except READ_FAULTS as error:
            if not head:
                raise cut(path, 0, error) from error
        return bytes(head)


def _format_of(path: Path, head: bytes, columns: set[str], kind: Kind) -> tuple[str, Sequence[str]]:
    """A format or, for CSV and TSV, the delimiter; and the names of columns, or keys of JSON objects, in the head."""
    if head.startswith(b"PAR1"):
        with path.open("rb") as raw:
            if raw.read(4) == b"PAR1":
                with arrow_errors("the parquet file is truncated or damaged", str(path), "Download or write it again."):
                    return "parquet", pq.read_schema(path).names
        raise BadTable("a compressed parquet file", where=str(path), fix="Decompress it first.")
    _check_not_foreign(path, head)
    _check_encoding(path, head)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if kind is not REVIEWS and (layout := layout_of(head)):
        return HEADLESS, layout[1]
    keys = _json_keys(text)
    if keys is None:
        _check_not_json(path, text)
    else:
        _check_utf8(path, head)
        return _json_format({*keys}, kind), keys
    control = sum(head[:4096].count(byte) for byte in (*range(9), *range(14, 32)))
    headers = _headers(text)
    if max(map(len, headers.values())) < 2 or control > len(head[:4096]) // 20:
        first = text.split(b"\n", 1)[0][:60]
        fix = "Give JSON lines, CSV or TSV with a header, or parquet; plain, .gz, .zst, .bz2, .xz or .zip."
        if layout_of(head):
            fix = "A file of MovieLens has no reviews: ingest its ratings with --implicit, its titles with --items."
        raise BadTable(f"unknown format with the first line {first!r}", where=str(path), fix=fix)
    _check_utf8(path, head)
    # A column name may contain another delimiter, so take the header with more of the wanted columns.
    order = list(_DELIMITERS)
    best = max(headers, key=lambda mark: (len(columns & {*headers[mark]}), len(headers[mark]), -order.index(mark)))
    return best, headers[best]


def _headers(text: bytes) -> dict[str, list[str]]:
    csv.field_size_limit(_HEAD_BYTES + MAX_FIELD_BYTES)
    if SEP_LINE.match(text):
        text = text.split(b"\n", 1)[1]
    header = next(io.StringIO(text.decode("utf-8", "replace"), newline=""), "")
    rows = {mark: next(csv.reader([header], delimiter=mark, skipinitialspace=True), []) for mark in _DELIMITERS}
    return {mark: [clean_name(name) for name in row] for mark, row in rows.items()}


def _json_keys(head: bytes) -> list[str] | None:
    """Keys of the JSON objects in the first lines; None if less than half of the lines are objects.

    A text of CSV may contain a line like `{}`.
    """
    if b"{" not in head:
        return None
    keys: dict[str, None] = {}
    n_objects = n_others = 0
    for line in head.split(b"\n"):
        record = record_of(line)
        if record is not None:
            n_objects += 1
            keys.update(dict.fromkeys(map(str, record)))
        elif line.strip():
            n_others += 1
    return list(keys) if n_objects and n_objects >= n_others else None


def _json_format(names: set[str], kind: Kind) -> str:
    if kind is ITEMS and "asin" in names and "parent_asin" not in names:
        return "amazon2018" if "category" in names else "amazon2014"
    if {"user_id", "item_id", "rating"} <= names:
        return "jsonl"
    if names & {"reviewerID", "reviewText", "overall", "unixReviewTime"}:
        return "amazon2018" if "verified" in names else "amazon2014"
    if "parent_asin" in names or ("asin" in names and "item_id" not in names):
        return "amazon2023"
    return "jsonl"


def _check_not_json(path: Path, text: bytes) -> None:
    """Raise BadTable for JSON that is not one object per line, with the command that converts it."""
    first = text.split(b"\n", 1)[0].rstrip()
    what, program = "", ""
    if re.match(rb"\[\s*(\{|\]|$)", text):
        what, program = "a JSON array", _FROM_ARRAY
    elif first.startswith(b"{") and first.endswith(b"},"):
        what, program = "JSON objects with a comma after each", "sed 's/,[[:space:]]*$//'"
    elif first.startswith(b"{"):
        what, program = "JSON objects over several lines", "jq -c ."
    if what:
        fix = f"Run: {_converted(path, program, 'jsonl')}"
        raise BadTable(what, where=str(path), expected="one JSON object per line", fix=fix)


def _converted(path: Path, program: str, suffix: str) -> str:
    """A shell command that converts a file, which may be compressed, into another one in the current folder."""
    with path.open("rb") as raw:
        unpack = unpacker(raw.read(6))
    out = shlex.quote(f"{path.name}.converted.{suffix}")
    name = shlex.quote(str(path))
    return f"{unpack} {name} | {program.removesuffix(' <')} > {out}" if unpack else f"{program} {name} > {out}"


def _check_not_foreign(path: Path, head: bytes) -> None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for magic, (what, fix) in _FOREIGN.items():
        if text.startswith(magic) and not (magic in _TEXT_LIKE and b"\0" not in head[:4096]):
            name, out, read = (
                shlex.quote(str(path)),
                shlex.quote(f"{path.name}.converted"),
                _READ_BY_ARROW.get(magic, ""),
            )
            code = f"import sys, pyarrow.parquet, pyarrow.{read.partition('.')[0]}"
            code += f"; pyarrow.parquet.write_table(pyarrow.{read}, sys.argv[2])"
            advice = fix.replace("{to_parquet}", f'python3 -c "{code}" {{path}} {{out}}.parquet')
            advice = advice.replace("{path}", name).replace("{out}", out)
            raise BadTable(what, where=str(path), expected="a table", fix=advice)
    if is_compressed(head):
        raise BadTable("the file is compressed twice", where=str(path), fix="Decompress it once.")
    with suppress(tarfile.HeaderError):
        name = tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape").name
        fix = f"Run: tar -xf {shlex.quote(str(path))}, then ingest its files."
        raise BadTable("a tar archive", where=str(path), got=f"with {name}", fix=fix)


def _check_encoding(path: Path, head: bytes) -> None:
    start = head[:4096]
    name = next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), "")
    if not name:
        even, odd = start[0::2].count(0), start[1::2].count(0)
        # In UTF-16 text of mostly Latin letters every other byte is null; in UTF-8 none is.
        if max(even, odd) < max(2, len(start) // 8):
            return
        if min(even, odd) > len(start) // 8:
            fix = "Convert it to JSON lines, CSV, TSV or parquet."
            raise BadTable("a binary file, with null bytes throughout", where=str(path), fix=fix)
        name = "UTF-16LE" if odd > even else "UTF-16BE"
    raise BadTable(
        f"the file is {name}, not UTF-8",
        where=str(path),
        fix="Run: " + _converted(path, f"iconv -f {name} -t UTF-8", "txt"),
    )


def _check_utf8(path: Path, head: bytes) -> None:
    """Raise BadTable if most characters beyond ASCII are not UTF-8. To skip those lines would distort the data."""
    if head.isascii():
        return
    n_invalid = head.decode("utf-8", "replace").count("\ufffd") - head.count("\ufffd".encode())
    if n_invalid <= len(re.findall(rb"[\xc2-\xf4][\x80-\xbf]+", head)):
        return
    is_latin = len(re.findall(rb"[\x80-\xff]", head)) * 5 < len(head)
    what = "the line is not UTF-8" + (", the file probably Windows-1252" if is_latin else "")
    try:
        head.decode()
    except UnicodeDecodeError as error:
        number, got = head.count(b"\n", 0, error.start) + 1, repr(head[error.start : error.start + 20])
        fix = "Run: " + _converted(path, f"iconv -f {'WINDOWS-1252' if is_latin else 'ENCODING'} -t UTF-8", "txt")
        raise BadTable(what, where=f"{path}:{number}", expected="UTF-8", got=got, fix=fix) from None
