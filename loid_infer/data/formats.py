"""Recognizes the format of a source file by its content, not its name, and opens it decompressed."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import orjson
import zstandard

from loid_infer.data.canonical import SCHEMA
from loid_infer.errors import BadSetting, BadTable
from loid_infer.settings import check_choice

FORMATS = ("amazon2014", "amazon2018", "amazon2023", "jsonl", "csv", "tsv", "parquet")
DELIMITERS = {"csv": ",", "tsv": "\t"}
_AMAZON = ("reviewerID", "asin", "overall", "reviewText", "unixReviewTime")
_AMAZON_2023 = ("user_id", "parent_asin", "rating", "text", "timestamp")  # the title is not read
# The columns of a source, in the order of SCHEMA.
_COLUMNS = {"amazon2014": _AMAZON, "amazon2018": _AMAZON, "amazon2023": _AMAZON_2023}
# Exceptions raised when a damaged or truncated compressed stream is read.
READ_FAULTS = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, zstandard.ZstdError, NotImplementedError)

_HEAD_BYTES = 1 << 20
_MAX_LINE_BYTES = 1 << 26
_BUFFER_BYTES = 1 << 20
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after one byte 0x50..0x5f
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # starts like that of UTF-16
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A file of known format."""

    path: Path
    format: str  # one of FORMATS
    n_bytes: int  # on disk
    names: Mapping[str, str]  # canonical name -> the source's name, in the order of SCHEMA
    overrides: Mapping[str, str]  # those of `names` that the user gave


def inspect(path: Path, format: str, overrides: Mapping[str, str]) -> Source:
    """Recognize the format of a file. Raises BadSetting if `format` or an override is unknown.

    Raises BadTable if it cannot be read, is empty, not UTF-8, of no known format, or of another one than `format`.
    """
    check_choice("format", format, ("auto", *FORMATS))
    names = _names("auto", overrides)  # checks the overrides before the file
    head, n_bytes = _head(path), path.stat().st_size
    if not head.strip():
        got = "an empty file" if not n_bytes else "white space only"
        raise BadTable("the file has no content", where=str(path), got=got, fix="Give another file.")
    recognized = _format_of(path, head, {*names.values()})
    compatible = {"auto": FORMATS, "amazon2014": FORMATS[:2], "amazon2018": FORMATS[:2], "jsonl": FORMATS[:4]}
    if recognized not in compatible.get(format, (format,)):
        what, fix = f"the content is {recognized}, not {format}", "Omit --format, or give the correct one."
        raise BadTable(what, where=str(path), fix=fix)
    chosen = recognized if format == "auto" else format
    return Source(path, chosen, n_bytes, _names(chosen, overrides), overrides)


def _names(format: str, overrides: Mapping[str, str]) -> dict[str, str]:
    for name, source in overrides.items():
        if name not in SCHEMA.names or not source:
            expected = f"NAME=SOURCE with NAME one of {', '.join(SCHEMA.names)}"
            got, fix = repr(f"{name}={source}"), "Give for example --columns user_id=reviewer,text=body"
            raise BadSetting("invalid column mapping", where="--columns", expected=expected, got=got, fix=fix)
    return {**dict(zip(SCHEMA.names, _COLUMNS.get(format, SCHEMA.names), strict=True)), **overrides}


@contextmanager
def open_bytes(path: Path) -> Iterator[tuple[IO[bytes], io.BufferedReader]]:
    """The file itself (for its position) and a stream of its decompressed content.

    Raises BadTable if it cannot be read, is a pipe, or is a .zip that does not contain exactly one file.
    """
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(path.open("rb"))
            magic = raw.read(4)
        except OSError as error:
            what, fix = f"the file cannot be read: {error.strerror}", "Check the path and its permissions."
            raise BadTable(what, where=str(path), fix=fix) from error
        if not raw.seekable():
            raise BadTable("a pipe cannot be read twice", where=str(path), fix="Write it to a file first.")
        raw.seek(0)
        if magic.startswith(b"\x1f\x8b"):
            yield raw, io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=raw)), _BUFFER_BYTES)
        elif magic == _ZSTD_MAGIC or (magic[1:] == _ZSTD_SKIPPABLE and magic[0] >> 4 == 5):
            yield raw, io.BufferedReader(_ZstdFile(raw), _BUFFER_BYTES)
        elif magic.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            member = stack.enter_context(_zip_member(path, raw))
            yield raw, io.BufferedReader(cast(io.RawIOBase, member), _BUFFER_BYTES)
        else:
            yield raw, raw


