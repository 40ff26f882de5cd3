"""The two meta pages of LMDB's file, checked before it is mapped: which commit is the newest, and whether the file
holds all the pages it speaks of. LMDB believes both. This file knows LMDB's format 1.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loid_infer.errors import BadStore
from loid_infer.store.records import MEND

TREE = struct.Struct("<IHHQQQQQ")  # page size, flags, depth, branch pages, leaf pages, overflow pages, entries, root
INTEGER_KEY = 8  # the one flag of the tree of free pages

# A meta page: a page header, then magic, version, address, map size, two trees, last page in use, number of the commit.
_META = struct.Struct("<16xII8x8x48s48sQQ")
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Meta:
    """What a meta page says of its commit."""

    page_bytes: int
    free: bytes  # records of trees
    main: bytes
    last_page: int
    commit: int


def is_made(data: Path) -> bool:
    """Whether there is a file, and one whose writer put both of its meta pages down.

    Raises:
        BadStore: the meta pages are not LMDB's own, or the file is shorter than its newest commit says.
    """
    if not data.is_file() or not data.stat().st_size:
        return False
    with opened(data) as descriptor:
        try:
            newest = max(metas(descriptor, data), key=lambda meta: meta.commit)
            # The length is read after them: a writer puts pages down before the meta page that speaks of them.
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
    """A descriptor of the file, inside the block.

    Raises:
        BadStore: the system refuses to read it.
    """
    try:
        descriptor = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise bad(data, f"it cannot be read: {error.strerror}", "a file on a sound disk") from error


def metas(descriptor: int, data: Path) -> tuple[Meta, Meta]:
    """Both meta pages. They are read one after the other, and a writer may put one down meanwhile: then once more."""
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
    # They are written in turn, the even commits to the first; a new file has two of number 0.
    if second.page_bytes != first.page_bytes or commits[0] % 2 or (commits[1] % 2 == 0 and any(commits)):
        raise bad(data, "its meta pages do not fit together", "even and odd commits in turn")
    if abs(commits[0] - commits[1]) > 1:
        raise bad(data, f"its newest commits are {commits[0]} and {commits[1]}", "one after the other")
    return first, second


def _meta(page: bytes, data: Path) -> Meta:
    if len(page) < _META.size:
        raise _short(data, _META.size, len(page))
    magic, version, free, main, last_page, commit = _META.unpack(page)
    page_bytes, flags, *_ = TREE.unpack(free)
    if magic != _MAGIC:
        raise bad(data, "it is no LMDB file", f"{_MAGIC:x}, got {magic:x}")
    if version != _VERSION:
        raise bad(data, f"it is of LMDB's format {version}", f"format {_VERSION}, which LMDB 0.9 writes")
    if flags != INTEGER_KEY or page_bytes not in (1 << i for i in range(9, 17)) or last_page >= 1 << 47:
        raise bad(data, "a meta page is damaged", "a page size, flags and a number of pages of LMDB")
    return Meta(page_bytes, free, main, last_page, commit)


def bad(data: Path, what: str, expected: str) -> BadStore:
    """What to raise where the file is not as LMDB writes it."""
    return BadStore(f"the file is damaged: {what}", where=str(data), expected=expected, fix=MEND)


def _short(data: Path, expected: int, got: int) -> BadStore:
    return BadStore(
        "the file is shorter than its own pages",
        where=str(data),
        expected=f"{expected:,} bytes",
        got=f"{got:,}",
        fix=MEND,
    )
