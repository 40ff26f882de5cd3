"""Stores on file systems that people have: layers, read-only mounts, folders of other users, no locks, no modes, and
processes with little address space or several threads. Mounts are real where the test may mount."""

import errno
import fcntl
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loid_infer.artifact import new_folder
from loid_infer.errors import LoidError, NoSpace, StoreBusy
from loid_infer.heads.presets import HeadOptions
from loid_infer.settings import Workspace
from loid_infer.store import environment
from loid_infer.store.rewrite import compact, salvage
from loid_infer.store.verify import verify
from loid_infer.store.writer import StoreWriter
from loid_infer.types import SILENT
from loid_infer.verbs import cache, fit, score, similar
from tests.store.test_store import FINGERPRINT, SPEC, append_many, filled, in_another_process, reader, rows
from tests.verbs.toy_domain import ENCODER, interactions, make_domain

NOBODY = 65534


@pytest.fixture
def mount():
    """A function that mounts something on a folder; skips where this is not allowed."""
    with ExitStack() as mounted:

        def run(folder: Path, *arguments: object) -> Path:
            folder.mkdir(exist_ok=True)
            done = subprocess.run(["mount", *map(str, arguments), str(folder)], check=False, capture_output=True)
            if done.returncode:
                pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
            mounted.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
            return folder

        if os.geteuid() or not shutil.which("mount"):
            pytest.skip("mounting needs root on Linux")
        yield run


@pytest.fixture
def read_only(mount):
    def bound(folder: Path) -> Path:
        view = mount(folder.with_name("read-only"), "--bind", folder)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(view)], check=True)
        return view

    return bound


def as_nobody(folder: Path, function: Callable[[], object]) -> str:
    def run() -> object:
        os.chdir(folder)
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return function()

    return in_child(run)


