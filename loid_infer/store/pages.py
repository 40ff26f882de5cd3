"""What LMDB does not check itself: that its file is whole and that its tree leads where it should.

LMDB maps the file and trusts every page number, offset and size in it, so one flipped bit is a segmentation fault or a
bus error that no exception catches. Here the meta pages are checked before the file is mapped, and every page of the
tree of one commit before LMDB follows it. Records have checksums of their own and are not looked into. This file knows
LMDB's format 1; of what a store keeps in it, only how long the keys are.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loid_infer.errors import BadStore
from loid_infer.store.records import MEND
from loid_infer.types import DIGEST_BYTES, Array, Ints

# A meta page: a page header, then magic, version, address, map size, two trees, last page in use, number of the commit.
_META = struct.Struct("<16xII8x8x48s48sQQ")
_TREE = struct.Struct("<IHHQQQQQ")  # page size, flags, depth, branch pages, leaf pages, overflow pages, entries, root
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEADER_BYTES, _NODE_BYTES, _FIRST_PAGE = 16, 8, 2
_BRANCH, _LEAF = 1, 2  # flags of a page
_BIG, _SUBTREE = 1, 2  # flags of a node
_INTEGER_KEY = 8  # the one flag of the tree of free pages
_NO_ROOT = (1 << 64) - 1
_TREES = {b"chunks": 8, b"index": DIGEST_BYTES, b"meta": 0}  # name -> bytes of a key; 0 is any
_INDEX_BYTES = 8  # of a value in the index
_BLOCK_PAGES = 512
_TRIES = 20


class Moved(Exception):
    """The commit that was to be checked is no longer the newest or the one before."""


@dataclass(frozen=True, slots=True)
class _Meta:
    page_bytes: int
    free: bytes  # records of trees
    main: bytes
    last_page: int
    commit: int


@dataclass(frozen=True, slots=True)
class _Nodes:
    """The nodes of some leaf pages, all arrays `[n]`."""

    pages: Array  # [m, page_bytes]
    starts: Ints  # bytes from the beginning of `pages`
    n_key: Ints  # bytes
    n_value: Ints
    flags: Ints

    def bytes_of(self, i: int) -> tuple[bytes, bytes]:
        """Key and what follows it on the page: the value, or the number of the page it begins on."""
        key = int(self.starts[i]) + _NODE_BYTES
        value = key + int(self.n_key[i])
        end = value + (8 if self.flags[i] & _BIG else int(self.n_value[i]))
        flat = self.pages.reshape(-1)
        return flat[key:value].tobytes(), flat[value:end].tobytes()


def never_made(data: Path) -> bool:
    """Whether there is no file, or one whose writer ended before both of its meta pages were down."""
    if not data.is_file() or not data.stat().st_size:
        return True
    with _opened(data) as descriptor:
        try:
            first = _meta(os.pread(descriptor, _META.size, 0), data)
        except BadStore:
            return False
        return not first.commit and os.fstat(descriptor).st_size < 2 * first.page_bytes


def check_length(data: Path) -> None:
    """Refuse a file whose meta pages are not LMDB's own, or that is shorter than its newest commit says.

    Raises:
        BadStore: it is.
    """
    with _opened(data) as descriptor:
        for left in reversed(range(_TRIES)):  # a writer may put a meta page down while it is read
            try:
                newest = max(_metas(descriptor, data), key=lambda meta: meta.commit)
                break
            except BadStore:
                if not left:
                    raise
        # The length is read after the meta pages: a writer puts pages down before the meta page that speaks of them.
        expected, got = (newest.last_page + 1) * newest.page_bytes, os.fstat(descriptor).st_size
        if got < expected:
            raise _short(data, expected, got)


def check_tree(data: Path, commit: int) -> None:
    """Walk every page that `commit` can reach, and its list of free pages. The caller has it open in a transaction, so
    that nothing of it is reused meanwhile. Takes 8 bytes of memory a page.

    Raises:
        BadStore: a page, an offset, a size or a count is not what it must be, or a page belongs to two.
        Moved: two commits have been made since; begin anew.
    """
    with _opened(data) as descriptor:
        meta = next((meta for meta in _metas(descriptor, data) if meta.commit == commit), None)
        if meta is None:
            raise Moved
        walk = _Walk(descriptor, data, meta)
        for nodes in walk.leaves(meta.main, "the tree of trees", 0, _SUBTREE):
            for i in range(len(nodes.starts)):
                name, record = nodes.bytes_of(i)
                if name not in _TREES or len(record) != _TREE.size:
                    raise walk.bad(f"it knows a tree {name!r}", ", ".join(map(repr, _TREES)))
                for values in walk.leaves(record, name.decode(), _TREES[name], 0 if name == b"index" else _BIG):
                    if name == b"index" and (values.n_value != _INDEX_BYTES).any():
                        raise walk.bad("an index entry is not a row", f"{_INDEX_BYTES} bytes")
        for nodes in walk.leaves(meta.free, "the list of free pages", 8, _BIG):
            walk.free(nodes)
        walk.check_claims()


class _Walk:
    """A walk over the trees of one commit, which claims every page once."""

    def __init__(self, descriptor: int, data: Path, meta: _Meta) -> None:
        self._descriptor, self._data, self._meta = descriptor, data, meta
        self._claims: Array = np.zeros(meta.last_page + 2, np.int32)  # +1 where a claimed run begins, -1 behind it

    def bad(self, what: str, expected: str) -> BadStore:
        return _bad(self._data, what, expected)

    def leaves(self, record: bytes, name: str, n_key: int, allowed: int) -> Iterator[_Nodes]:
        """The leaf pages of a tree in blocks, sound as far as its `record` and their own fields tell.

        Args:
            n_key: bytes of every key; 0 is any.
            allowed: flags a node may have.
        """
        _, flags, depth, n_branches, n_leaves, n_overflow, n_entries, root = _TREE.unpack(record)
        if flags != (_INTEGER_KEY if record == self._meta.free else 0):
            raise self.bad(f"{name} has unknown flags", "a tree of plain keys")
        if root == _NO_ROOT:
            if depth or n_entries:
                raise self.bad(f"{name} has no root", f"{n_entries} entries")
            return
        level: Ints = np.array([root], np.uint64).astype(np.int64)
        counts = {"branches": 0, "leaves": 0, "overflow": 0, "entries": 0}
        for above in reversed(range(depth)):
            kind = _BRANCH if above else _LEAF
            children: list[Ints] = [np.zeros(0, np.int64)]
            self._claim(level, np.ones_like(level), name)
            counts["branches" if above else "leaves"] += len(level)
            for block in self._read(np.sort(level)):
                nodes, child = self._nodes(*block, name, kind, n_key)
                if kind == _BRANCH:
                    children.append(child)
                    continue
                if (nodes.flags & ~allowed).any():
                    raise self.bad(f"{name} has a node with unknown flags", str(allowed))
                big = nodes.flags & _BIG > 0
                pages = (nodes.n_value[big] + _HEADER_BYTES - 1) // self._meta.page_bytes + 1
                at = (nodes.starts + _NODE_BYTES + nodes.n_key)[big]
                firsts = nodes.pages.reshape(-1)[at[:, None] + np.arange(8)].view("<i8").ravel()
                self._claim(firsts, pages, name)
                counts["overflow"] += int(pages.sum())
                counts["entries"] += len(nodes.starts)
                yield nodes
            level = np.concatenate(children)
        if tuple(counts.values()) != (said := (n_branches, n_leaves, n_overflow, n_entries)):
            raise self.bad(f"{name} has other pages or entries than it says", f"{said}, found {counts}")

    def free(self, nodes: _Nodes) -> None:
        """Claim the free pages that `nodes` list."""
        for i in range(len(nodes.starts)):
            key, content = nodes.bytes_of(i)
            n_bytes = int(nodes.n_value[i])
            if nodes.flags[i] & _BIG:
                first = int.from_bytes(content, "little")
                content = os.pread(self._descriptor, n_bytes, first * self._meta.page_bytes + _HEADER_BYTES)
            if n_bytes % 8 or len(content) != n_bytes or not n_bytes:
                raise self.bad("a list of free pages is cut off", "whole numbers")
            n, *pages = np.frombuffer(content, "<i8").tolist()
            listed = np.array(pages[:n] if 0 <= n <= len(pages) else [0], np.int64)
            if int.from_bytes(key, "little") > self._meta.commit or (np.diff(listed) >= 0).any():
                raise self.bad("a list of free pages is out of order", "descending pages of an earlier commit")
            self._claim(listed, np.ones_like(listed), "the list of free pages")

    def check_claims(self) -> None:
        """Refuse a page that belongs to two."""
        claims = np.cumsum(self._claims)
        if (claims > 1).any():
            raise self.bad(f"page {int(np.argmax(claims > 1))} belongs to two", "each page in one place")

    def _claim(self, firsts: Ints, n_pages: Ints, name: str) -> None:
        last = self._meta.last_page
        # Compared without adding up, so that no number can wrap around.
        outside = (firsts < _FIRST_PAGE) | (firsts > last) | (n_pages > last + 1 - np.minimum(firsts, last))
        if outside.any():
            raise self.bad(f"{name} points to page {int(firsts[outside][0])}", f"pages {_FIRST_PAGE} to {last}")
        np.add.at(self._claims, firsts, 1)
        np.add.at(self._claims, firsts + n_pages, -1)

    def _read(self, numbers: Ints) -> Iterator[tuple[Array, Ints]]:
        """The pages with these `numbers [n]`, ascending, in blocks `[m, page_bytes]`, with their numbers `[m]`."""
        size = self._meta.page_bytes
        for start in range(0, len(numbers), _BLOCK_PAGES):
            wanted = numbers[start : start + _BLOCK_PAGES]
            pages: Array = np.empty((len(wanted), size), np.uint8)
            at = 0
            for run in np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1):
                part = pages[at : at + len(run)]
                if os.preadv(self._descriptor, [part.reshape(-1).data], int(run[0]) * size) != part.nbytes:
                    raise self.bad(f"page {int(run[0])} cannot be read", "a whole page")
                at += len(run)
            yield pages, wanted

    def _nodes(self, pages: Array, numbers: Ints, name: str, kind: int, n_key: int) -> tuple[_Nodes, Ints]:
        """The nodes of `pages [m, page_bytes]`, all inside their page; of branches also the pages they point to."""
        size = self._meta.page_bytes
        halves = pages.view("<u2")
        flags, lower, upper = (halves[:, i].astype(np.int64) for i in (5, 6, 7))
        wrong = (pages[:, :8].copy().view("<i8").ravel() != numbers) | (flags != kind) | (lower % 2 > 0)
        wrong |= (lower < _HEADER_BYTES + 2) | (lower > upper) | (upper > size)
        if wrong.any():
            raise self.bad(f"page {int(numbers[wrong][0])} is none of {name}", "a sound page header")
        n_nodes = (lower - _HEADER_BYTES) // 2
        listed = np.arange(int(n_nodes.max())) < n_nodes[:, None]
        offsets = halves[:, 8 : 8 + listed.shape[1]][listed].astype(np.int64)
        page, place = np.nonzero(listed)
        inside = (offsets % 2 == 0) & (offsets >= upper[page]) & (offsets <= size - _NODE_BYTES)
        starts = page * size + np.where(inside, offsets, 0)
        low, high, third, n_keys = (halves.reshape(-1)[starts // 2 + i].astype(np.int64) for i in range(4))
        if kind == _BRANCH:
            n_value, child, third = np.zeros_like(low), low + (high << 16) + (third << 32), np.zeros_like(low)
            inside &= (n_keys == n_key) | (n_key == 0) | ((n_keys == 0) & (place == 0))
        else:
            n_value, child = low + (high << 16), np.zeros(0, np.int64)
            inside &= (n_keys == n_key) | (n_key == 0)
        inside &= offsets + _NODE_BYTES + n_keys + np.where(third & _BIG > 0, 8, n_value) <= size
        if not inside.all():
            raise self.bad(f"page {int(numbers[page[~inside][0]])} of {name} has a damaged node", "nodes in the page")
        return _Nodes(pages, starts, n_keys, n_value, third), child


@contextmanager
def _opened(data: Path) -> Iterator[int]:
    descriptor = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _metas(descriptor: int, data: Path) -> list[_Meta]:
    first = _meta(os.pread(descriptor, _META.size, 0), data)
    second = _meta(os.pread(descriptor, _META.size, first.page_bytes), data)
    commits = (first.commit, second.commit)
    # They are written in turn, the even commits to the first; a new file has two of number 0.
    if second.page_bytes != first.page_bytes or commits[0] % 2 or (commits[1] % 2 == 0 and any(commits)):
        raise _bad(data, "its meta pages do not fit together", "even and odd commits in turn")
    if abs(commits[0] - commits[1]) > 1:
        raise _bad(data, f"its newest commits are {commits[0]} and {commits[1]}", "one after the other")
    return [first, second]


def _meta(page: bytes, data: Path) -> _Meta:
    if len(page) < _META.size:
        raise _short(data, _META.size, len(page))
    magic, version, free, main, last_page, commit = _META.unpack(page)
    page_bytes, flags, *_ = _TREE.unpack(free)
    if (magic, version) != (_MAGIC, _VERSION):
        raise _bad(data, "it is no LMDB file of format 1", f"{_MAGIC:x}, {_VERSION}, got {magic:x}, {version}")
    if flags != _INTEGER_KEY or page_bytes not in (1 << i for i in range(9, 17)) or last_page >= 1 << 47:
        raise _bad(data, "a meta page is damaged", "a page size, flags and a number of pages of LMDB")
    return _Meta(page_bytes, free, main, last_page, commit)


def _bad(data: Path, what: str, expected: str) -> BadStore:
    return BadStore(f"the file is damaged: {what}", where=str(data), expected=expected, mend=MEND)


def _short(data: Path, expected: int, got: int) -> BadStore:
    return BadStore("the file is shorter than its own pages", where=str(data), expected=f"{expected:,} bytes",
                    got=f"{got:,}", mend=MEND)  # fmt: skip
