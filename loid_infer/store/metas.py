"""Checks the two meta pages of an LMDB file (format 1) and the file's length before LMDB maps it.

LMDB itself trusts both.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loid_infer.errors import BadStore
from loid_infer.store.records import SALVAGE

TREE = struct.Struct("<IHHQQQQQ")  # page size, flags, depth, branch pages, leaf pages, overflow pages, entries, root
INTEGER_KEY = 8  # the only flag of the tree of free pages

# A meta page: page header, magic, version, address, map size, two trees, last used page, commit number.
_META = struct.Struct("<16xII8x8x48s48sQQ")
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Meta:
    """The content of a meta page."""

    page_bytes: int
    free: bytes  # tree records
    main: bytes
    last_page: int
    commit: int


def is_initialized(data: Path) -> bool:
    """Whether the file exists and both of its meta pages have been written.

    Raises:
        BadStore: the meta pages are invalid, or the file is shorter than its newest commit requires.
    """
    if not data.is_file() or not data.stat().st_size:
        return False
    with opened(data) as descriptor:
        try:
            newest = max(metas(descriptor, data), key=lambda meta: meta.commit)
            # The length is read last: a writer writes pages before the meta page that refers to them.
            expected, got = (newest.last_page + 1) * newest.page_bytes, os.fstat(descriptor).st_size
            if got < expected:
                raise _short(data, expected, got)
        except BadStore:
            first = _meta(os.pread(descriptor, _META.size, 0), data)
            if first.commit or os.fstat(descriptor).st_size >= 2 * first.page_bytes:
                raise
            return False
    return True


@contextmanager
def opened(data: Path) -> Iterator[int]:
    """Open a file descriptor for the block. Raises BadStore if the file cannot be read."""
    try:
        descriptor = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise bad(data, f"it cannot be read: {error.strerror}", "a readable file") from error


def metas(descriptor: int, data: Path) -> tuple[Meta, Meta]:
    """Both meta pages. A writer may change one between the two reads, so a failed check is repeated."""
    for _ in range(_TRIES):
        try:
            return _both_metas(descriptor, data)
        except BadStore as error:
            last = error
    raise last


def _both_metas(descriptor: int, data: Path) -> tuple[Meta, Meta]:
    first = _meta(os.pread(descriptor, _META.size, 0), data)
    second = _meta(os.pread(descriptor, _META.size, first.page_bytes), data)
    commits = (first.commit, second.commit)
    # Even commits are in the first page, odd ones in the second; in a new file both are 0.
    if second.page_bytes != first.page_bytes or commits[0] % 2 or (commits[1] % 2 == 0 and any(commits)):
        raise bad(data, "its meta pages contradict each other", "an even and an odd commit")
    if abs(commits[0] - commits[1]) > 1:
        raise bad(data, f"its newest commits are {commits[0]} and {commits[1]}", "consecutive ones")
    return first, second


def _meta(page: bytes, data: Path) -> Meta:
    if len(page) < _META.size:
        raise _short(data, _META.size, len(page))
    magic, version, free, main, last_page, commit = _META.unpack(page)
    page_bytes, flags, *_ = TREE.unpack(free)
    if magic != _MAGIC:
        raise bad(data, "not an LMDB file", f"{_MAGIC:x}, got {magic:x}")
    if version != _VERSION:
        raise bad(data, f"LMDB format {version}", f"format {_VERSION} of LMDB 0.9")
    if flags != INTEGER_KEY or page_bytes not in (1 << i for i in range(9, 17)) or last_page >= 1 << 47:
        raise bad(data, "a meta page is damaged", "valid page size, flags and number of pages")
    return Meta(page_bytes, free, main, last_page, commit)


def bad(data: Path, what: str, expected: str) -> BadStore:
    """The error for a file that is not as LMDB writes it."""
    return BadStore(f"the file is damaged: {what}", where=str(data), expected=expected, fix=SALVAGE)


def _short(data: Path, expected: int, got: int) -> BadStore:
    return BadStore(
        "the file is shorter than its pages",
        where=str(data),
        expected=f"{expected:,} bytes",
        got=f"{got:,}",
        fix=SALVAGE,
    )
