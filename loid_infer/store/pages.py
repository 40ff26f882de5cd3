"""Checks an LMDB file (format 1) before LMDB maps it: its length, its two meta pages and all its B-tree pages.

LMDB trusts every page number, offset and size, so one flipped bit can cause a segmentation fault. Values (records of
vectors) are not checked here; they have their own checksums.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loid_infer.errors import BadStore
from loid_infer.store.records import SALVAGE
from loid_infer.types import DIGEST_BYTES, Array, Ints

TREE = struct.Struct("<IHHQQQQQ")  # page size, flags, depth, branch pages, leaf pages, overflow pages, entries, root
_INTEGER_KEY = 8  # the only flag of the tree of free pages
# A meta page: page header, magic, version, address, map size, two trees, last used page, commit number.
_META = struct.Struct("<16xII8x8x48s48sQQ")
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_TRIES = 20
_HEADER_BYTES, _NODE_BYTES, _FIRST_PAGE = 16, 8, 2
_RUN = struct.Struct("<Q2xHI")  # header of a run of overflow pages: page number, flags, number of pages
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4  # flags of a page
_BIG, _SUBTREE = 1, 2  # flags of a node
_NO_ROOT = (1 << 64) - 1
_TREES = {b"chunks": 8, b"index": DIGEST_BYTES, b"meta": 0}  # name -> length of keys in bytes; 0: any
_FREE = "the list of free pages"
_INDEX_BYTES = 8  # length of a value in the index
_BLOCK_PAGES = 512


class Moved(Exception):
    """The commit to check is no longer one of the two newest."""


@dataclass(frozen=True, slots=True)
class Meta:
    """The content of a meta page."""

    page_bytes: int
    free: bytes  # tree records
    main: bytes
    last_page: int
    commit: int


def is_initialized(data: Path) -> bool:
    """Whether both meta pages have been written. Raises BadStore if they are invalid or the file is too short."""
    with _permitted(data):
        if not data.is_file() or not data.stat().st_size:
            return False
    with opened(data) as descriptor:
        try:
            newest = max(metas(descriptor, data), key=lambda meta: meta.commit)
            # The length is read last: a writer writes pages before the meta page that refers to them.
            expected, got = (newest.last_page + 1) * newest.page_bytes, os.fstat(descriptor).st_size
            if got < expected:
                raise bad(data, f"it is shorter than its pages: {got:,} bytes", f"{expected:,}")
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
        with _permitted(data), data.open("rb", buffering=0) as file:
            yield file.fileno()
    except OSError as error:
        raise bad(data, f"it cannot be read: {error.strerror}", "a readable file") from error


@contextmanager
def _permitted(data: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        fix = "Ask its owner to make the folder and its files readable for you."
        raise BadStore("you may not read the store", where=str(data), fix=fix) from error


def metas(descriptor: int, data: Path) -> tuple[Meta, Meta]:
    """Both meta pages. A writer may change one between the two reads, so a failed check is repeated."""
    for _ in range(_TRIES):
        with suppress(BadStore):
            return _both_metas(descriptor, data)
    return _both_metas(descriptor, data)


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
        raise bad(data, f"it is shorter than its pages: {len(page)} bytes", f"{_META.size}")
    magic, version, free, main, last_page, commit = _META.unpack(page)
    page_bytes, flags, *_ = TREE.unpack(free)
    if magic != _MAGIC:
        raise bad(data, "not an LMDB file", f"{_MAGIC:x}, got {magic:x}")
    if version != _VERSION:
        raise bad(data, f"LMDB format {version}", f"format {_VERSION} of LMDB 0.9")
    if flags != _INTEGER_KEY or page_bytes not in (1 << i for i in range(9, 17)) or last_page >= 1 << 47:
        raise bad(data, "a meta page is damaged", "valid page size, flags and number of pages")
    return Meta(page_bytes, free, main, last_page, commit)


def bad(data: Path, what: str, expected: str) -> BadStore:
    """The error for a file that is not as LMDB writes it."""
    return BadStore(f"the file is damaged: {what}", where=str(data), expected=expected, fix=SALVAGE)


@dataclass(frozen=True, slots=True)
class _Nodes:
    """The nodes of some pages; arrays `[n]`, lengths in bytes."""

    pages: Array  # [m, page_bytes]
    starts: Ints  # offsets in `pages` in bytes
    n_key: Ints
    n_value: Ints
    flags: Ints

    def bytes_of(self, i: int) -> tuple[bytes, bytes]:
        """The key, and the value or (if large) the number of its first overflow page."""
        key = int(self.starts[i]) + _NODE_BYTES
        value = key + int(self.n_key[i])
        end = value + (8 if self.flags[i] & _BIG else int(self.n_value[i]))
        flat = self.pages.reshape(-1)
        return flat[key:value].tobytes(), flat[value:end].tobytes()


def check_tree(data: Path, commit: int) -> None:
    """Check all pages of the trees of `commit` and its list of free pages. Needs 4 bytes of memory per page.

    The caller has the commit open in a transaction, so that its pages are not reused meanwhile. Raises BadStore if a
    page, offset, size or count is invalid or a page is used twice, and Moved if the file has only newer commits.
    """
    with opened(data) as descriptor:
        meta = next((meta for meta in metas(descriptor, data) if meta.commit == commit), None)
        if meta is None:
            raise Moved
        walk = _Walk(descriptor, data, meta)
        for nodes in walk.leaves(meta.main, "the tree of trees", 0, must=_SUBTREE):
            for i in range(len(nodes.starts)):
                name, record = nodes.bytes_of(i)
                if name not in _TREES or len(record) != TREE.size:
                    raise bad(data, f"unknown tree {name!r}", ", ".join(map(repr, _TREES)))
                for values in walk.leaves(record, name.decode(), _TREES[name], may=0 if name == b"index" else _BIG):
                    if name == b"index" and (values.n_value != _INDEX_BYTES).any():
                        raise bad(data, "an index entry is not a row", f"{_INDEX_BYTES} bytes")
        for nodes in walk.leaves(meta.free, _FREE, 8, may=_BIG):
            walk.free(nodes)
        walk.check_uses()


class _Walk:
    """Walks the trees of a commit and counts how often each page is used."""

    def __init__(self, descriptor: int, data: Path, meta: Meta) -> None:
        self._descriptor, self._data, self._meta = descriptor, data, meta
        # +1 at the start of each used run of pages, -1 after its end
        self._uses: Array = np.zeros(meta.last_page + 2, np.int32)

    def leaves(self, record: bytes, name: str, n_key: int, *, must: int = 0, may: int = 0) -> Iterator[_Nodes]:
        """The checked leaf pages of a tree. Keys have `n_key` bytes (0: any), nodes the flags `must` and `may`."""
        _, flags, depth, n_branches, n_leaves, n_overflow, n_entries, root = TREE.unpack(record)
        if flags != (_INTEGER_KEY if name == _FREE else 0):
            raise bad(self._data, f"{name} has unknown flags", "a tree with plain keys")
        if root == _NO_ROOT or not depth:
            if root != _NO_ROOT or depth or n_entries:
                raise bad(self._data, f"{name} has no root or no pages", f"{n_entries} entries")
            return
        level: Ints = np.array([root], np.uint64).astype(np.int64)
        counts = {"branches": 0, "leaves": 0, "overflow": 0, "entries": 0}
        for above in reversed(range(depth)):
            kind = _BRANCH if above else _LEAF
            children: list[Ints] = [np.zeros(0, np.int64)]
            self._use(level, np.ones_like(level), name)
            counts["branches" if above else "leaves"] += len(level)
            for block in self._read(np.sort(level)):
                nodes, child = self._nodes(*block, name, kind, n_key)
                if kind == _BRANCH:
                    children.append(child)
                    continue
                if (nodes.flags & ~may != must).any():
                    raise bad(self._data, f"{name} has a node with unknown flags", f"{must} or {must | may}")
                big = nodes.flags & _BIG > 0
                pages = (nodes.n_value[big] + _HEADER_BYTES - 1) // self._meta.page_bytes + 1
                at = (nodes.starts + _NODE_BYTES + nodes.n_key)[big]
                firsts = nodes.pages.reshape(-1)[at[:, None] + np.arange(8)].view("<i8").ravel()
                if name == _FREE:
                    pages = self._run_lengths(firsts, pages)
                self._use(firsts, pages, name)
                counts["overflow"] += int(pages.sum())
                counts["entries"] += len(nodes.starts)
                yield nodes
            level = np.concatenate(children)
        if tuple(counts.values()) != (recorded := (n_branches, n_leaves, n_overflow, n_entries)):
            raise bad(self._data, f"{name} has wrong counts of pages or entries", f"{recorded}, counted {counts}")

    def free(self, nodes: _Nodes) -> None:
        """Count the free pages listed in `nodes` as used."""
        for i in range(len(nodes.starts)):
            key, content = nodes.bytes_of(i)
            n_bytes = int(nodes.n_value[i])
            if nodes.flags[i] & _BIG:
                first = int.from_bytes(content, "little")
                content = os.pread(self._descriptor, n_bytes, first * self._meta.page_bytes + _HEADER_BYTES)
            if n_bytes % 8 or len(content) != n_bytes or not n_bytes:
                raise bad(self._data, "a list of free pages is cut off", "whole numbers")
            n, *pages = np.frombuffer(content, "<i8").tolist()
            listed = np.array(pages[:n] if 0 <= n <= len(pages) else [0], np.int64)
            if int.from_bytes(key, "little") > self._meta.commit or (np.diff(listed) >= 0).any():
                raise bad(self._data, "a list of free pages is out of order", "descending pages of an earlier commit")
            self._use(listed, np.ones_like(listed), _FREE)

    def _run_lengths(self, firsts: Ints, least: Ints) -> Ints:
        # LMDB may shrink a large value of the list of free pages without shrinking its run, so the run's header counts.
        self._check_range(firsts, least, _FREE)
        lengths = []
        for first, pages in zip(firsts.tolist(), least.tolist(), strict=True):
            header = os.pread(self._descriptor, _HEADER_BYTES, first * self._meta.page_bytes)
            number, flags, n_pages = _RUN.unpack(header.ljust(_HEADER_BYTES, b"\0"))
            if (number, flags) != (first, _OVERFLOW) or n_pages < pages:
                raise bad(self._data, f"page {first} does not belong to {_FREE}", "a run of pages")
            lengths.append(n_pages)
        return np.array(lengths, np.int64)

    def check_uses(self) -> None:
        """Raise BadStore if a page is used twice."""
        uses = np.cumsum(self._uses, out=self._uses)
        if (uses > 1).any():
            raise bad(self._data, f"page {int(np.argmax(uses > 1))} is used twice", "each page once")

    def _use(self, firsts: Ints, n_pages: Ints, name: str) -> None:
        self._check_range(firsts, n_pages, name)
        np.add.at(self._uses, firsts, 1)
        np.add.at(self._uses, firsts + n_pages, -1)

    def _check_range(self, firsts: Ints, n_pages: Ints, name: str) -> None:
        last = self._meta.last_page
        # Compared without a sum, which could overflow.
        outside = (firsts < _FIRST_PAGE) | (firsts > last) | (n_pages > last + 1 - np.minimum(firsts, last))
        if outside.any():
            raise bad(self._data, f"{name} points to page {int(firsts[outside][0])}", f"pages {_FIRST_PAGE} to {last}")

    def _read(self, numbers: Ints) -> Iterator[tuple[Array, Ints]]:
        """The pages with the ascending `numbers [n]`: blocks `[m, page_bytes]` and their numbers `[m]`."""
        size = self._meta.page_bytes
        for start in range(0, len(numbers), _BLOCK_PAGES):
            wanted = numbers[start : start + _BLOCK_PAGES]
            pages: Array = np.empty((len(wanted), size), np.uint8)
            at = 0
            for run in np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1):
                part = pages[at : at + len(run)]
                if os.preadv(self._descriptor, [part.reshape(-1).data], int(run[0]) * size) != part.nbytes:
                    raise bad(self._data, f"page {int(run[0])} cannot be read", "a complete page")
                at += len(run)
            yield pages, wanted

    def _nodes(self, pages: Array, numbers: Ints, name: str, kind: int, n_key: int) -> tuple[_Nodes, Ints]:
        """The checked nodes of `pages [m, page_bytes]`, and for branch pages the numbers of their children."""
        size = self._meta.page_bytes
        halves = pages.view("<u2")
        flags, lower, upper = (halves[:, i].astype(np.int64) for i in (5, 6, 7))
        wrong = (pages[:, :8].copy().view("<i8").ravel() != numbers) | (flags != kind) | (lower % 2 > 0)
        wrong |= (lower < _HEADER_BYTES + 2) | (lower > upper) | (upper > size)
        if wrong.any():
            raise bad(self._data, f"page {int(numbers[wrong][0])} does not belong to {name}", "a valid page header")
        n_nodes = (lower - _HEADER_BYTES) // 2
        listed = np.arange(int(n_nodes.max())) < n_nodes[:, None]
        offsets = halves[:, 8 : 8 + listed.shape[1]][listed].astype(np.int64)
        page, position = np.nonzero(listed)
        inside = (offsets % 2 == 0) & (offsets >= upper[page]) & (offsets <= size - _NODE_BYTES)
        starts = page * size + np.where(inside, offsets, 0)
        low, high, third, n_keys = (halves.reshape(-1)[starts // 2 + i].astype(np.int64) for i in range(4))
        if kind == _BRANCH:
            n_value, child, third = np.zeros_like(low), low + (high << 16) + (third << 32), np.zeros_like(low)
            inside &= (n_keys == n_key) | (n_key == 0) | ((n_keys == 0) & (position == 0))
        else:
            n_value, child = low + (high << 16), np.zeros(0, np.int64)
            inside &= (n_keys == n_key) | (n_key == 0)
        inside &= offsets + _NODE_BYTES + n_keys + np.where(third & _BIG > 0, 8, n_value) <= size
        if not inside.all():
            number = int(numbers[page[~inside][0]])
            raise bad(self._data, f"page {number} of {name} has a damaged node", "nodes in the page")
        return _Nodes(pages, starts, n_keys, n_value, third), child
