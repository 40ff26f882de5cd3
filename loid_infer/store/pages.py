"""The trees of LMDB's file, walked before LMDB follows them.

LMDB trusts every page number, offset and size it finds, so one flipped bit is a segmentation fault that no exception
catches. Here each page of a commit's trees is checked first. Records have checksums of their own and are not looked
into. This file knows LMDB's format 1; of what a store keeps in it, only the trees' names and the length of their keys.
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
_RUN = struct.Struct("<Q2xHI")  # the header of a run of pages that one value fills
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4  # flags of a page
_BIG, _SUBTREE = 1, 2  # flags of a node
_NO_ROOT = (1 << 64) - 1
_TREES = {b"chunks": 8, b"index": DIGEST_BYTES, b"meta": 0}  # name -> bytes of a key; 0 is any
_FREE = "the list of free pages"
_INDEX_BYTES = 8  # of a value in the index
_BLOCK_PAGES = 512


class Moved(Exception):
    """The commit that was to be checked is no longer the newest or the one before."""


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


def check_tree(data: Path, commit: int) -> None:
    """Walk every page of the trees that `commit` can reach, and its list of free pages. The caller has it open in a
    transaction, so that nothing of it is reused meanwhile. Takes 4 bytes of memory a page of the file.

    Raises:
        BadStore: a page, an offset, a size or a count is not what it must be, or a page belongs to two.
        Moved: the file has newer commits only.
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
                    raise walk.bad(f"it knows a tree {name!r}", ", ".join(map(repr, _TREES)))
                for values in walk.leaves(record, name.decode(), _TREES[name], may=0 if name == b"index" else _BIG):
                    if name == b"index" and (values.n_value != _INDEX_BYTES).any():
                        raise walk.bad("an index entry is not a row", f"{_INDEX_BYTES} bytes")
        for nodes in walk.leaves(meta.free, _FREE, 8, may=_BIG):
            walk.free(nodes)
        walk.check_claims()


class _Walk:
    """A walk over the trees of one commit, which claims every page once."""

    def __init__(self, descriptor: int, data: Path, meta: Meta) -> None:
        self._descriptor, self._data, self._meta = descriptor, data, meta
        self._claims: Array = np.zeros(meta.last_page + 2, np.int32)  # +1 where a claimed run begins, -1 behind it

    def bad(self, what: str, expected: str) -> BadStore:
        return bad(self._data, what, expected)

    def leaves(self, record: bytes, name: str, n_key: int, *, must: int = 0, may: int = 0) -> Iterator[_Nodes]:
        """The leaf pages of a tree in blocks, sound as far as its `record` and their own fields tell.

        Args:
            n_key: bytes of every key; 0 is any.
            must, may: flags that every node has, and that some have.
        """
        _, flags, depth, n_branches, n_leaves, n_overflow, n_entries, root = TREE.unpack(record)
        if flags != (INTEGER_KEY if name == _FREE else 0):
            raise self.bad(f"{name} has unknown flags", "a tree of plain keys")
        if root == _NO_ROOT or not depth:
            if root != _NO_ROOT or depth or n_entries:
                raise self.bad(f"{name} has no root, or no pages below it", f"{n_entries} entries")
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
                if (nodes.flags & ~may != must).any():
                    raise self.bad(f"{name} has a node with unknown flags", f"{must} or {must | may}")
                big = nodes.flags & _BIG > 0
                pages = (nodes.n_value[big] + _HEADER_BYTES - 1) // self._meta.page_bytes + 1
                at = (nodes.starts + _NODE_BYTES + nodes.n_key)[big]
                firsts = nodes.pages.reshape(-1)[at[:, None] + np.arange(8)].view("<i8").ravel()
                if name == _FREE:
                    pages = self._run_lengths(firsts, pages)
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
            self._claim(listed, np.ones_like(listed), _FREE)

    def _run_lengths(self, firsts: Ints, least: Ints) -> Ints:
        """How many pages the runs of a free list's values have `[n]`. LMDB may shrink such a value and keep its run,
        and frees as many pages as the run says: so here, and here only, its header counts."""
        self._refuse_outside(firsts, least, _FREE)
        found = []
        for first, pages in zip(firsts.tolist(), least.tolist(), strict=True):
            header = os.pread(self._descriptor, _HEADER_BYTES, first * self._meta.page_bytes)
            number, flags, n_pages = _RUN.unpack(header.ljust(_HEADER_BYTES, b"\0"))
            if (number, flags) != (first, _OVERFLOW) or n_pages < pages:
                raise self.bad(f"page {first} is none of {_FREE}", "a run of pages")
            found.append(n_pages)
        return np.array(found, np.int64)

    def check_claims(self) -> None:
        """Refuse a page that belongs to two."""
        claims = np.cumsum(self._claims, out=self._claims)
        if (claims > 1).any():
            raise self.bad(f"page {int(np.argmax(claims > 1))} belongs to two", "each page in one place")

    def _claim(self, firsts: Ints, n_pages: Ints, name: str) -> None:
        self._refuse_outside(firsts, n_pages, name)
        np.add.at(self._claims, firsts, 1)
        np.add.at(self._claims, firsts + n_pages, -1)

    def _refuse_outside(self, firsts: Ints, n_pages: Ints, name: str) -> None:
        last = self._meta.last_page
        # Compared without adding up, so that no number can wrap around.
        outside = (firsts < _FIRST_PAGE) | (firsts > last) | (n_pages > last + 1 - np.minimum(firsts, last))
        if outside.any():
            raise self.bad(f"{name} points to page {int(firsts[outside][0])}", f"pages {_FIRST_PAGE} to {last}")

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
