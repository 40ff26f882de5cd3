"""Crash and fault injection: each operation on a store runs in a forked process that is killed or whose writes fail.

Run as a program, so that the library that makes writes fail can be preloaded, and slow imports happen once.
"""

import ctypes
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from errno import EIO, ENOSPC, errorcode
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from loid_infer import encode
from loid_infer.cluster import join
from loid_infer.encoders.fake import FakeRuntime
from loid_infer.errors import LoidError, NotEncoded
from loid_infer.kernels.cosine import row_cosines
from loid_infer.settings import Workspace
from loid_infer.store import environment, rewrite, writer
from loid_infer.store.reader import open_store
from loid_infer.store.verify import verify
from loid_infer.store.writer import writer_lock
from loid_infer.types import SILENT

FINISHED, REFUSED, CRASHED, NOT_REACHED = 0, 2, 1, 3  # exit codes of a forked process
# What happens to the n-th write or sync -> its number in faults.c
FAULTS = {"fails": 1, "fails and all after it": 2, "is cut short": 3, "is killed half way": 4, "is killed after it": 5}


class StoreUnderTest:
    """A workspace with reviews, the vectors of an uninterrupted run, and the operations that write to its store."""

    def __init__(self, root: Path, runtime: str = "fake") -> None:
        writer.CHUNK_ROWS = join.CHUNK_ROWS = 64
        join._SMALL_INDEX, join._COMMIT_BYTES, join._MAX_WAITING = 64, 1 << 12, 150
        writer._KEYS_A_COMMIT = 100
        environment._MAP_STEP = 1 << 18  # so that the map grows during a run
        self.workspace, self.runtime = Workspace(root), runtime
        assert run_forked(self.encode) == FINISHED  # this process must start no threads: a fork would lose them
        (self.folder,) = self.workspace.cache.iterdir()
        self.spec, self.fingerprint = environment.read_spec(self.folder), self.folder.name
        self.expected = self.vectors()
        self.backup = root.parent / "backup"
        shutil.copytree(self.folder, self.backup)

    def vectors(self) -> dict[bytes, bytes]:
        """The stored vectors by digest; asserts that all chunks are intact and every row is indexed, or waits."""
        try:
            store = open_store(self.folder, self.spec, self.fingerprint)
        except NotEncoded:
            return {}
        with store:
            check = verify(store, SILENT)
            assert check.n_bad == 0, check.problems
            waiting, parts = store.first_unindexed(), []
            for chunk in store.scan():
                digests, vectors, rows = chunk.digests.copy(), chunk.vectors.copy(), store.lookup(chunk.digests)
                is_stored = rows >= 0
                assert is_stored.all() or (waiting is not None and chunk.first_row >= waiting)
                parts.append((digests[is_stored], vectors[is_stored]))
                assert np.array_equal(store.gather(rows[is_stored], parts[-1][0]), parts[-1][1])
        return {bytes(d): v.tobytes() for digests, vectors in parts for d, v in zip(digests, vectors, strict=True)}

    def matches_expected(self, stored: dict[bytes, bytes]) -> bool:
        """Whether every stored vector is the expected one: the same bytes for the fake runtime, else a cosine of at
        least 0.9999, since a resumed run has other batches."""
        if self.runtime == "fake":
            return stored.items() <= self.expected.items()
        matrices = [
            np.frombuffer(b"".join(vectors[digest] for digest in stored), np.float16).astype(np.float32)
            for vectors in (stored, self.expected)
        ]
        cosines = row_cosines(*(matrix.reshape(len(stored), self.spec.dim) for matrix in matrices))
        return not stored or float(cosines.min()) >= 0.9999

    def reset(self, *, full: bool) -> None:
        """Empty the cache, or restore the complete store."""
        for path in self.workspace.cache.iterdir():
            shutil.rmtree(path)
        if full:
            shutil.copytree(self.backup, self.folder)

    def encode(self) -> None:
        encode("toys", runtime=self.runtime, workspace=self.workspace)

    def join(self) -> None:
        """Join the complete store, with texts that occur twice in a piece and in two pieces."""
        with (
            open_store(self.backup, self.spec, self.fingerprint) as store,
            writer.StoreWriter(self.folder, self.spec, self.fingerprint) as into,
        ):
            chunks = [(chunk.digests.copy(), chunk.vectors.copy()) for chunk in store.scan()]
            twice = [tuple(part[[3, *range(len(part)), 3]] for part in chunks[1]), *chunks[2:]]
            added, into.add_rows = [], lambda *rows, add=into.add_rows: [added.append(rows), add(*rows)]
            join.add_vectors(into, iter([chunks[0], *twice, tuple(part[:9] for part in chunks[2])]), SILENT)
            assert len(added) >= 3, "rows are to be added without their index entries"

    def compact(self) -> None:
        with writer_lock(self.folder):
            rewrite.compact(self.folder, self.spec, self.fingerprint, None, SILENT)

    def salvage(self) -> None:
        with writer_lock(self.folder):
            rewrite.salvage(self.folder, self.spec, self.fingerprint, SILENT)

    def count_writes(self, library: ctypes.CDLL, operation: str) -> int:
        """The number of writes and syncs of an operation."""
        file = self.backup.parent / "n_writes"

        def count() -> None:
            library.fault_arm(bytes(self.workspace.cache), 0, 0, 0)
            getattr(self, operation)()
            file.write_text(str(library.fault_seen()))

        assert run_forked(count) == FINISHED
        n_writes = int(file.read_text())
        assert n_writes > 20, "the preloaded library does not see the writes of LMDB"
        return n_writes

    def run_with_fault(self, library: ctypes.CDLL, operation: str, n: int, fault: int, error: int) -> bool:
        """Run an operation with a fault at the n-th write; returns whether that write was reached."""
        library.fault_arm(bytes(self.workspace.cache), n, fault, error)
        getattr(self, operation)()
        return library.fault_seen() >= n


