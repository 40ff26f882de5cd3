"""What is broken off, again and again: each act in a process forked from this one, with a fault armed or a kill coming.

Run as a program, so that the faults' library can be preloaded and everything slow is imported once.
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
from loid_infer.encoders.fake import FakeRuntime
from loid_infer.errors import LoidError, NotEncoded
from loid_infer.kernels.cosine import row_cosines
from loid_infer.settings import Workspace
from loid_infer.store import environment, rewrite, writer
from loid_infer.store.reader import open_store
from loid_infer.store.verify import verify
from loid_infer.store.writer import writer_lock
from loid_infer.types import SILENT

FINISHED, REFUSED, CRASHED, NOT_REACHED = 0, 2, 1, 3
KINDS = {"fails": 1, "fails and all after it": 2, "is cut short": 3, "is killed half way": 4, "is killed behind it": 5}


class Scene:
    """A workspace with reviews, what its store holds when nothing goes wrong, and the acts that make or rewrite it."""

    def __init__(self, root: Path, runtime: str = "fake") -> None:
        writer.CHUNK_ROWS = 64
        environment._MAP_STEP = 1 << 18  # so that the map grows on the way
        self.workspace, self.runtime = Workspace(root), runtime
        assert forked(self.encode) == FINISHED  # here no thread is ever started: a fork would lose it
        (self.folder,) = self.workspace.cache.iterdir()
        self.spec, self.print = environment.read_spec(self.folder), self.folder.name
        self.whole = self.vectors()
        self.spare = root.parent / "spare"
        shutil.copytree(self.folder, self.spare)

    def vectors(self) -> dict[bytes, bytes]:
        """What the store holds, text for text; it must be sound, in whole chunks, and every row found by its digest."""
        try:
            store = open_store(self.folder, self.spec, self.print)
        except NotEncoded:
            return {}
        with store:
            check = verify(store, SILENT)
            assert check.n_bad == 0, check.problems
            parts = [(chunk.digests.copy(), chunk.vectors.copy()) for chunk in store.scan()]
            for digests, vectors in parts:
                assert np.array_equal(store.gather(store.lookup(digests), digests), vectors)
        return {bytes(d): v.tobytes() for digests, vectors in parts for d, v in zip(digests, vectors, strict=True)}

    def right(self, there: dict[bytes, bytes]) -> bool:
        """Whether every text of `there` has its vector: that very one or, since batches differ after a resume, one of
        cosine 0.9999 to it."""
        if self.runtime == "fake":
            return there.items() <= self.whole.items()
        one, other = (
            np.frombuffer(b"".join(part[digest] for digest in there), np.float16).astype(np.float32)
            for part in (there, self.whole)
        )
        cosines = row_cosines(*(part.reshape(len(there), self.spec.dim) for part in (one, other)))
        return not there or float(cosines.min()) >= 0.9999

    def reset(self, *, full: bool) -> None:
        for path in self.workspace.cache.iterdir():
            shutil.rmtree(path)
        if full:
            shutil.copytree(self.spare, self.folder)

    def encode(self) -> None:
        encode("toys", runtime=self.runtime, workspace=self.workspace)

    def compact(self) -> None:
        with writer_lock(self.folder):
            rewrite.compact(self.folder, self.spec, self.print, None, SILENT)

    def salvage(self) -> None:
        with writer_lock(self.folder):
            rewrite.salvage(self.folder, self.spec, self.print, SILENT)

    def n_writes(self, shim: ctypes.CDLL, name: str) -> int:
        """How many writes and syncs an act makes."""
        told = self.spare.parent / "n_writes"

        def count() -> None:
            shim.fault_arm(bytes(self.workspace.cache), 0, 0, 0)
            getattr(self, name)()
            told.write_text(str(shim.fault_seen()))

        assert forked(count) == FINISHED
        found = int(told.read_text())
        assert found > 20, "the library does not see what LMDB writes"
        return found

    def faulted(self, shim: ctypes.CDLL, name: str, n: int, kind: int, error: int) -> bool:
        """Act with a fault at the n-th write. Whether it came to that."""
        shim.fault_arm(bytes(self.workspace.cache), n, kind, error)
        getattr(self, name)()
        return shim.fault_seen() >= n


def forked(act: Callable[[], object], kill_after: float | None = None) -> int:
    """The exit code of `act` in a process of its own; minus the signal's number when one ended it."""
    child = os.fork()
    if child == 0:
        code = CRASHED
        try:
            code = NOT_REACHED if act() is False else FINISHED
        except LoidError as error:
            print(error, file=sys.stderr)
            code = REFUSED if error.fix else CRASHED
        except BaseException:  # noqa: BLE001 - told by the exit code
            traceback.print_exc()
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def faults(root: Path, library: str, every: int) -> str:
    """The n-th write or sync below the cache goes wrong, for each n (each `every`-th), in each way, for each act."""
    scene, shim, counts = Scene(root), ctypes.CDLL(library), Counter()
    for name, full in (("encode", False), ("compact", True), ("salvage", True)):
        scene.reset(full=full)
        n_writes = scene.n_writes(shim, name)
        for n in range(1, n_writes + 1, every):
            for (way, kind), error in product(KINDS.items(), (EIO, ENOSPC)):
                if error == ENOSPC and not way.startswith("fails"):
                    continue
                scene.reset(full=full)
                code = forked(partial(scene.faulted, shim, name, n, kind, error))
                place = f"{name}: write {n} of {n_writes} {way} with {errorcode[error]}: exit {code}"
                if code == NOT_REACHED:  # what is committed together depends on the moment
                    assert name == "encode", place
                    counts["fewer writes than counted"] += 1
                    continue
                if "killed" in way:
                    assert code == -signal.SIGKILL, place
                elif way.startswith("fails") and (error == EIO or "all" in way):
                    assert code == REFUSED, place
                else:  # a write that is cut short may be completed, and one that found no room be tried again
                    assert code in (FINISHED, REFUSED), place
                there = scene.vectors()
                assert there.items() <= scene.whole.items(), place
                assert not full or there == scene.whole, place
                counts[name] += 1
                assert forked(scene.encode) == FINISHED
                assert scene.vectors() == scene.whole, place
    return f"failing writes: {sum(counts.values())} cases ({dict(counts)}), nothing lost"


