"""Joining vectors into a store: all are there once, and those of a killed process are indexed by the next."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from loid_infer.cluster import join
from loid_infer.cluster.join import add_vectors
from loid_infer.errors import BadStore, ParityError
from loid_infer.store.environment import Environment
from loid_infer.store.reader import UNINDEXED
from loid_infer.store.rewrite import compact, salvage
from loid_infer.store.verify import verify
from loid_infer.store.writer import StoreWriter, writer_lock
from loid_infer.types import SILENT
from tests.store.test_store import FINGERPRINT, SPEC, filled, reader, rows


@pytest.fixture(params=["small index", "large index"])
def limits(request, monkeypatch) -> None:
    """With a large index entries follow in transactions of their own, here those of 500 rows at a time."""
    monkeypatch.setattr(join, "_COMMIT_BYTES", 1 << 13)
    monkeypatch.setattr(join, "_MAX_WAITING", 500)
    monkeypatch.setattr("loid_infer.store.writer._KEYS_A_COMMIT", 200)
    if request.param == "large index":
        monkeypatch.setattr(join, "_SMALL_INDEX", 0)


def assert_holds(folder: Path, digests: np.ndarray, vectors: np.ndarray) -> None:
    with reader(folder) as store:
        found = store.lookup(digests)
        np.testing.assert_array_equal(store.gather(found, digests), vectors)
        assert sorted(found) == list(range(len(digests)))
        size = store.size()
        assert size.n_rows == size.n_index == len(digests)
        assert verify(store, SILENT).problems == ()
        assert store.first_unindexed() is None


@pytest.mark.usefixtures("limits")
def test_every_text_is_stored_once_and_keeps_its_first_vector(tmp_path: Path) -> None:
    digests, vectors = rows(3_000)
    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
        writer.append((digests[:300], vectors[:300]))
        overlapping = [(0, 400), (300, 1_500), (1_400, 1_500), (1_500, 2_990), (0, 3_000)]
        # Twice in one piece, and with other vectors.
        pieces = [
            (np.tile(digests[a:b], (2, 1)), np.concatenate([vectors[a:b], -vectors[a:b]])) for a, b in overlapping
        ]
        pieces[1:1] = [(digests[:350], -vectors[:350])]
        assert add_vectors(writer, iter(pieces), SILENT) == 2_700
        assert add_vectors(writer, iter(pieces), SILENT) == 0
        assert add_vectors(writer, iter([]), SILENT) == 0
    assert_holds(tmp_path, digests, vectors)


def test_texts_that_come_again_while_they_wait(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(join, "_COMMIT_BYTES", 1)  # every piece is an addition
    monkeypatch.setattr(join, "_SMALL_INDEX", 0)
    digests, vectors = rows(300)
    parts = [(0, 100), (100, 200), (50, 150), (200, 300), (50, 60), (20, 299)]
    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
        calls = watched(writer, monkeypatch)
        assert add_vectors(writer, iter([(digests[a:b], vectors[a:b]) for a, b in parts]), SILENT) == 300
    assert calls == ["rows", "rows", "rows", "index 300"]  # one index, however often a text comes
    assert_holds(tmp_path, digests, vectors)


def test_so_many_rows_wait_for_their_entries_and_no_more(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(join, "_COMMIT_BYTES", 1)
    monkeypatch.setattr(join, "_SMALL_INDEX", 100)
    monkeypatch.setattr(join, "_MAX_WAITING", 250)
    digests, vectors = rows(1_000)
    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
        calls = watched(writer, monkeypatch)
        pieces = ((digests[at : at + 100], vectors[at : at + 100]) for at in range(0, 1_000, 100))
        assert add_vectors(writer, pieces, SILENT) == 1_000
    assert calls == [*["rows"] * 3, "index 300"] * 3  # after a first hundred with their entries
    assert_holds(tmp_path, digests, vectors)


def watched(writer: StoreWriter, monkeypatch) -> list[str]:
    """What is called of a writer from now on: rows without entries, and the index if rows wait."""
    calls, rows_of, index = [], writer.add_rows, writer.index

    def add_rows(*chunks) -> None:
        calls.append("rows")
        rows_of(*chunks)

    def counted() -> None:
        first = writer.reader.first_unindexed()
        if first is not None:
            calls.append(f"index {writer.reader.size().n_rows - first}")
        index()

    monkeypatch.setattr(writer, "add_rows", add_rows)
    monkeypatch.setattr(writer, "index", counted)
    return calls


def test_what_was_joined_before_an_error_is_stored(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(join, "_COMMIT_BYTES", 1)
    monkeypatch.setattr(join, "_SMALL_INDEX", 0)
    digests, vectors = rows(300)
    bad = vectors.copy()
    bad[250] = np.nan
    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer, pytest.raises(ParityError):
        add_vectors(writer, iter([(digests[a : a + 100], bad[a : a + 100]) for a in (0, 100, 200)]), SILENT)
    assert_holds(tmp_path, digests[:200], vectors[:200])


@pytest.mark.parametrize("n_commits", [0, 1, 3, 5])
def test_an_index_that_was_not_finished_is_continued(tmp_path: Path, n_commits: int, monkeypatch) -> None:
    monkeypatch.setattr("loid_infer.store.writer._KEYS_A_COMMIT", 200)
    digests, vectors = rows(1_000)
    write, n = Environment.write, 0

    def stopped(self, change) -> None:
        nonlocal n
        n += 1
        if n > n_commits:
            raise KeyboardInterrupt
        write(self, change)

    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
        writer.add_rows((digests, vectors))
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(Environment, "write", stopped)
            writer.index()
    with reader(tmp_path) as store:
        assert (store.lookup(digests) >= 0).sum() == store.size().n_index == 200 * n_commits
        assert store.first_unindexed() == (0 if n_commits < 5 else None)
        assert verify(store, SILENT).problems == ()
    StoreWriter(tmp_path, SPEC, FINGERPRINT).close()
    assert_holds(tmp_path, digests, vectors)


@pytest.mark.usefixtures("limits")
def test_texts_whose_digests_begin_alike_are_different_texts(tmp_path: Path) -> None:
    digests, vectors = rows(900)
    digests[:, :8] = digests[np.arange(900) % 40, :8]
    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
        pieces = ((digests[at : at + 100], vectors[at : at + 100]) for at in range(0, 900, 100))
        assert add_vectors(writer, pieces, SILENT) == 900
    assert_holds(tmp_path, digests, vectors)


@pytest.mark.parametrize("how", ["writer", "append", "compact", "salvage"])
def test_rows_of_a_killed_process_get_their_entries(tmp_path: Path, how: str, monkeypatch) -> None:
    monkeypatch.setattr("loid_infer.store.writer._KEYS_A_COMMIT", 200)
    digests, vectors = filled(tmp_path, [700])
    more, others = rows(2_000, seed=1)
    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
        writer.add_rows((more[:999], others[:999]), (more[999:1_200], others[999:1_200]))
        writer.add_rows((more[1_200:1_999], others[1_200:1_999]))
        if how == "append":
            writer.append((more[1_999:], others[1_999:]))
    if how != "append":
        with reader(tmp_path) as store:  # they do not count as stored, and are no damage
            assert (store.lookup(more) < 0).all()
            assert verify(store, SILENT).problems == ()
            np.testing.assert_array_equal(store.gather(store.lookup(digests), digests), vectors)
    if how in ("compact", "salvage"):
        rewrite = {"compact": lambda *given: compact(*given[:3], None, given[3]), "salvage": salvage}[how]
        with writer_lock(tmp_path):
            assert rewrite(tmp_path, SPEC, FINGERPRINT, SILENT).n_dropped == 0
    if how == "writer":
        StoreWriter(tmp_path, SPEC, FINGERPRINT).close()
    n = 2_000 if how == "append" else 1_999
    assert_holds(tmp_path, np.concatenate([digests, more[:n]]), np.concatenate([vectors, others[:n]]))


def test_a_damaged_chunk_without_entries_is_detected(tmp_path: Path) -> None:
    digests, vectors = filled(tmp_path, [700])
    more, others = rows(1_000, seed=1)
    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
        writer.add_rows((more[:500], others[:500]), (more[500:], others[500:]))
    data = tmp_path / "data.mdb"
    content = bytearray(data.read_bytes())
    content[content.find(bytes(more[800])) + 3] ^= 1
    data.write_bytes(content)
    for _ in range(2):  # before and after the entries are added
        with reader(tmp_path) as store:
            assert any("checksum" in problem for problem in verify(store, SILENT).problems)
        StoreWriter(tmp_path, SPEC, FINGERPRINT).close()
    with reader(tmp_path) as store, pytest.raises(BadStore, match="checksum"):
        store.gather(store.lookup(more[900:]), more[900:])
    with writer_lock(tmp_path):
        assert salvage(tmp_path, SPEC, FINGERPRINT, SILENT).n_rows == 1_200
    assert_holds(tmp_path, np.concatenate([digests, more[:500]]), np.concatenate([vectors, others[:500]]))


@pytest.mark.parametrize(
    "mark",
    [(698).to_bytes(8, "big"), (701).to_bytes(8, "big"), (1 << 40).to_bytes(8, "big"), b"\xff" * 8, b"", b"\0" * 9],
)
def test_a_wrong_first_row_changes_nothing_and_is_said(tmp_path: Path, mark: bytes) -> None:
    digests, vectors = filled(tmp_path, [700])
    more, others = rows(1_000, seed=1)
    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
        writer.add_rows((more[:500], others[:500]), (more[500:], others[500:]))
        environment = writer.reader.environment
        environment.write(lambda txn: txn.put(UNINDEXED, mark, db=environment.meta))
    with pytest.raises(BadStore, match="index entr") as raised:
        StoreWriter(tmp_path, SPEC, FINGERPRINT)
    assert "salvage" in raised.value.fix
    with reader(tmp_path) as store:
        assert any("index entr" in problem for problem in verify(store, SILENT).problems)
        np.testing.assert_array_equal(store.gather(store.lookup(digests), digests), vectors)
    with writer_lock(tmp_path):
        assert salvage(tmp_path, SPEC, FINGERPRINT, SILENT).n_dropped == 0
    assert_holds(tmp_path, np.concatenate([digests, more]), np.concatenate([vectors, others]))


def test_a_text_that_an_older_version_stored_meanwhile_is_said(tmp_path: Path) -> None:
    digests, vectors = rows(1_000)
    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
        writer.add_rows((digests, vectors))
        writer.index = lambda: None  # as one that knows of no rows without entries
        writer.append((digests[:10], vectors[:10]))
    with pytest.raises(BadStore, match="two rows have the same text"):
        StoreWriter(tmp_path, SPEC, FINGERPRINT)
    with writer_lock(tmp_path):
        assert salvage(tmp_path, SPEC, FINGERPRINT, SILENT).n_rows == 1_000
    with reader(tmp_path) as store:
        np.testing.assert_array_equal(store.gather(store.lookup(digests), digests), vectors)
