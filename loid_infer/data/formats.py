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

from loid_infer.data.columns import FORMATS, Layout, layout
from loid_infer.errors import BadTable
from loid_infer.settings import check_choice

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
DELIMITERS = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True, slots=True)
class Source:
    """A file of known format."""

    path: Path
    format: str  # one of FORMATS
    layout: Layout
    n_bytes: int  # on disk


def inspect(path: Path, format: str, overrides: Mapping[str, str]) -> Source:
    """Recognize the format of a file.

    Raises:
        BadTable: it cannot be read, is empty, not UTF-8, of no known format, or of another one than `format`.
        BadSetting: `format` or an override is unknown.
    """
    check_choice("format", format, ("auto", *FORMATS))
    layout("auto", overrides)  # check the overrides before the file
    head, n_bytes = _head(path), path.stat().st_size
    if not head.strip():
        got = "an empty file" if not n_bytes else "white space only"
        raise BadTable(
            "the file has no content", where=str(path), expected="reviews", got=got, fix="Give another file."
        )
    recognized = _format_of(path, head, overrides)
    compatible = {"auto": FORMATS, "amazon2014": FORMATS[:2], "amazon2018": FORMATS[:2], "jsonl": FORMATS[:4]}
    if recognized not in compatible.get(format, (format,)):
        raise BadTable(
            "the content has another format",
            where=str(path),
            expected=f"{format} (--format {format})",
            got=recognized,
            fix="Omit --format, or give the correct one.",
        )
    chosen = recognized if format == "auto" else format
    return Source(path, chosen, layout(chosen, overrides), n_bytes)


@contextmanager
def open_bytes(path: Path) -> Iterator[tuple[IO[bytes], io.BufferedReader]]:
    """The file itself (for its position) and a stream of its decompressed content.

    Raises:
        BadTable: it cannot be read, is a pipe, or is a .zip that does not contain exactly one file.
    """
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(path.open("rb"))
            magic = raw.read(4)
        except OSError as error:
            raise BadTable(
                f"the file cannot be read: {error.strerror}", where=str(path), fix="Check the path and its permissions."
            ) from error
        if not raw.seekable():
            raise BadTable(
                "the source is a pipe",
                where=str(path),
                expected="a file, because it is read more than once",
                fix="Write it to a file first.",
            )
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
            raise BadTable(
                "the archive does not contain exactly one table",
                where=str(path),
                expected="one file inside the .zip",
                got=f"{len(names)} ({', '.join(names[:5])})",
                fix=f"Run: unzip {path}",
            )
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
    return BadTable(
        f"the compressed file is truncated or damaged: {error}",
        where=str(path),
        expected="a complete file",
        got=f"{number:,} complete lines",
        fix="Download or compress it again, then run the same command.",
    )


def _format_of(path: Path, head: bytes, overrides: Mapping[str, str]) -> str:
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
        raise BadTable(
            "a JSON array, not JSON lines",
            where=str(path),
            expected="one JSON object per line",
            fix=f"Run: jq -c '.[]' {path} > {path.stem}.jsonl",
        )
    if names is not None or text.startswith(b"{"):
        return _json_format(names or set())
    control = sum(head[:4096].count(byte) for byte in (*range(9), *range(14, 32)))
    headers = _headers(text)
    if max(map(len, headers.values())) < 2 or control > len(head[:4096]) // 20:
        first = text.split(b"\n", 1)[0][:60]
        raise BadTable(
            "unknown format",
            where=str(path),
            got=f"the first line {first!r}",
            expected="JSON lines, CSV or TSV with a header, parquet; plain, .gz, .zst or .zip",
            fix="Convert it to one of these.",
        )
    wanted = set(layout("csv", overrides).names.values())
    # A column name may contain the other delimiter, so take the header with more of the wanted columns.
    return max(headers, key=lambda name: (len(wanted & {*headers[name]}), len(headers[name]), name))


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
            raise BadTable(
                "a binary file",
                where=str(path),
                expected="JSON lines, CSV, TSV or parquet",
                got="null bytes throughout",
                fix="Convert it to one of these.",
            )
        name = "UTF-16LE" if odd > even else "UTF-16BE"
    raise BadTable(
        "the file is not UTF-8",
        where=str(path),
        expected="UTF-8",
        got=name,
        fix=f"Run: iconv -f {name} -t UTF-8 {path} > {path.stem}.utf8",
    )
