"""Random sequences of operations on a store and on a dictionary leave the same content."""

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

from loid_infer.cluster import join
from loid_infer.store import environment
from loid_infer.store.reader import open_store
from loid_infer.store.rewrite import compact, salvage
from loid_infer.store.verify import verify
from loid_infer.store.writer import Committer, StoreWriter, writer_lock
from loid_infer.types import SILENT
from tests.proofs.conftest import slow
from tests.store.test_store import DIM, FINGERPRINT, SPEC

STEPS: Counter[str] = Counter()
READER: list = []  # the pipe to the reading process


def random_rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, n])
    return rng.integers(0, 256, (n, 16), np.uint8), rng.normal(size=(n, DIM)).astype(np.float16)


def serve_reader(pipe) -> None:
    """The reading process: receives a path to open (or "" to close) or digests to look up, until it receives None."""
    store = None
    while (digests := pipe.recv()) is not None:
        if isinstance(digests, str):
            if store is not None:
                store.close()
            store = open_store(Path(digests), SPEC, FINGERPRINT) if digests else None
        else:
            rows = store.lookup(digests)
            is_stored = rows >= 0
            pipe.send((is_stored, store.gather(rows[is_stored], digests[is_stored])))


class StoreMachine(RuleBasedStateMachine):
    """A store that is written, rewritten and read, and into which other stores are imported."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="machine-"))
        self.content: dict[bytes, bytes] = {}
        self.waiting: dict[bytes, bytes] = {}  # in chunks of a killed writer, without index entries
        self.seed = 0
        self.is_open = False
        with StoreWriter(self.root / "store", SPEC, FINGERPRINT):
            pass

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.close()
            shutil.rmtree(self.root)

    def count_step(self, name: str) -> None:
        STEPS[name] += 1

    def put(self, folder: Path, digests: np.ndarray, vectors: np.ndarray) -> None:
        """Append what is missing, with a committer, as `encode` and `cache import` do."""
        with StoreWriter(folder, SPEC, FINGERPRINT) as writer:
            if folder == self.root / "store":
                self.index()
            new = writer.reader.lookup(digests) < 0
            with Committer(writer) as committer:
                for rows in np.array_split(np.flatnonzero(new), 3):
                    committer.add(digests[rows], vectors[rows].astype(np.float32))

    def index(self) -> None:
        """What a killed writer left is stored by the next operation that writes."""
        self.content |= self.waiting
        self.waiting = {}

    def remember(self, digests: np.ndarray, vectors: np.ndarray) -> None:
        for digest, vector in zip(digests, vectors, strict=True):
            self.content.setdefault(bytes(digest), vector.tobytes())

    def expected(self, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Digests and vectors of the dictionary; `picked` is repeated as a mask."""
        keys = [key for key, take in zip(self.content, np.resize(picked, len(self.content)), strict=True) if take]
        digests = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
        return digests, np.frombuffer(b"".join(self.content[key] for key in keys), np.float16).reshape(-1, DIM)

    @rule(n=st.integers(1, 2_500))
    def append(self, n: int) -> None:
        self.seed += 1
        digests, vectors = random_rows(n, self.seed)
        self.put(self.root / "store", digests, vectors)
        self.remember(digests, vectors)
        self.count_step("append")

    @rule(picked=st.lists(st.booleans(), min_size=1, max_size=8), n=st.integers(1, 300))
    def import_shard(self, picked: list[bool], n: int) -> None:
        """Import the store of another machine, which has some of the same texts."""
        self.seed += 1
        digests, vectors = random_rows(n, self.seed)
        shared = self.expected(np.array(picked))
        shard = self.root / "shard"
        self.put(shard, np.concatenate([shared[0], digests]), np.concatenate([shared[1], vectors]))
        with open_store(shard, SPEC, FINGERPRINT) as store:
            for chunk in store.scan():
                self.put(self.root / "store", chunk.digests.copy(), chunk.vectors.copy())
        shutil.rmtree(shard)
        self.remember(digests, vectors)
        self.count_step("import")

    @rule(picked=st.lists(st.booleans(), min_size=1, max_size=8), n=st.integers(1, 2_500), large=st.booleans())
    def join(self, picked: list[bool], n: int, large: bool) -> None:
        """Join vectors of other processes, some of texts that are stored, into a small or a large index."""
        self.seed += 1
        digests, vectors = random_rows(n, self.seed)
        with StoreWriter(self.root / "store", SPEC, FINGERPRINT) as writer:
            self.index()
            shared = self.expected(np.array(picked))
            parts = [np.concatenate(pair) for pair in zip(shared, (digests, vectors), strict=True)]
            parts = [np.concatenate([part, part[::7]]) for part in parts]  # some twice
            pieces = zip(*(np.array_split(part, 5) for part in parts), strict=True)
            join._SMALL_INDEX = 0 if large else 1 << 20
            assert join.add_vectors(writer, (piece for piece in pieces if len(piece[0])), SILENT) == n
        self.remember(digests, vectors)
        self.count_step("join")

    @rule(n=st.integers(1, 2_500))
    def killed_join(self, n: int) -> None:
        """A join ends before it writes index entries."""
        self.seed += 1
        digests, vectors = random_rows(n, self.seed)
        with StoreWriter(self.root / "store", SPEC, FINGERPRINT) as writer:
            self.index()
            writer.add_rows(*((digests[at : at + 900], vectors[at : at + 900]) for at in range(0, n, 900)))
        self.waiting = {bytes(digest): vector.tobytes() for digest, vector in zip(digests, vectors, strict=True)}
        self.count_step("killed join")

    @rule()
    def compact(self) -> None:
        self.index()
        with writer_lock(self.root / "store"):
            assert compact(self.root / "store", SPEC, FINGERPRINT, None, SILENT).n_dropped == 0
        self.count_step("compact")

    @rule(below=st.integers(0, 256))
    def gc(self, below: int) -> None:
        self.index()
        with writer_lock(self.root / "store"):
            compact(self.root / "store", SPEC, FINGERPRINT, lambda digests: digests[:, 3] < below, SILENT)
        self.content = {digest: vector for digest, vector in self.content.items() if digest[3] < below}
        self.count_step("gc")

    @rule()
    def salvage(self) -> None:
        self.index()
        with writer_lock(self.root / "store"):
            assert salvage(self.root / "store", SPEC, FINGERPRINT, SILENT).n_rows == len(self.content)
        self.count_step("salvage")

    @rule()
    def open(self) -> None:
        """Open a reader in another process, which stays open while the store is written."""
        READER[0].send(str(self.root / "store"))
        self.is_open, self.at_open = True, set(self.content)
        self.count_step("open")

    @rule()
    def close(self) -> None:
        READER[0].send("")
        self.is_open = False

    @rule()
    def copy(self) -> None:
        """Replace the folder by a copy of itself."""
        shutil.copytree(self.root / "store", self.root / "copy")
        shutil.rmtree(self.root / "store")
        (self.root / "copy").rename(self.root / "store")
        self.count_step("copy")

    @invariant()
    def store_equals_dictionary(self) -> None:
        if not hasattr(self, "root"):
            return
        digests, vectors = self.expected(np.array([True]))
        unknown = random_rows(50, 10**6)[0]
        with open_store(self.root / "store", SPEC, FINGERPRINT) as store:
            assert verify(store, SILENT).n_bad == 0
            rows = store.lookup(digests)
            assert sorted(rows) == list(range(len(self.content)))  # those that wait come last
            assert (store.lookup(np.frombuffer(b"".join(self.waiting), np.uint8).reshape(-1, 16)) < 0).all()
            assert (store.lookup(unknown) < 0).all()
            assert np.array_equal(store.gather(rows, digests), vectors)
            assert store.size().n_index == len(self.content)
            assert store.size().n_rows == len(self.content) + len(self.waiting)
        if self.is_open:  # the store may have been replaced since it was opened; then it has the older content
            READER[0].send(digests)
            is_stored, read = READER[0].recv()
            assert np.array_equal(read, vectors[is_stored])
            assert all(
                stored or bytes(digest) not in self.at_open for stored, digest in zip(is_stored, digests, strict=True)
            )


@pytest.mark.parametrize("n_runs", [6, slow(150)])
def test_a_store_behaves_like_a_dictionary(monkeypatch, report_cases, n_runs):
    monkeypatch.setattr(environment, "_MAP_STEP", 1 << 16)
    monkeypatch.setattr(join, "_SMALL_INDEX", join._SMALL_INDEX)  # restored after the rules
    monkeypatch.setattr(join, "_COMMIT_BYTES", 1 << 13)
    monkeypatch.setattr(join, "_MAX_WAITING", 700)
    STEPS.clear()
    pipe, reader_pipe = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve_reader, args=(reader_pipe,))
    process.start()
    READER[:] = [pipe]
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=n_runs,
            stateful_step_count=30,
            deadline=None,
            derandomize=n_runs < 10,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
    pipe.send(None)
    process.join()
    assert process.exitcode == 0
    report_cases(
        f"state machine: {n_runs} runs, {sum(STEPS.values())} steps ({dict(STEPS)}), each equal to a dictionary"
    )
