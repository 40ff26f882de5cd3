"""Joining vectors into a store: all are there once, and those of a killed process are indexed by the next."""

from pathlib import Path

import numpy as np
import pytest

from loid_infer.cluster import join
from loid_infer.cluster.join import add_vectors
from loid_infer.errors import BadStore
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


def test_a_damaged_chunk_without_entries_is_not_indexed(tmp_path: Path) -> None:
    digests, vectors = filled(tmp_path, [700])
    more, others = rows(1_000, seed=1)
    with StoreWriter(tmp_path, SPEC, FINGERPRINT) as writer:
        writer.add_rows((more[:500], others[:500]), (more[500:], others[500:]))
    data = tmp_path / "data.mdb"
    content = bytearray(data.read_bytes())
    at = content.find(bytes(more[800]))
    content[at + 3] ^= 1
    data.write_bytes(content)
    with pytest.raises(BadStore, match="checksum"):
        StoreWriter(tmp_path, SPEC, FINGERPRINT)
    with writer_lock(tmp_path):
        assert salvage(tmp_path, SPEC, FINGERPRINT, SILENT).n_rows == 1_200
    assert_holds(tmp_path, np.concatenate([digests, more[:500]]), np.concatenate([vectors, others[:500]]))