def run_forked(function: Callable[[], object], kill_after: float | None = None) -> int:
    """The exit code of `function` in a forked process; minus the number of the signal if one ended it.

    Args:
        kill_after: kill the process after so many seconds.
    """
    child = os.fork()
    if child == 0:
        code = CRASHED
        try:
            code = NOT_REACHED if function() is False else FINISHED
        except LoidError as error:
            print(error, file=sys.stderr)
            code = REFUSED if error.fix else CRASHED
        except BaseException:  # noqa: BLE001 - reported by the exit code
            traceback.print_exc()
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def inject_write_faults(root: Path, library_path: str, every: int) -> str:
    """Let the n-th write or sync below the cache fail, with every kind of fault in every operation.

    Nothing that was committed may be lost.

    Args:
        every: test every so-many-th n.
    """
    store, library, counts = StoreUnderTest(root), ctypes.CDLL(library_path), Counter()
    for operation, full in (("encode", False), ("join", False), ("compact", True), ("salvage", True)):
        store.reset(full=full)
        n_writes = store.count_writes(library, operation)
        for n in range(1, n_writes + 1, every):
            for (name, fault), error in product(FAULTS.items(), (EIO, ENOSPC)):
                if error == ENOSPC and not name.startswith("fails"):
                    continue
                store.reset(full=full)
                code = run_forked(partial(store.run_with_fault, library, operation, n, fault, error))
                case = f"{operation}: write {n} of {n_writes} {name} with {errorcode[error]}: exit {code}"
                if code == NOT_REACHED:  # how many chunks are committed together depends on timing
                    assert operation == "encode", case
                    counts["fewer writes than counted"] += 1
                    continue
                if "killed" in name:
                    assert code == -signal.SIGKILL, case
                elif name.startswith("fails") and (error == EIO or "all" in name):
                    assert code == REFUSED, case
                else:  # a write that was cut short may be completed, and one without space retried
                    assert code in (FINISHED, REFUSED), case
                stored = store.vectors()
                assert stored.items() <= store.expected.items(), case
                assert not full or stored == store.expected, case
                counts[operation] += 1
                assert run_forked(store.encode) == FINISHED
                assert store.vectors() == store.expected, case
    return f"failing writes: {sum(counts.values())} cases ({dict(counts)}), nothing lost"


def _slowed(run: Callable) -> Callable:
    def slow(self: object, batches: object) -> object:
        for result in run(self, batches):
            time.sleep(0.02)
            yield result

    return slow


def kill_at_random_times(root: Path, rounds: int, runtime: str) -> str:
    """Kill `encode` at random times and run it again; committed vectors stay, and all are the expected ones."""
    FakeRuntime.run = _slowed(FakeRuntime.run)  # otherwise everything is stored at the very end
    store, rng = StoreUnderTest(root, runtime), random.Random(rounds)
    store.reset(full=False)
    start = time.perf_counter()
    assert run_forked(store.encode) == FINISHED
    seconds, counts, n_stored = time.perf_counter() - start, Counter(), 0
    store.reset(full=False)
    n = 0
    while n < rounds or (counts["in the middle"] <= rounds // 10 and n < 10 * rounds):
        n += 1  # on a machine that has become slower than the first run was, later kills
        code = run_forked(store.encode, kill_after=rng.uniform(0, seconds * max(1, n / rounds)))
        assert code in (FINISHED, -signal.SIGKILL)
        stored = store.vectors()
        assert n_stored <= len(stored) and store.matches_expected(stored)
        counts["finished" if code == FINISHED else "nothing yet" if not stored else "in the middle"] += 1
        n_stored = len(stored)
        if n_stored == len(store.expected):
            store.reset(full=False)
            n_stored = 0
    assert counts["in the middle"] > rounds // 10, counts
    assert run_forked(store.encode) == FINISHED
    stored = store.vectors()
    assert len(stored) == len(store.expected) and store.matches_expected(stored)
    return f"SIGKILL ({runtime}): {n} rounds of encode ({dict(counts)}), every committed text was kept"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write-faults", root, library, every]:
            print(json.dumps(inject_write_faults(Path(root), library, int(every))))
        case ["kills", root, rounds, runtime]:
            print(json.dumps(kill_at_random_times(Path(root), int(rounds), runtime)))
