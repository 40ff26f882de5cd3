"""The check of LMDB's pages accepts valid stores and refuses damaged ones."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from loid_infer.errors import BadStore
from loid_infer.store import environment, pages
from loid_infer.store.environment import DATA_FILE, Environment
from loid_infer.store.pages import TREE
from loid_infer.store.rewrite import compact
from loid_infer.store.verify import verify
from loid_infer.store.writer import StoreWriter
from loid_infer.types import SILENT
from tests.store.test_store import DIM, FINGERPRINT, SPEC, filled, reader, rows

PAGE = 4096


def newest(data: Path) -> pages.Meta:
    with pages.opened(data) as descriptor:
        return max(pages.metas(descriptor, data), key=lambda meta: meta.commit)


def append_large(folder: Path, n_commits: int, seed: int = 0) -> None:
    """Commits that each change every index page, so that lists of free pages need overflow pages."""
    rng = np.random.default_rng(seed)
    with StoreWriter(folder, SPEC, FINGERPRINT) as writer:
        for _ in range(n_commits):
            writer.append((rng.integers(0, 256, (8_192, 16), np.uint8), np.zeros((8_192, DIM), np.float16)))


def free_list_pages(data: Path) -> list[int]:
    """The first pages of runs with lists of free pages."""
    content, pages, page = data.read_bytes(), [], 2
    last = newest(data).last_page
    while page <= last:
        header = content[page * PAGE : page * PAGE + 32]
        flags, n_pages = int.from_bytes(header[10:12], "little"), int.from_bytes(header[12:16], "little")
        n, first = int.from_bytes(header[16:24], "little"), int.from_bytes(header[24:32], "little")
        if flags == 4 and int.from_bytes(header[:8], "little") == page:
            pages += [page] if 0 < n <= last and 2 <= first <= last else []
            page += max(n_pages, 1)
        else:
            page += 1
    return pages


def test_a_damaged_run_of_the_free_list_is_refused(tmp_path):
    append_large(tmp_path, 9)
    data = tmp_path / DATA_FILE
    content, n_refused = data.read_bytes(), 0
    for page in free_list_pages(data):
        for byte in (*range(8), 10, 11, 12, 13, 16, 17, 24, 25):
            data.write_bytes(content)
            with data.open("r+b") as file:
                file.seek(page * PAGE + byte)
                file.write(bytes([content[page * PAGE + byte] ^ 8]))
            try:
                reader(tmp_path).close()
            except BadStore:
                n_refused += 1
    assert n_refused >= 10


def test_a_shortened_free_list_is_accepted(tmp_path):
    """LMDB reserves pages for a list, may need fewer, and does not shrink the run."""
    append_large(tmp_path, 9)
    data = tmp_path / DATA_FILE
    content, root = bytearray(data.read_bytes()), TREE.unpack(newest(data).free)[7] * PAGE
    n_shrunk = 0
    for position in range(root + 16, root + int.from_bytes(content[root + 12 : root + 14], "little"), 2):
        node = root + int.from_bytes(content[position : position + 2], "little")
        size, flags = int.from_bytes(content[node : node + 4], "little"), content[node + 4]
        run = int.from_bytes(content[node + 16 : node + 24], "little") * PAGE
        n_pages = (size + 15) // PAGE + 1
        if flags & 1 and n_pages > 1:
            assert int.from_bytes(content[run + 12 : run + 16], "little") == n_pages
            less = (n_pages - 1) * PAGE - 16
            content[node : node + 4] = less.to_bytes(4, "little")
            content[run + 16 : run + 24] = (less // 8 - 1).to_bytes(8, "little")
            n_shrunk += 1
    assert n_shrunk > 0
    data.write_bytes(content)
    append_large(tmp_path, 4, seed=1)  # LMDB accepts it
    with reader(tmp_path) as store:
        assert verify(store, SILENT).n_bad == 0
        assert store.size().n_rows == 13 * 8_192


@pytest.mark.parametrize("name", [b"chunks", b"index", b"meta"])
def test_a_missing_tree_flag_is_refused(tmp_path, name):
    filled(tmp_path, [300] * 3)
    data = tmp_path / DATA_FILE
    original, at, n_refused = data.read_bytes(), -1, 0
    while (at := original.find(len(name).to_bytes(2, "little") + name, at + 1)) >= 0:  # also on free pages
        content = bytearray(original)
        content[at - 2] ^= 2  # the flag of a subtree
        for write in (False, True):
            data.write_bytes(content)
            try:
                Environment(tmp_path, SPEC, FINGERPRINT, write=write).close()
            except BadStore:
                n_refused += 1
    assert n_refused == 2  # the only used page, for a reader and for a writer


def test_a_file_replaced_under_an_open_reader_is_detected(tmp_path):
    filled(tmp_path / "store", [300] * 3)
    shutil.copytree(tmp_path / "store", tmp_path / "backup")
    with StoreWriter(tmp_path / "store", SPEC, FINGERPRINT) as writer:
        for seed in range(4):
            writer.append(rows(50, seed=10 + seed))
    child = os.fork()
    if child == 0:  # while a process has it open, the lock file still refers to the newer commits
        with reader(tmp_path / "store"):
            shutil.copy(tmp_path / "backup" / DATA_FILE, tmp_path / "store" / DATA_FILE)
            code = os.spawnv(os.P_WAIT, "/bin/sh", ["sh", "-c", f"cd {Path(__file__).parents[2]} && {OPEN % tmp_path}"])
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


OPEN = f"""{os.sys.executable} -c '
from pathlib import Path
from tests.store.test_store import reader
from loid_infer.errors import BadStore
try:
    reader(Path("%s") / "store")