class _ZstdFile(io.RawIOBase):
    """Decompressed bytes of zstandard frames. Unlike zstandard's own reader it detects a truncated last frame."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._frames = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._frame = self._frames.decompressobj()
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            piece = self._frame.unused_data or self._raw.read(1 << 16)
            if not piece and self._frame.eof:
                return 0
            if not piece:
                raise EOFError("the compressed file ends inside a frame")
            if self._frame.eof:
                self._frame = self._frames.decompressobj()
            self._ready = memoryview(self._frame.decompress(piece))
        n = min(len(buffer), len(self._ready))
        buffer[:n], self._ready = self._ready[:n], self._ready[n:]
        return n


def _zip_member(path: Path, raw: IO[bytes]) -> IO[bytes]:
    try:
        archive = zipfile.ZipFile(raw)
        names = [info.filename for info in archive.infolist() if not info.is_dir() and "__MACOSX" not in info.filename]
        if len(names) != 1:
            what = f"the .zip contains {len(names)} files ({', '.join(names[:5])}), not exactly one"
            raise BadTable(what, where=str(path), fix=f"Run: unzip {path}")
        return archive.open(names[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # RuntimeError: encrypted
        raise BadTable(f"the archive cannot be read: {error}", where=str(path), fix=f"Run: unzip {path}") from error


def _head(path: Path) -> bytes:
    """About the first MiB of the content, up to the end of a line."""
    head = bytearray()
    with open_bytes(path) as (_, content):
        try:
            while len(head) < _HEAD_BYTES and (piece := content.read1(1 << 16)):
                head += piece
            head += content.readline(_MAX_LINE_BYTES)
        except READ_FAULTS as error:
            if not head:
                raise cut(path, 0, error) from error
        return bytes(head)


def cut(path: Path, number: int, error: Exception) -> BadTable:
    """The error for a compressed source that is truncated or damaged after line `number`."""
    what = f"the compressed file is truncated or damaged: {error}"
    fix = "Download or compress it again, then run the same command."
    return BadTable(what, where=str(path), got=f"{number:,} complete lines", fix=fix)


def _format_of(path: Path, head: bytes, columns: set[str]) -> str:
    if head.startswith(b"PAR1"):
        with path.open("rb") as raw:
            if raw.read(4) == b"PAR1":
                return "parquet"
        raise BadTable("a compressed parquet file", where=str(path), fix="Decompress it first.")
    _check_encoding(path, head)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    names = _json_names(text)
    # A first line like [1, 2] before JSON objects is only a bad line.
    if text.startswith(b"[") and (names is None or b"]" not in text.split(b"\n", 1)[0]):
        fix = f"Run: jq -c '.[]' {path} > {path.stem}.jsonl"
        raise BadTable("a JSON array", where=str(path), expected="one JSON object per line", fix=fix)
    if names is not None or text.startswith(b"{"):
        return _json_format(names or set())
    control = sum(head[:4096].count(byte) for byte in (*range(9), *range(14, 32)))
    headers = _headers(text)
    if max(map(len, headers.values())) < 2 or control > len(head[:4096]) // 20:
        first = text.split(b"\n", 1)[0][:60]
        fix = "Give JSON lines, CSV or TSV with a header, or parquet; plain, .gz, .zst or .zip."
        raise BadTable(f"unknown format with the first line {first!r}", where=str(path), fix=fix)
    # A column name may contain the other delimiter, so take the header with more of the wanted columns.
    return max(headers, key=lambda name: (len(columns & {*headers[name]}), len(headers[name]), name))


def _headers(text: bytes) -> dict[str, list[str]]:
    csv.field_size_limit(_HEAD_BYTES + _MAX_LINE_BYTES)
    header = next(io.StringIO(text.decode("utf-8", "replace"), newline=""), "")
    return {name: next(csv.reader([header], delimiter=mark), []) for name, mark in DELIMITERS.items()}


def _json_names(head: bytes) -> set[str] | None:
    """Keys of the JSON objects in the first lines; None if there are no objects."""
    records = []
    for line in head.split(b"\n", 200)[:200]:
        with suppress(ValueError):
            record = orjson.loads(line)
            records += [record] if isinstance(record, dict) else []
    return set().union(*records) if records else None


def _json_format(names: set[str]) -> str:
    if names & {"reviewerID", "reviewText", "overall", "unixReviewTime"}:
        return "amazon2018" if "verified" in names else "amazon2014"
    if "parent_asin" in names or ("asin" in names and "item_id" not in names):
        return "amazon2023"
    return "jsonl"


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
    fix = f"Run: iconv -f {name} -t UTF-8 {path} > {path.stem}.utf8"
    raise BadTable(f"the file is {name}, not UTF-8", where=str(path), fix=fix)
