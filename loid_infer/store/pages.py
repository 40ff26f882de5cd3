"""What LMDB does not check itself: whether the file holds all the pages that its newest commit speaks of.

LMDB maps the file and trusts it, so a page beyond its end is a bus error that no exception catches. This file knows the
two meta pages of LMDB's format 1 and nothing else.
"""

from __future__ import annotations

import struct
from pathlib import Path

from loid_infer.errors import BadStore
from loid_infer.store.records import MEND

# A meta page: a 16-byte page header, then magic, version, address, map size, two databases of 48 bytes of which the
# first begins with the page size, then the last page in use and the number of the commit.
_META = struct.Struct("<16xII8x8xI44x48xQQ")
_MAGIC = 0xBEEFC0DE


def check_length(data: Path) -> None:
    """Refuse a file that is shorter than its newest commit says. What is no LMDB file is left to LMDB to refuse.

    Raises:
        BadStore: pages are missing at the end.
    """
    with data.open("rb") as file:
        first = file.read(_META.size)
        if len(first) < _META.size:
            raise _short(data, _META.size)
        magic, _, page_bytes, last_page, commit = _META.unpack(first)
        if magic != _MAGIC or not page_bytes:
            return
        file.seek(page_bytes)
        second = file.read(_META.size)
    if len(second) == _META.size and (found := _META.unpack(second))[0] == _MAGIC and found[4] > commit:
        last_page = found[3]
    # The length is read after the meta pages: a writer puts pages down before the meta page that speaks of them.
    if data.stat().st_size < (last_page + 1) * page_bytes:
        raise _short(data, (last_page + 1) * page_bytes)


def _short(data: Path, expected: int) -> BadStore:
    return BadStore(
        "the file is shorter than its own pages",
        where=str(data),
        expected=f"{expected:,} bytes",
        got=f"{data.stat().st_size:,}",
        mend=MEND,
    )
