"""Writing, reading and verifying a store."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import BadStore, NotEncoded, ParityError, StoreBusy
from loid_infer.store import environment as environment_module
from loid_infer.store.environment import SPEC_FILE, Environment, read_spec
from loid_infer.store.pages import is_initialized
from loid_infer.store.reader import StoreReader, open_store
from loid_infer.store.records import pack
from loid_infer.store.rewrite import salvage
from loid_infer.store.verify import verify
from loid_infer.store.writer import CHUNK_ROWS, Committer, StoreWriter
from loid_infer.types import SILENT
from tests.conftest import make_spec

DIM = 24
SPEC = make_spec(hidden_dim=DIM)
FINGERPRINT = fingerprint(SPEC)


def rows(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 16), np.uint8), rng.normal(size=(n, DIM)).astype(np.float16)


def filled(folder: Path, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    digests, vectors = rows(sum(sizes))
    with StoreWriter(folder, SPEC, FINGERPRINT) as writer:
        at = 0
        for n in sizes:
            writer.append((digests[at : at + n], vectors[at : at + n]))
            at += n
    return digests, vectors


def reader(folder: Path) -> StoreReader:
    return open_store(folder, SPEC, FINGERPRINT)


def test_appended_vectors_are_read_in_any_order(tmp_path: Path) -> None:
    digests, vectors = filled(tmp_path, [5, 1, 17, 300])
    store = reader(tmp_path)
    order = np.random.default_rng(1).permutation(len(digests))
    order = np.concatenate([order, order[:50]])  # repeated digests are allowed
    store_rows = store.lookup(digests[order])
    np.testing.assert_array_equal(store_rows, order)
    np.testing.assert_array_equal(store.gather(store_rows, digests[order]), vectors[order])


@pytest.mark.parametrize("dim", [24, 7, 1])
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_a_view_is_indexed_like_an_array(tmp_path: Path, dim: int, dtype: str) -> None:
    spec = replace(SPEC, hidden_dim=dim, store_dtype=dtype)
    digests = rows(1_500)[0]
    vectors = np.random.default_rng(1).normal(size=(1_500, dim)).astype("<f2" if dtype == "fp16" else "<f4")
    with StoreWriter(tmp_path, spec, fingerprint(spec)) as writer:
        for at, end in ((0, 1_024), (1_024, 1_025), (1_025, 1_500)):
            writer.append((digests[at:end], vectors[at:end]))
    order = np.random.default_rng(2).permutation(1_500)
    with open_store(tmp_path, spec, fingerprint(spec)) as store:
        with store.view(store.lookup(digests[order]), digests[order]) as view:
            expected = vectors[order]
            assert view.shape == expected.shape and view.dtype == expected.dtype and len(view) == 1_500
            for which in (7, -1, slice(3, 900, 7), order, order.reshape(30, 50), np.zeros(0, int), expected[:, 0] > 0):
                assert np.array_equal(view[which], expected[which])
            first = view[:3]
        with pytest.raises(IndexError):
            view[:3]
    assert np.array_equal(first, expected[:3])  # results are copies


def test_an_empty_view(tmp_path: Path) -> None:
    filled(tmp_path, [5])
    with reader(tmp_path) as store, store.view(np.zeros(0, int), np.zeros((0, 16), np.uint8)) as view:
        assert view[:].shape == (0, DIM)


def test_a_view_stays_valid_while_another_process_grows_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment_module, "_MAP_STEP", 1 << 16)
    digests, vectors = filled(tmp_path, [300])
    with reader(tmp_path) as store:
        with store.view(store.lookup(digests), digests) as view:
            in_another_process(append_many, tmp_path)
            assert np.array_equal(view[:], vectors)
            with pytest.raises(RuntimeError, match="cannot be resized"):
                store.lookup(digests)
        assert (store.lookup(digests) >= 0).all()


def test_the_map_may_grow_while_chunks_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_module, "_MAP_STEP", 1 << 16)
    digests, vectors = filled(tmp_path, [300])
    with reader(tmp_path) as store:
        stored_rows, original = store.lookup(digests), store._chunks_of

        def chunks(*arguments):  # inside the transaction, before any chunk is read
            in_another_process(append_many, tmp_path)
            yield from original(*arguments)

        monkeypatch.setattr(store, "_chunks_of", chunks)
        assert np.array_equal(store.gather(stored_rows, digests), vectors)


def test_verify_works_while_the_map_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_module, "_MAP_STEP", 1 << 16)
    filled(tmp_path, [300])
    with reader(tmp_path) as store:
        original = store.index_entries

        def entries():
            for part in original():
                in_another_process(append_many, tmp_path)
                yield part

        monkeypatch.setattr(store, "index_entries", entries)
        assert verify(store, SILENT).n_bad == 0


def test_unknown_digests_are_minus_one_and_cannot_be_gathered(tmp_path: Path) -> None:
    digests, _ = filled(tmp_path, [8])
    unknown, _ = rows(4, seed=9)
    store = reader(tmp_path)
    assert store.lookup(unknown).tolist() == [-1] * 4
    with pytest.raises(NotEncoded, match=r"4 of 4 texts have no vector yet\. Run: this"):
        store.rows_of(unknown, "Run: this")
    with pytest.raises(BadStore, match="no chunk contains it"):
        store.gather(store.lookup(unknown), unknown)
    assert store.lookup(digests[:0]).shape == (0,)
    assert store.gather(np.zeros(0, np.int64), digests[:0]).shape == (0, DIM)


def test_a_row_of_another_text_is_refused(tmp_path: Path) -> None:
    digests, _ = filled(tmp_path, [8])
    with pytest.raises(BadStore, match="another text"):
        reader(tmp_path).gather(np.array([3]), digests[4:5])


def test_rows_beyond_the_end_are_refused(tmp_path: Path) -> None:
    digests, _ = filled(tmp_path, [8, 8])
    with pytest.raises(BadStore, match="no chunk contains it"):
        reader(tmp_path).gather(np.array([16]), digests[:1])


def test_a_text_cannot_be_stored_twice(tmp_path: Path) -> None:
    digests, vectors = filled(tmp_path, [8])
    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
        with pytest.raises(ValueError, match="1 of 1"):
            writer.append((digests[:1], vectors[:1]))
        assert writer.reader.size().n_rows == 8


def test_a_second_writer_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, SPEC, FINGERPRINT), pytest.raises(StoreBusy, match=str(os.getpid())):
        StoreWriter(tmp_path, SPEC, FINGERPRINT)
    StoreWriter(tmp_path, SPEC, FINGERPRINT).close()


def test_a_concurrent_reader_sees_complete_chunks_only(tmp_path: Path) -> None:
    filled(tmp_path, [4])
    code = """if True:
        import sys
        sys.path.insert(0, sys.argv[2])
        from test_store import *
        digests, vectors = rows(40, seed=5)
        store = reader(Path(sys.argv[1]))
        print(store.size().n_rows, flush=True)
        input()
        assert (store.lookup(digests) >= 0).all()
        print(store.size().n_rows, flush=True)
    """
    arguments = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline().strip() == "4"
        with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
            writer.append(rows(40, seed=5))
        out, _ = child.communicate("\n", timeout=30)
        assert out.strip() == "44"


def test_the_map_grows_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_module, "_MAP_STEP", 1 << 16)
    sizes = [200] * 30
    digests, vectors = filled(tmp_path, sizes)
    assert (tmp_path / "data.mdb").stat().st_size > 4 << 16
    store = reader(tmp_path)
    np.testing.assert_array_equal(store.gather(store.lookup(digests), digests), vectors)


def test_a_reader_follows_a_map_that_another_process_grew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_module, "_MAP_STEP", 1 << 16)
    filled(tmp_path, [10])
    store = reader(tmp_path)
    in_another_process(append_many, tmp_path)
    assert store.size().n_rows == 10 + 30 * 200


def in_another_process(task, folder: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=task, args=(folder,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def append_many(folder: Path) -> None:
    with StoreWriter(folder, SPEC, FINGERPRINT) as writer:
        for seed in range(100, 130):
            writer.append(rows(200, seed=seed))


def test_use_after_fork_is_refused(tmp_path: Path) -> None:
    filled(tmp_path, [3])
    store = reader(tmp_path)
    child = os.fork()
    if child == 0:
        try:
            store.size()
        except RuntimeError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize("other", [{"precision": "bf16"}, {"weights": "x"}, {"max_tokens": 17}])
def test_a_store_opens_only_for_its_spec(tmp_path: Path, other: dict) -> None:
    filled(tmp_path, [3])
    spec = replace(SPEC, **other)
    with pytest.raises(BadStore, match=f"{next(iter(other))}="):
        open_store(tmp_path, spec, fingerprint(spec))


def test_a_damaged_spec_file_is_restored(tmp_path: Path) -> None:
    filled(tmp_path, [3])
    assert read_spec(tmp_path) == SPEC
    (tmp_path / SPEC_FILE).write_text("{")
    with pytest.raises(BadStore, match="cannot be read"):
        read_spec(tmp_path)
    StoreWriter(tmp_path, SPEC, FINGERPRINT).close()
    assert read_spec(tmp_path) == SPEC


def test_a_missing_store_is_reported_with_a_command(tmp_path: Path) -> None:
    with pytest.raises(NotEncoded, match="loid-infer encode"):
        open_store(tmp_path / "no", SPEC, FINGERPRINT)


def test_an_empty_file_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").touch()
    with pytest.raises(NotEncoded, match="loid-infer encode"):
        open_store(tmp_path, SPEC, FINGERPRINT)


def test_a_truncated_file_is_refused_before_it_is_mapped(tmp_path: Path) -> None:
    filled(tmp_path, [300] * 5)
    data = (tmp_path / "data.mdb").read_bytes()
    for n in [1, 16, 151, 152, 4096, 4200, 8191, *range(8192, len(data), 4096), len(data) - 1]:
        (tmp_path / "data.mdb").write_bytes(data[:n])
        for write in (False, True):
            with pytest.raises(BadStore, match="shorter than its pages"):
                Environment(tmp_path, SPEC, FINGERPRINT, write=write)


def test_the_length_check_accepts_a_growing_store(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
        for seed in range(60):
            writer.append(*(rows(int(n), seed=1000 * seed + i) for i, n in enumerate(rng.integers(1, 400, 3))))
            assert is_initialized(tmp_path / "data.mdb")


def test_verify_accepts_an_intact_store_and_reports_each_fault(tmp_path: Path) -> None:
    filled(tmp_path, [5, 7, 9])
    store = reader(tmp_path)
    check = verify(store, SILENT)
    assert (check.n_chunks, check.n_rows, check.n_bad, check.problems) == (3, 21, 0, ())
    store.close()
    faults = {
        "checksum": lambda txn, env: txn.put((5).to_bytes(8, "big"), broken(txn, env), db=env.chunks),
        "no index entry": lambda txn, env: txn.delete(first_index_key(txn, env), db=env.index),
        "points to another text": lambda txn, env: txn.put(
            first_index_key(txn, env), (99).to_bytes(8, "little"), db=env.index
        ),
        "are missing": lambda txn, env: txn.delete((5).to_bytes(8, "big"), db=env.chunks),
    }
    for problem, change in faults.items():
        folder = tmp_path / problem.replace(" ", "-")
        filled(folder, [5, 7, 9])
        with StoreWriter(folder, SPEC, FINGERPRINT) as writer:
            environment = writer.reader.environment
            environment.write(lambda txn, change=change, environment=environment: change(txn, environment))
        damaged = reader(folder)
        check = verify(damaged, SILENT)
        damaged.close()
        assert check.n_bad >= 1, problem
        assert any(problem in line for line in check.problems), check.problems


def test_verify_with_a_concurrent_writer_and_a_damaged_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, [5, 7, 9])
    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
        store = writer.reader
        original = store.scan

        def scan():
            writer.append(rows(11, seed=77))  # a commit between the size and the scan
            yield from original()

        monkeypatch.setattr(store, "scan", scan)
        check = verify(store, SILENT)
        assert (check.n_rows, check.n_bad) == (21, 0)
        monkeypatch.undo()
        last = store.chunk_keys()[-1].to_bytes(8, "big")
        env = store.environment
        env.write(lambda txn: txn.put(last, b"LOIDCHNKxxxx", db=env.chunks))
        check = verify(store, SILENT)
        assert (check.n_chunks, check.n_rows, check.n_bad) == (4, 21, 1)


def broken(txn, env) -> bytes:
    record = bytearray(txn.get((5).to_bytes(8, "big"), db=env.chunks))
    record[-1] ^= 1
    return bytes(record)


def first_index_key(txn, env) -> bytes:
    with txn.cursor(db=env.index) as cursor:
        cursor.first()
        return bytes(cursor.key())


def test_a_damaged_chunk_is_refused(tmp_path: Path) -> None:
    digests, _ = filled(tmp_path, [5, 7, 9])
    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
        environment = writer.reader.environment
        environment.write(lambda txn: txn.put((5).to_bytes(8, "big"), broken(txn, environment), db=environment.chunks))
    store = reader(tmp_path)
    assert store.gather(np.arange(5), digests[:5]).shape == (5, DIM)
    with pytest.raises(BadStore, match="checksum"):
        store.gather(np.arange(8), digests[:8])


@pytest.mark.parametrize("wrong", [(1, np.float16), (DIM // 2, np.float32), (10 * DIM, np.float16)])
def test_a_chunk_of_another_width_is_refused(tmp_path: Path, wrong: tuple[int, type]) -> None:
    """Only its header shows that it is invalid; checksum and fingerprint are correct."""
    digests, _ = filled(tmp_path, [5, 7, 9])
    record = pack(5, digests[5:12], np.zeros((7, wrong[0]), wrong[1]), FINGERPRINT)
    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
        environment = writer.reader.environment
        environment.write(lambda txn: txn.put((5).to_bytes(8, "big"), record, db=environment.chunks))
    with reader(tmp_path) as store:
        with pytest.raises(BadStore, match="wrong width"):
            store.gather(np.arange(8), digests[:8])
        assert verify(store, SILENT).n_bad == 1
    salvage(tmp_path, SPEC, FINGERPRINT, SILENT)  # may find the page that contained these texts before
    with reader(tmp_path) as store:
        assert verify(store, SILENT).n_bad == 0 and store.size().n_rows >= 14


class TestCommitter:
    def test_chunks_are_full_but_the_last_and_order_does_not_matter(self, tmp_path: Path) -> None:
        digests, vectors = rows(2 * CHUNK_ROWS + 100)
        with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
            with Committer(writer) as committer:
                for part in np.array_split(np.random.default_rng(2).permutation(len(digests)), 37):
                    committer.add(digests[part], vectors[part].astype(np.float32))
            assert writer.reader.size().n_chunks == 3
            store_rows = writer.reader.lookup(digests)
            np.testing.assert_array_equal(writer.reader.gather(store_rows, digests), vectors)

    def test_added_vectors_are_kept_when_the_loop_fails(self, tmp_path: Path) -> None:
        digests, vectors = rows(10)
        with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
            with pytest.raises(KeyError), Committer(writer) as committer:
                committer.add(digests, vectors.astype(np.float32))
                raise KeyError
            assert (writer.reader.lookup(digests) >= 0).all()

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e5])
    def test_a_value_that_overflows_or_is_not_finite_is_refused(self, tmp_path: Path, value: float) -> None:
        digests, vectors = rows(10)
        wrong = vectors.astype(np.float32)
        wrong[3, 3] = value
        with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
            with pytest.raises(ParityError, match="not finite"), Committer(writer) as committer:
                committer.add(digests, wrong)
            assert writer.reader.size().n_rows == 0

    def test_a_vector_of_another_width_is_refused(self, tmp_path: Path) -> None:
        with (
            StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer,
            pytest.raises(ParityError, match="shape"),
            Committer(writer) as committer,
        ):
            committer.add(rows(3)[0], np.zeros((3, DIM + 1), np.float32))

    def test_a_failed_commit_reaches_the_caller(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise OSError("disk on fire")

        with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
            monkeypatch.setattr(writer, "append", fail)
            with pytest.raises(OSError, match="on fire"), Committer(writer) as committer:
                committer.add(rows(3)[0], np.zeros((3, DIM), np.float32))
