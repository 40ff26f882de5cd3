"""A store and a plain dictionary are used alike, in any order of anything that can be done: they hold the same."""

import multiprocessing
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from loid_infer.store import environment
from loid_infer.store.reader import open_store
from loid_infer.store.rewrite import compact, salvage
from loid_infer.store.verify import verify
from loid_infer.store.writer import Committer, StoreWriter, writer_lock
from loid_infer.types import SILENT
from tests.proofs.conftest import slow
from tests.store.test_store import DIM, PRINT, SPEC

DONE: Counter[str] = Counter()
OTHER: list = []  # the pipe to the process that reads beside


def fresh(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, n])
    return rng.integers(0, 256, (n, 16), np.uint8), rng.normal(size=(n, DIM)).astype(np.float16)


def look(pipe) -> None:
    """A process that opens the store when it is told to, keeps it open, and looks texts up."""
    store = None
    while (digests := pipe.recv()) is not None:
        if isinstance(digests, str):
            if store is not None:
                store.close()
            store = open_store(Path(digests), SPEC, PRINT) if digests else None
        else:
            rows = store.lookup(digests)
            found = rows >= 0
            pipe.send((found, store.gather(rows[found], digests[found])))


class Stores(RuleBasedStateMachine):
    """One store that is written to, rewritten and read, and others that are joined to it."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="machine-"))
        self.held: dict[bytes, bytes] = {}
        self.seed = 0
        self.is_open = False
        with StoreWriter(self.root / "store", SPEC, PRINT):
            pass

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.close()
            shutil.rmtree(self.root)

    def did(self, what: str) -> None:
        DONE[what] += 1

    def put(self, folder: Path, digests: np.ndarray, vectors: np.ndarray) -> None:
        """As `encode` and `cache import` do: ask what is missing, commit that behind."""
        with StoreWriter(folder, SPEC, PRINT) as writer:
            new = writer.reader.lookup(digests) < 0
            with Committer(writer, DIM) as committer:
                for some in np.array_split(np.flatnonzero(new), 3):
                    committer.add(digests[some], vectors[some].astype(np.float32))

    def keep(self, digests: np.ndarray, vectors: np.ndarray) -> None:
        for digest, vector in zip(digests, vectors, strict=True):
            self.held.setdefault(bytes(digest), vector.tobytes())

    def known(self, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keys = [key for key, take in zip(self.held, np.resize(picked, len(self.held)), strict=True) if take]
        digests = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
        return digests, np.frombuffer(b"".join(self.held[key] for key in keys), np.float16).reshape(-1, DIM)

    @rule(n=st.integers(1, 2_500))
    def append(self, n: int) -> None:
        self.seed += 1
        digests, vectors = fresh(n, self.seed)
        self.put(self.root / "store", digests, vectors)
        self.keep(digests, vectors)
        self.did("append")

    @rule(picked=st.lists(st.booleans(), min_size=1, max_size=8), n=st.integers(1, 300))
    def join(self, picked: list[bool], n: int) -> None:
        """Another machine's store, which has some of the same texts."""
        self.seed += 1
        digests, vectors = fresh(n, self.seed)
        some = self.known(np.array(picked))
        shard = self.root / "shard"
        self.put(shard, np.concatenate([some[0], digests]), np.concatenate([some[1], vectors]))
        with open_store(shard, SPEC, PRINT) as store:
            for chunk in store.scan():
                self.put(self.root / "store", chunk.digests.copy(), chunk.vectors.copy())
        shutil.rmtree(shard)
        self.keep(digests, vectors)
        self.did("import")

    @rule()
    def compact(self) -> None:
        with writer_lock(self.root / "store"):
            assert compact(self.root / "store", SPEC, PRINT, None, SILENT).n_dropped == 0
        self.did("compact")

    @rule(below=st.integers(0, 256))
    def gc(self, below: int) -> None:
        with writer_lock(self.root / "store"):
            compact(self.root / "store", SPEC, PRINT, lambda digests: digests[:, 3] < below, SILENT)
        self.held = {digest: vector for digest, vector in self.held.items() if digest[3] < below}
        self.did("gc")

    @rule()
    def salvage(self) -> None:
        with writer_lock(self.root / "store"):
            assert salvage(self.root / "store", SPEC, PRINT, SILENT).n_rows == len(self.held)
        self.did("salvage")

    @rule()
    def open(self) -> None:
        """A reader that stays open while others write, and sees what they commit."""
        OTHER[0].send(str(self.root / "store"))
        self.is_open, self.at_open = True, set(self.held)
        self.did("open")

    @rule()
    def close(self) -> None:
        OTHER[0].send("")
        self.is_open = False

    @rule()
    def export(self) -> None:
        """A copy of the folder is a store."""
        shutil.copytree(self.root / "store", self.root / "copy")
        shutil.rmtree(self.root / "store")
        (self.root / "copy").rename(self.root / "store")
        self.did("copy")

    @invariant()
    def is_the_same(self) -> None:
        if not hasattr(self, "root"):
            return
        digests, vectors = self.known(np.array([True]))
        strangers = fresh(50, 10**6)[0]
        with open_store(self.root / "store", SPEC, PRINT) as store:
            assert verify(store, SILENT).n_bad == 0
            rows = store.lookup(digests)
            assert sorted(rows) == list(range(len(self.held)))
            assert (store.lookup(strangers) < 0).all()
            assert np.array_equal(store.gather(rows, digests), vectors)
            assert store.size().n_rows == store.size().n_index == len(self.held)
        if self.is_open:  # what it opened may have been replaced since: then it has what was there
            OTHER[0].send(digests)
            found, seen = OTHER[0].recv()
            assert np.array_equal(seen, vectors[found])
            assert all(there or bytes(digest) not in self.at_open for there, digest in zip(found, digests, strict=True))


@pytest.mark.parametrize("n_runs", [6, slow(150)])
def test_a_store_is_a_dictionary(monkeypatch, counted, n_runs):
    monkeypatch.setattr(environment, "_MAP_STEP", 1 << 16)
    DONE.clear()
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=look, args=(there,))
    process.start()
    OTHER[:] = [here]
    run_state_machine_as_test(
        Stores,
        settings=settings(
            max_examples=n_runs,
            stateful_step_count=30,
            deadline=None,
            derandomize=n_runs < 10,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
    here.send(None)
    process.join()
    assert process.exitcode == 0
    counted(f"state machine: {n_runs} runs, {sum(DONE.values())} steps ({dict(DONE)}), each like a dictionary")