def in_child(function: Callable[[], object]) -> str:
    """What `function` returns or raises in a forked process."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = str(function())
        except LoidError as error:
            text = f"{type(error).__name__}: {error}"
        except BaseException:  # noqa: BLE001 - shown by the assertion
            text = traceback.format_exc()
        os.write(writable, text.encode()[:60_000])
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


def read_all(folder: Path, digests: np.ndarray) -> bytes:
    with reader(folder) as store:
        assert verify(store, SILENT).n_bad == 0
        return store.gather(store.lookup(digests), digests).tobytes()


# Overlays, as the layers of containers.


def test_a_store_in_a_lower_layer_is_appended_to_and_rewritten(tmp_path, mount):
    digests, vectors = filled(tmp_path / "lower" / "store", [300, 10])
    make_folder_with(tmp_path / "lower" / "head", "old")
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    options = ",".join(f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work"))
    layered = mount(tmp_path / "layered", "-t", "overlay", "-o", options, "overlay")
    with pytest.raises(OSError, match="cross-device"):
        (layered / "store").rename(layered / "moved")
    more = rows(50, seed=1)
    with StoreWriter(layered / "store", SPEC, FINGERPRINT) as writer:
        writer.append(more)
    compact(layered / "store", SPEC, FINGERPRINT, None, SILENT)
    assert read_all(layered / "store", digests) == vectors.tobytes()
    assert read_all(layered / "store", more[0]) == more[1].tobytes()
    make_folder_with(layered / "head", "new")
    assert (layered / "head" / "x").read_text() == "new"
    assert {path.name for path in layered.iterdir()} == {"store", "head"}


def make_folder_with(folder: Path, text: str) -> None:
    with new_folder(folder) as new:
        (new / "x").write_text(text)


@pytest.mark.parametrize("step", ["copytree", "rmtree", "replace"])
def test_an_interrupted_replacement_in_a_lower_layer_keeps_a_complete_store(tmp_path, monkeypatch, step):
    digests, vectors = filled(tmp_path / "store", [300, 10])
    plain = Path.replace

    def layered(path: Path, to: Path) -> Path:
        if path.name == "store":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        if step == "replace" and to.name == "store" and path.suffix == ".partial" and not to.exists():
            raise KeyboardInterrupt
        return plain(path, to)

    def broken(path, *arguments, **options):
        if step == "rmtree" and path.name == "store":
            (path / "data.mdb").unlink()
        if step == "copytree" or path.name == "store":
            raise KeyboardInterrupt
        return remove(path, *arguments, **options)

    remove = shutil.rmtree
    monkeypatch.setattr("loid_infer.artifact._exchange", lambda *_: False)
    monkeypatch.setattr(Path, "replace", layered)
    if step != "replace":
        monkeypatch.setattr(shutil, step, broken)
    with pytest.raises(KeyboardInterrupt):
        compact(tmp_path / "store", SPEC, FINGERPRINT, None, SILENT)
    monkeypatch.undo()
    for old in tmp_path.glob(".*"):
        os.utime(old, (0, 0))
    make_folder_with(tmp_path / "other", "sweeps what was abandoned")
    complete = [tmp_path / "store"] if step != "rmtree" else list(tmp_path.glob(".*.copy"))
    assert [read_all(folder, digests) for folder in complete] == [vectors.tobytes()]
    assert len(list(tmp_path.iterdir())) == (3 if step == "rmtree" else 2)


# Without permission to write.


def test_a_read_only_mount_is_read_and_keeps_writers_out_meanwhile(tmp_path, read_only):
    digests, vectors = filled(tmp_path / "disk" / "store", [300])
    store = read_only(tmp_path / "disk") / "store"
    assert in_child(lambda: read_all(store, digests) == vectors.tobytes()) == "True"
    with reader(store), pytest.raises(StoreBusy, match=r"may not write here is reading this store\. Wait"):
        StoreWriter(tmp_path / "disk" / "store", SPEC, FINGERPRINT)
    with StoreWriter(tmp_path / "disk" / "store", SPEC, FINGERPRINT) as writer:
        writer.append(rows(1, seed=1))
        assert re.match(r"StoreBusy: .*process \d+ on .* is writing", in_child(lambda: read_all(store, digests)))
    (tmp_path / "disk" / "store" / "writer.lock").unlink()  # as in a copy
    (tmp_path / "disk" / "store" / "lock.mdb").unlink()
    assert read_all(store, digests) == vectors.tobytes()
    assert in_child(lambda: StoreWriter(store, SPEC, FINGERPRINT)).startswith("NoSpace: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="another user needs root")
@pytest.mark.parametrize("has_lock_file", [True, False])
def test_a_store_of_another_user_is_read(tmp_path, has_lock_file):
    digests, vectors = filled(tmp_path / "store", [300])
    tmp_path.chmod(0o755)
    store, parent = Path("store"), tmp_path  # relative, since others may not enter pytest's folder
    if not has_lock_file:
        (tmp_path / "store" / "lock.mdb").unlink()
    assert as_nobody(parent, lambda: read_all(store, digests) == vectors.tobytes()) == "True"
    with StoreWriter(parent / store, SPEC, FINGERPRINT):
        assert "is writing" in as_nobody(parent, lambda: read_all(store, digests))
    assert "NoSpace: " in as_nobody(parent, lambda: StoreWriter(store, SPEC, FINGERPRINT))
    for path, mode in ((parent / store / "data.mdb", 0o600), (parent / store, 0o700)):
        path.chmod(mode)
        assert "may not read the store" in as_nobody(parent, lambda: reader(store))


def test_a_read_only_workspace_is_scored_searched_and_exported(tmp_path, read_only, fitted_domain):
    shutil.copytree(fitted_domain.root, tmp_path / "disk")
    workspace = Workspace(read_only(tmp_path / "disk"))
    before, after = (use(where, tmp_path / f"{n}.parquet", 0) for n, where in enumerate((fitted_domain, workspace)))
    assert before == after
    assert cache.cache_info(workspace=workspace).n_stores == 1
    assert cache.cache_verify(workspace=workspace).n_bad == 0
    assert cache.cache_export("toys", tmp_path / "v.parquet", workspace=workspace).n_rows > 100
    with pytest.raises(NoSpace, match=r"Read-only.*Make the folder writable"):
        score.score(pairs_of(workspace, tmp_path), domain="toys", out=workspace.root / "x.parquet", workspace=workspace)


# File systems without locks, modes or memory maps.


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
@pytest.mark.parametrize("lock", ["flock", "lmdb"])
def test_without_locks_a_store_is_refused_with_a_way_out(tmp_path, monkeypatch, code, lock):
    filled(tmp_path, [3])

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code)) if lock == "flock" else lmdb.Error(f"{tmp_path}: {os.strerror(code)}")

    monkeypatch.setattr(*((fcntl, "flock", fail) if lock == "flock" else (lmdb, "open", fail)))
    with pytest.raises(NoSpace, match=r"file system cannot .*local disk \(-w DIR\)"):
        StoreWriter(tmp_path, SPEC, FINGERPRINT)


def test_without_modes_a_store_is_written_and_rewritten(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    for module, name in ((os, "chmod"), (os, "fchmod"), (Path, "chmod")):
        monkeypatch.setattr(module, name, fail)
    digests, vectors = filled(tmp_path / "store", [300])
    compact(tmp_path / "store", SPEC, FINGERPRINT, None, SILENT)
    assert read_all(tmp_path / "store", digests) == vectors.tobytes()


def test_a_fat_file_system_holds_a_store(tmp_path, mount):
    if not shutil.which("mkfs.vfat"):
        pytest.skip("mkfs.vfat is not installed")
    with (tmp_path / "image").open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.vfat", str(tmp_path / "image")], check=True, capture_output=True)
    disk = mount(tmp_path / "disk", "-o", "loop", tmp_path / "image")
    digests, vectors = filled(disk / "store", [300])
    compact(disk / "store", SPEC, FINGERPRINT, None, SILENT)
    assert read_all(disk / "store", digests) == vectors.tobytes()


# Limited address space.


def limited(n_bytes: int, function: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + n_bytes, resource.RLIM_INFINITY))
        return function()

    return run


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the size of a process is read from /proc")
def test_a_store_uses_the_address_space_there_is(tmp_path):
    digests, vectors = filled(tmp_path, [300])
    small, none = 200 << 20, 1 << 20
    assert in_child(limited(small, lambda: read_all(tmp_path, digests) == vectors.tobytes())) == "True"
    assert in_child(limited(small, lambda: append_many(tmp_path))) == "None"
    words = r"NoMemory: .*address space of this process\. Run `ulimit -v unlimited` first\."
    assert re.match(words, in_child(limited(none, lambda: reader(tmp_path))))
    assert re.match(words, in_child(limited(none, lambda: StoreWriter(tmp_path, SPEC, FINGERPRINT))))
    assert in_child(limited(none, lambda: salvage(tmp_path, SPEC, FINGERPRINT, SILENT))).startswith("NoMemory: ")
    assert read_all(tmp_path, digests) == vectors.tobytes()


def grow_in_little_space(folder: Path) -> None:
    environment._MAP_STEP = 1 << 22
    environment._SMALLER_STEPS = (1 << 22,)
    with StoreWriter(folder, SPEC, FINGERPRINT) as writer:
        for seed in range(100, 1_000):
            writer.append(rows(4_000, seed=seed))


def test_a_map_that_cannot_grow_ends_a_run_and_loses_nothing(tmp_path):
    filled(tmp_path, [300])
    assert in_child(limited(24 << 20, lambda: grow_in_little_space(tmp_path))).startswith("NoMemory: ")
    with reader(tmp_path) as store:
        check = verify(store, SILENT)
    assert check.n_bad == 0 and check.n_rows > 4_000


def test_a_file_that_may_not_grow_ends_a_run_and_loses_nothing(tmp_path):
    digests, vectors = filled(tmp_path, [300])

    def append(n_bytes: int, seed: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))
        with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
            for n in range(30):
                writer.append(rows(200, seed=seed + n))

    for seed in (1, 100):  # a short write, and a refused one
        assert re.match(r"NoSpace: .*ulimit -f", in_child(lambda seed=seed: append(1 << 18, seed)))
        assert read_all(tmp_path, digests) == vectors.tobytes()


# Several threads and forks.


@pytest.fixture(scope="module")
def fitted_domain(tmp_path_factory):
    """A workspace with a head and its indexes."""
    workspace = Workspace(tmp_path_factory.mktemp("ws"))
    make_domain(workspace, "toys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "resolve_without_leak", lambda *_: ENCODER)
        for verb in (similar, cache):
            patch.setattr(verb, "resolve", lambda *_: ENCODER)
        fit.fit("toys", workspace=workspace, settings=HeadOptions(epochs=1))
        yield workspace


def pairs_of(workspace: Workspace, folder: Path) -> Path:
    path = folder / "pairs.parquet"
    if not path.exists():
        data = interactions(workspace, "toys")
        users, items = ([names[code] for code in codes[:200]] for names, codes in
                        ((data.user_ids, data.users), (data.item_ids, data.items)))  # fmt: skip
        pq.write_table(pa.table({"user_id": users, "item_id": items}), path)
    return path


def use(workspace: Workspace, out: Path, n: int) -> tuple:
    """Scores of all pairs and the neighbors of the n-th item."""
    score.score(pairs_of(workspace, out.parent), domain="toys", out=out, workspace=workspace)
    item = interactions(workspace, "toys").item_ids[n]
    return pq.read_table(out)["score"].to_pylist(), similar.similar("toys", item=item, workspace=workspace).neighbors


def test_eight_threads_score_and_search_as_one(tmp_path, fitted_domain):
    alone = [use(fitted_domain, tmp_path / "alone.parquet", n) for n in range(4)]
    shutil.rmtree(fitted_domain.root / "exports" / "indexes")  # all threads build it
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(use, fitted_domain, tmp_path / f"{n}.parquet", n % 4) for n in range(200)]
    assert all(call.result() == alone[n % 4] for n, call in enumerate(calls))
    assert [path.name for path in (fitted_domain.root / "exports" / "indexes").iterdir()] == ["toys.made-up.items"]


def test_threads_read_while_the_map_grows_and_the_store_is_written_and_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_MAP_STEP", 1 << 16)
    digests, vectors = filled(tmp_path / "store", [300])
    finished: list[bool] = []

    def read_until_finished(_: int) -> int:
        n = 0
        while not finished or not n:
            n += read_all(tmp_path / "store", digests) == vectors.tobytes()
        return n

    with ThreadPoolExecutor(4) as pool:
        counts = [pool.submit(read_until_finished, n) for n in range(4)]
        try:
            in_another_process(append_many, tmp_path / "store")
            compact(tmp_path / "store", SPEC, FINGERPRINT, None, SILENT)
            with StoreWriter(tmp_path / "store", SPEC, FINGERPRINT) as writer:
                for seed in range(5):
                    writer.append(rows(200, seed=seed + 1))
        finally:
            finished.append(True)
    assert min(count.result() for count in counts) > 0
    StoreWriter(tmp_path / "store", SPEC, FINGERPRINT).close()  # nothing is left open


def test_a_writer_waits_for_readers_of_its_process_only_so_long(tmp_path, monkeypatch):
    filled(tmp_path, [3])
    monkeypatch.setattr("loid_infer.store.shared._WAIT_S", 0.2)
    with reader(tmp_path), pytest.raises(StoreBusy, match="this process is reading the store"):
        StoreWriter(tmp_path, SPEC, FINGERPRINT)
    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer, reader(tmp_path) as store:
        writer.append(rows(5, seed=1))
        assert store.size().n_rows == 8


def test_a_forked_process_that_lives_longer_holds_no_lock(tmp_path):
    with StoreWriter(tmp_path, SPEC, FINGERPRINT):
        child = os.fork()
        if child == 0:
            signal.pause()
    try:
        StoreWriter(tmp_path, SPEC, FINGERPRINT).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_forked_process_opens_a_store_that_its_parent_has_open(tmp_path):
    digests, vectors = filled(tmp_path, [300])
    with reader(tmp_path) as store:
        assert in_child(lambda: read_all(tmp_path, digests) == vectors.tobytes()) == "True"
        in_another_process(append_many, tmp_path)
        assert store.gather(store.lookup(digests), digests).tobytes() == vectors.tobytes()