except BadStore as error:
    assert "replaced" in str(error) and "Stop that process" in str(error), error
else:
    raise SystemExit(1)
'"""


def test_a_read_error_is_reported(tmp_path, monkeypatch):
    filled(tmp_path, [300])

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(BadStore, match="cannot be read: Input/output error"):
        reader(tmp_path)


def test_meta_pages_that_change_while_they_are_read_are_read_again(tmp_path, monkeypatch):
    filled(tmp_path, [10])
    original, writer = os.pread, StoreWriter(tmp_path, SPEC, FINGERPRINT)
    seeds = iter(range(100, 103))

    def interrupted(descriptor, n, at):
        content = original(descriptor, n, at)
        if at == 0 and (seed := next(seeds, None)) is not None:
            for i in range(3):
                writer.append(rows(20, seed=1_000 * seed + i))
        return content

    monkeypatch.setattr(pages.os, "pread", interrupted)
    assert pages.is_initialized(tmp_path / DATA_FILE)
    monkeypatch.undo()
    writer.close()


def test_an_unknown_lmdb_format_is_refused(tmp_path):
    filled(tmp_path, [10])
    with (tmp_path / DATA_FILE).open("r+b") as file:
        file.seek(20)
        file.write(b"\x02")
    with pytest.raises(BadStore, match="LMDB format 2"):
        reader(tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_valid_stores_are_accepted(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(environment, "_MAP_STEP", 1 << 16)
    rng = np.random.default_rng(seed)
    for i in range(40):
        with StoreWriter(tmp_path / "s", SPEC, FINGERPRINT) as writer:  # checked at every opening
            for j in range(int(rng.integers(1, 4))):
                writer.append(rows(int(rng.integers(1, 1_500)), seed=10_000 * seed + 100 * i + j))
        if i % 13 == 12:
            compact(tmp_path / "s", SPEC, FINGERPRINT, None, SILENT)
    with reader(tmp_path / "s") as store:
        assert verify(store, SILENT).n_bad == 0


@pytest.mark.parametrize(("depth", "root"), [(0, 3), (1, 2**64 - 1)])
def test_an_empty_tree_that_has_a_root_is_refused(tmp_path, depth, root):
    """Its counts are 0, but LMDB would follow the root."""
    StoreWriter(tmp_path, SPEC, FINGERPRINT).close()
    data = tmp_path / DATA_FILE
    content, at, n_found = bytearray(data.read_bytes()), -1, 0
    while (at := content.find(b"chunks", at + 1)) >= 0:
        record = TREE.unpack_from(content, at + 6)
        if record[2:] == (0, 0, 0, 0, 0, 2**64 - 1):
            TREE.pack_into(content, at + 6, *record[:2], depth, 0, 0, 0, 0, root)
            n_found += 1
    assert n_found
    data.write_bytes(content)
    for write in (False, True):
        with pytest.raises(BadStore, match="chunks has no root"):
            Environment(tmp_path, SPEC, FINGERPRINT, write=write)
