"""Checks all B-tree pages of an LMDB file (format 1) before LMDB reads them.

LMDB trusts every page number, offset and size, so one flipped bit can cause a segmentation fault. Values (records of
vectors) are not checked here; they have their own checksums.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loid_infer.errors import BadStore
from loid_infer.store.metas import INTEGER_KEY, TREE, Meta, bad, metas, opened
from loid_infer.types import DIGEST_BYTES, Array, Ints

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

    The caller has the commit open in a transaction, so that its pages are not reused meanwhile.

    Raises:
        BadStore: a page, offset, size or count is invalid, or a page is used twice.
        Moved: the file has only newer commits.
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
                    raise walk.bad(f"unknown tree {name!r}", ", ".join(map(repr, _TREES)))
                for values in walk.leaves(record, name.decode(), _TREES[name], may=0 if name == b"index" else _BIG):
                    if name == b"index" and (values.n_value != _INDEX_BYTES).any():
                        raise walk.bad("an index entry is not a row", f"{_INDEX_BYTES} bytes")
        for nodes in walk.leaves(meta.free, _FREE, 8, may=_BIG):
            walk.free(nodes)
        walk.check_uses()


class _Walk:
    """Walks the trees of a commit and counts how often each page is used."""

    def __init__(self, descriptor: int, data: Path, meta: Meta) -> None:
        self._descriptor, self._data, self._meta = descriptor, data, meta
        self._uses: Array = np.zeros(
            meta.last_page + 2, np.int32
        )  # +1 at the start of each used run of pages, -1 after its end

    def bad(self, what: str, expected: str) -> BadStore:
        return bad(self._data, what, expected)

    def leaves(self, record: bytes, name: str, n_key: int, *, must: int = 0, may: int = 0) -> Iterator[_Nodes]:
        """The checked leaf pages of a tree, in blocks.

        Args:
            n_key: length of every key in bytes; 0: any.
            must, may: required and allowed flags of nodes.
        """
        _, flags, depth, n_branches, n_leaves, n_overflow, n_entries, root = TREE.unpack(record)
        if flags != (INTEGER_KEY if name == _FREE else 0):
            raise self.bad(f"{name} has unknown flags", "a tree with plain keys")
        if root == _NO_ROOT or not depth:
            if root != _NO_ROOT or depth or n_entries:
                raise self.bad(f"{name} has no root or no pages", f"{n_entries} entries")
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
                    raise self.bad(f"{name} has a node with unknown flags", f"{must} or {must | may}")
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
            raise self.bad(f"{name} has wrong counts of pages or entries", f"{recorded}, counted {counts}")

    def free(self, nodes: _Nodes) -> None:
        """Count the free pages listed in `nodes` as used."""
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
            self._use(listed, np.ones_like(listed), _FREE)

    def _run_lengths(self, firsts: Ints, least: Ints) -> Ints:
        """The lengths `[n]` of the page runs of large values in the list of free pages.

        LMDB may shrink such a value without shrinking its run, so the run's header is what counts.
        """
        self._check_range(firsts, least, _FREE)
        lengths = []
        for first, pages in zip(firsts.tolist(), least.tolist(), strict=True):
            header = os.pread(self._descriptor, _HEADER_BYTES, first * self._meta.page_bytes)
            number, flags, n_pages = _RUN.unpack(header.ljust(_HEADER_BYTES, b"\0"))
            if (number, flags) != (first, _OVERFLOW) or n_pages < pages:
                raise self.bad(f"page {first} does not belong to {_FREE}", "a run of pages")
            lengths.append(n_pages)
        return np.array(lengths, np.int64)

    def check_uses(self) -> None:
        """Raise BadStore if a page is used twice."""
        uses = np.cumsum(self._uses, out=self._uses)
        if (uses > 1).any():
            raise self.bad(f"page {int(np.argmax(uses > 1))} is used twice", "each page once")

    def _use(self, firsts: Ints, n_pages: Ints, name: str) -> None:
        self._check_range(firsts, n_pages, name)
        np.add.at(self._uses, firsts, 1)
        np.add.at(self._uses, firsts + n_pages, -1)

    def _check_range(self, firsts: Ints, n_pages: Ints, name: str) -> None:
        last = self._meta.last_page
        # Compared without a sum, which could overflow.
        outside = (firsts < _FIRST_PAGE) | (firsts > last) | (n_pages > last + 1 - np.minimum(firsts, last))
        if outside.any():
            raise self.bad(f"{name} points to page {int(firsts[outside][0])}", f"pages {_FIRST_PAGE} to {last}")

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
                    raise self.bad(f"page {int(run[0])} cannot be read", "a complete page")
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
            raise self.bad(f"page {int(numbers[wrong][0])} does not belong to {name}", "a valid page header")
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
            raise self.bad(f"page {int(numbers[page[~inside][0]])} of {name} has a damaged node", "nodes in the page")
        return _Nodes(pages, starts, n_keys, n_value, third), child