def _slowly(run: Callable) -> Callable:
    def slow(self: object, batches: object) -> object:
        for result in run(self, batches):
            time.sleep(0.02)
            yield result

    return slow


def kills(root: Path, rounds: int, runtime: str) -> str:
    """A process is killed at a random moment; what it committed stays, and whoever goes on gets the same vectors."""
    FakeRuntime.run = _slowly(FakeRuntime.run)  # else all is stored in the last moment
    scene, rng = Scene(root, runtime), random.Random(rounds)
    scene.reset(full=False)
    start = time.perf_counter()
    assert forked(scene.encode) == FINISHED
    seconds, counts, n_stored = time.perf_counter() - start, Counter(), 0
    scene.reset(full=False)
    for _ in range(rounds):
        code = forked(scene.encode, kill_after=rng.uniform(0, seconds))
        assert code in (FINISHED, -signal.SIGKILL)
        there = scene.vectors()
        assert n_stored <= len(there) and scene.right(there)
        counts["finished" if code == FINISHED else "nothing yet" if not there else "in the middle"] += 1
        n_stored = len(there)
        if n_stored == len(scene.whole):
            scene.reset(full=False)
            n_stored = 0
    assert counts["in the middle"] > rounds // 10, counts
    assert forked(scene.encode) == FINISHED
    there = scene.vectors()
    assert len(there) == len(scene.whole) and scene.right(there)
    return f"SIGKILL ({runtime}): {rounds} rounds of encode ({dict(counts)}), what was committed stayed, text for text"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["faults", place, library, every]:
            print(json.dumps(faults(Path(place), library, int(every))))
        case ["kills", place, rounds, runtime]:
            print(json.dumps(kills(Path(place), int(rounds), runtime)))
