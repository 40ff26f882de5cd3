"""Opens a file decompressed, whatever compresses it, and detects that it is cut short."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shlex
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from loid_infer.errors import BadTable

# Exceptions raised when a damaged or truncated compressed stream is read.
READ_FAULTS = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, zstandard.ZstdError, NotImplementedError)

_BUFFER_BYTES = 1 << 20
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after one byte 0x50..0x5f
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")


@contextmanager
def open_bytes(path: Path) -> Iterator[tuple[IO[bytes], io.BufferedReader]]:
    """The file itself (for its position) and a stream of its decompressed content.

    Raises BadTable if it cannot be read, is a pipe, or is a .zip that does not contain exactly one file.
    """
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(path.open("rb"))
            magic = raw.read(6)
        except OSError as error:
            what, fix = f"the file cannot be read: {error.strerror}", "Check the path and its permissions."
            raise BadTable(what, where=str(path), fix=fix) from error
        if not raw.seekable():
            raise BadTable("a pipe cannot be read twice", where=str(path), fix="Write it to a file first.")
        raw.seek(0)
        if magic.startswith(ZIP_MAGIC):
            opened: Any = _DamageIsEof(stack.enter_context(_zip_member(path, raw)))
        else:
            opener = _opener(magic)
            opened = opener(raw) if opener else None
        yield raw, io.BufferedReader(cast(io.RawIOBase, opened), _BUFFER_BYTES) if opened else raw


def _opener(magic: bytes) -> Callable[[IO[bytes]], Any] | None:
    if magic[1:4] == _ZSTD_SKIPPABLE and magic[0] >> 4 == 5:
        return _ZstdFile
    return next((opener for start, (_, opener) in _COMPRESSIONS.items() if magic.startswith(start)), None)


def unpacker(magic: bytes) -> str:
    """The command that writes the content of a compressed file to its output; empty for another file."""
    if magic.startswith(ZIP_MAGIC):
        return "unzip -p"
    return next((command for start, (command, _) in _COMPRESSIONS.items() if magic.startswith(start)), "")


def accompanies(name: str) -> bool:
    """Whether a file of this name in a folder or archive is no data: hidden, a marker, a checksum or a read-me file."""
    return (
        name[0] in "._"
        or name.lower().startswith(("readme", "license"))
        or name.lower() in ("desktop.ini", "thumbs.db")
    )


def is_compressed(head: bytes) -> bool:
    """Whether content that starts with `head` is compressed, so that its file was compressed twice."""
    return head.startswith(ZIP_MAGIC) or _opener(head[:6]) is not None


class _DamageIsEof(io.RawIOBase):
    """A decompressed stream that raises EOFError where bz2 and lzma raise OSError and LZMAError of their own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._stream.readinto(buffer))
        except (OSError, lzma.LZMAError) as error:
            if getattr(error, "errno", None):  # of the disk
                raise
            raise EOFError(str(error)) from error


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
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        names = [name for name in names if "__MACOSX" not in name and not accompanies(Path(name).name)]
        if "xl/workbook.xml" in names:
            raise BadTable("an Excel workbook", where=str(path), fix="Save the sheet as CSV in UTF-8.")
        if len(names) != 1:
            what = f"the .zip contains {len(names)} files ({', '.join(names[:5])}), not exactly one"
            raise BadTable(what, where=str(path), fix=f"Run: unzip {shlex.quote(str(path))}")
        return archive.open(names[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # RuntimeError: encrypted
        raise BadTable(
            f"the archive cannot be read: {error}", where=str(path), fix=f"Run: unzip {shlex.quote(str(path))}"
        ) from error


def cut(path: Path, number: int, error: Exception) -> BadTable:
    """The error for a compressed source that is truncated or damaged after line `number`."""
    what = f"the compressed file is truncated or damaged: {error}"
    fix = "Download or compress it again, then run the same command."
    return BadTable(what, where=str(path), got=f"{number:,} complete lines", fix=fix)


# The first bytes of a compressed file -> the command that decompresses it, and what opens it.
_COMPRESSIONS: dict[bytes, tuple[str, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": ("gzip -dc", lambda raw: gzip.GzipFile(fileobj=raw)),
    b"\x28\xb5\x2f\xfd": ("zstd -dc", _ZstdFile),
    b"BZh": ("bzip2 -dc", lambda raw: _DamageIsEof(bz2.BZ2File(raw))),
    b"\xfd7zXZ\0": ("xz -dc", lambda raw: _DamageIsEof(lzma.LZMAFile(raw))),  # noqa: SIM115 - raw is closed by its owner
}
