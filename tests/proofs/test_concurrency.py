"""Concurrent processes: the map grows under open readers, writers do not wait for readers, and no reader sees a partial
commit."""

import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from loid_infer.errors import StoreBusy
from loid_infer.store import environment
from loid_infer.store.reader import open_store
from loid_infer.store.verify import verify
from loid_infer.store.writer import StoreWriter
from loid_infer.types import SILENT
from tests.proofs.conftest import slow
from tests.store.test_store import DIM, FINGERPRINT, SPEC, reader

SPAWN = multiprocessing.get_context("spawn")
COMMIT, MAP_STEP = 256, 1 << 17


def commit(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Digests of the n-th commit and vectors that are computed from them."""
    digests = np.random.default_rng(n).integers(0, 256, (COMMIT, 16), np.uint8)
    return digests, np.tile(digests.astype(np.float16), (1, 2))[:, :DIM]


def read_repeatedly(folder: Path, finished: Event, opened: Event, results) -> None:
    """Read the store until the writer has finished, and once more: complete commits only, never fewer than before."""
    environment._MAP_STEP = MAP_STEP
    rng, n_before, n_reads, longest = np.random.default_rng(os.getpid()), 0, 0, 0.0
    with open_store(folder, SPEC, FINGERPRINT) as store:
        opened.set()
        is_last = False
        while not is_last:
            is_last, start = finished.is_set(), time.monotonic()
            n = store.size().n_rows
            assert n % COMMIT == 0 and n >= n_before
            digests, vectors = commit(int(rng.integers(n // COMMIT)))
            assert np.array_equal(store.gather(store.lookup(digests), digests), vectors)
            assert (store.lookup(commit(1_000_000)[0]) == -1).all()
            longest = max(longest, time.monotonic() - start)
            n_before, n_reads = n, n_reads + 1
    results.put((n_reads, n_before, longest))


def append_commits(folder: Path, n_from: int, n_to: int, pause: float) -> None:
    environment._MAP_STEP = MAP_STEP
    with StoreWriter(folder, SPEC, FINGERPRINT) as writer:
        for n in range(n_from, n_to):
            writer.append(commit(n))
            time.sleep(pause)


def hold_read_transaction(folder: Path, opened: Event) -> None:
    with reader(folder) as store, store.environment.read():
        opened.set()
        time.sleep(60)


def commit_slowly(folder: Path, committing: Event, seconds: float) -> None:
    with StoreWriter(folder, SPEC, FINGERPRINT) as writer:
        original = writer.reader.environment.write

        def slow(change) -> None:
            def changed(txn) -> None:
                change(txn)
                committing.set()
                time.sleep(seconds)

            original(changed)

        writer.reader.environment.write = slow
        writer.append(commit(1))


def hold_writer_lock(folder: Path, opened: Event) -> None:
    with StoreWriter(folder, SPEC, FINGERPRINT):
        opened.set()
        time.sleep(60)


def start_process(target, *arguments):
    process = SPAWN.Process(target=target, args=arguments)
    process.start()
    return process


def join_process(process) -> None:
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize(("n_readers", "seconds"), [(3, 5.0), slow(32, 60.0)])
def test_readers_see_whole_commits_while_a_writer_grows_the_map(tmp_path, report_cases, n_readers, seconds):
    append_commits(tmp_path, 0, 2, 0.0)
    results, finished, started = SPAWN.Queue(), SPAWN.Event(), [SPAWN.Event() for _ in range(n_readers)]
    readers = [start_process(read_repeatedly, tmp_path, finished, event, results) for event in started]
    assert all(event.wait(60) for event in started)
    n_commits, start = 2, time.monotonic()
    while time.monotonic() - start < seconds:  # a new writer each time, as a job that is run repeatedly
        join_process(start_process(append_commits, tmp_path, n_commits, n_commits + 50, 0.002))
        n_commits += 50
    finished.set()
    reader_results = [results.get(timeout=60) for _ in readers]
    for process in readers:
        join_process(process)
    assert {n for _, n, _ in reader_results} == {n_commits * COMMIT}
    n_steps = (tmp_path / "data.mdb").stat().st_size // MAP_STEP
    with reader(tmp_path) as store:
        check = verify(store, SILENT)
        assert (check.n_bad, check.n_rows) == (0, n_commits * COMMIT)
    n_reads, longest = sum(n for n, *_ in reader_results), max(s for *_, s in reader_results)
    report_cases(
        f"concurrency: {n_readers} readers read {n_reads:,} times (at most {longest:.2f} s) while "
        f"{n_commits:,} commits let the file grow by {n_steps:,} steps of the map"
    )


def test_a_reader_neither_waits_for_a_commit_nor_sees_it_early(tmp_path):
    append_commits(tmp_path, 0, 1, 0.0)
    committing = SPAWN.Event()
    writer = start_process(commit_slowly, tmp_path, committing, 4.0)
    assert committing.wait(60)
    start = time.monotonic()
    with reader(tmp_path) as store:
        assert verify(store, SILENT).n_rows == COMMIT
        assert (store.lookup(commit(1)[0]) == -1).all()
        assert time.monotonic() - start < 2 and writer.is_alive()
        join_process(writer)
        assert (store.lookup(commit(1)[0]) >= 0).all()


def test_a_second_writer_is_refused_with_the_process_id_of_the_first(tmp_path):
    append_commits(tmp_path, 0, 1, 0.0)
    opened = SPAWN.Event()
    first = start_process(hold_writer_lock, tmp_path, opened)
    assert opened.wait(60)
    with pytest.raises(StoreBusy, match=f"process {first.pid} on "):
        StoreWriter(tmp_path, SPEC, FINGERPRINT)
    first.kill()
    first.join()
    StoreWriter(tmp_path, SPEC, FINGERPRINT).close()  # the lock of a dead process is free


def test_a_reader_killed_in_a_transaction_does_not_make_the_file_grow(tmp_path):
    def append_and_measure(n_from: int) -> int:
        with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:  # small commits copy the same index pages repeatedly
            for n in range(n_from, n_from + 300):
                digests, vectors = commit(n)
                writer.append((digests[:16], vectors[:16]))
        return (tmp_path / "data.mdb").stat().st_size

    sizes = [append_and_measure(0)]
    for n in range(1, 4):
        opened = SPAWN.Event()
        holder = start_process(hold_read_transaction, tmp_path, opened)
        assert opened.wait(60)
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
        sizes.append(append_and_measure(300 * n))
    growth = np.diff(sizes)
    payload = 300 * 16 * (DIM * 2 + 16 + 24)
    assert (growth < 2 * payload + 64 * 4096).all(), sizes
