"""Compacting and salvaging a store."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from loid_infer import artifact
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import BadStore, NotEncoded, StoreBusy
from loid_infer.store.environment import DATA_FILE
from loid_infer.store.reader import open_store
from loid_infer.store.rewrite import compact, salvage
from loid_infer.store.verify import verify
from loid_infer.store.writer import CHUNK_ROWS, StoreWriter, writer_lock
from loid_infer.types import SILENT
from tests.store.test_store import DIM, FINGERPRINT, SPEC, filled, in_another_process, reader


def contents(folder, digests):
    with reader(folder) as store:
        assert verify(store, SILENT).n_bad == 0
        rows = store.lookup(digests)
        return rows >= 0, store.gather(rows[rows >= 0], digests[rows >= 0])


def test_compacting_keeps_every_vector_and_makes_full_chunks(tmp_path):
    sizes = [1, 700, 3, 900, 1_500, 24] * 3
    digests, vectors = filled(tmp_path / "store", sizes)
    before = (tmp_path / "store" / DATA_FILE).stat().st_size
    done = compact(tmp_path / "store", SPEC, FINGERPRINT, None, SILENT)
    found, kept = contents(tmp_path / "store", digests)
    assert found.all() and np.array_equal(kept, vectors)
    assert (done.n_rows, done.n_dropped, done.bytes_before) == (len(digests), 0, before)
    assert done.bytes_after == (tmp_path / "store" / DATA_FILE).stat().st_size < before
    with reader(tmp_path / "store") as store:
        assert store.chunk_keys() == list(range(0, len(digests), CHUNK_ROWS))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_compacted_store_is_little_larger_than_its_vectors(tmp_path):
    digests, _ = filled(tmp_path / "store", [64] * 400)
    after = compact(tmp_path / "store", SPEC, FINGERPRINT, None, SILENT).bytes_after
    assert after < 1.2 * len(digests) * (DIM * 2 + 16 + 24)  # vector, digest, index entry


def test_rows_may_be_dropped(tmp_path):
    digests, vectors = filled(tmp_path / "store", [2_000, 500])
    wanted = digests[:, 0] < 100
    done = compact(tmp_path / "store", SPEC, FINGERPRINT, lambda part: part[:, 0] < 100, SILENT)
    found, kept = contents(tmp_path / "store", digests)
    assert np.array_equal(found, wanted) and np.array_equal(kept, vectors[wanted])
    assert done.n_dropped == (~wanted).sum()
    with StoreWriter(tmp_path / "store", SPEC, FINGERPRINT) as writer:  # it can be extended
        writer.append((digests[~wanted], vectors[~wanted]))
    assert contents(tmp_path / "store", digests)[0].all()


def test_everything_may_be_dropped(tmp_path):
    digests, _ = filled(tmp_path / "store", [100])
    assert compact(tmp_path / "store", SPEC, FINGERPRINT, lambda part: part[:, 0] > 255, SILENT).n_rows == 0
    assert not contents(tmp_path / "store", digests)[0].any()


def compacted(folder):
    compact(folder, SPEC, FINGERPRINT, None, SILENT)


def test_an_open_reader_keeps_reading(tmp_path):
    digests, vectors = filled(tmp_path / "store", [300, 10])
    with reader(tmp_path / "store") as store, store.view(store.lookup(digests), digests) as view:
        in_another_process(compacted, tmp_path / "store")
        assert np.array_equal(view[:], vectors)
    assert contents(tmp_path / "store", digests)[0].all()


def test_the_writer_lock_is_exclusive(tmp_path):
    filled(tmp_path / "store", [10])
    with StoreWriter(tmp_path / "store", SPEC, FINGERPRINT), pytest.raises(StoreBusy), writer_lock(tmp_path / "store"):
        pass
    with writer_lock(tmp_path / "store"):
        with pytest.raises(StoreBusy):
            StoreWriter(tmp_path / "store", SPEC, FINGERPRINT)
        compact(tmp_path / "store", SPEC, FINGERPRINT, None, SILENT)
    StoreWriter(tmp_path / "store", SPEC, FINGERPRINT).close()
    with pytest.raises(NotEncoded), writer_lock(tmp_path / "absent"):
        pass


def test_a_link_to_another_disk_stays_a_link(tmp_path):
    digests, vectors = filled(tmp_path / "disk" / "store", [10, 10])
    (tmp_path / "store").symlink_to(tmp_path / "disk" / "store")
    compact(tmp_path / "store", SPEC, FINGERPRINT, None, SILENT)
    assert (tmp_path / "store").is_symlink()
    assert np.array_equal(contents(tmp_path / "store", digests)[1], vectors)


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("step", ["_exchange", "replace", "rmtree"])
def test_an_interrupted_rewrite_leaves_a_complete_store(tmp_path, monkeypatch, exchange, step):
    digests, vectors = filled(tmp_path / "store", [300, 10])

    def broken(*_, **__):
        raise KeyboardInterrupt

    if not exchange:
        monkeypatch.setattr(artifact, "_exchange", lambda *_: False)
    if step == "rmtree":
        monkeypatch.setattr(artifact.shutil, "rmtree", broken)
    elif step == "_exchange":
        monkeypatch.setattr(artifact, "_exchange", broken)
    else:
        plain, folders = Path.replace, []

        def replaced(path, target):
            folders.extend([path] if path.is_dir() else [])
            return broken() if len(folders) == 2 - exchange and path.is_dir() else plain(path, target)

        monkeypatch.setattr(Path, "replace", replaced)
    with pytest.raises(KeyboardInterrupt):
        compact(tmp_path / "store", SPEC, FINGERPRINT, None, SILENT)
    monkeypatch.undo()
    assert np.array_equal(contents(tmp_path / "store", digests)[1], vectors)
    for left in tmp_path.glob(".store.*"):
        os.utime(left, (0, 0))
    compact(tmp_path / "store", SPEC, FINGERPRINT, None, SILENT)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("sizes", [[100, 2, 1, 50, 2], [1024, 2], [1], [2, 2, 2, 2, 2, 2, 2]])
@pytest.mark.parametrize("dim", [24, 384])
def test_salvaging_an_intact_store_loses_nothing(tmp_path, sizes, dim):  # the smallest chunks share a page with others
    spec = replace(SPEC, hidden_dim=dim)
    rng = np.random.default_rng(0)
    digests = rng.integers(0, 256, (sum(sizes), 16), np.uint8)
    vectors = rng.normal(size=(sum(sizes), dim)).astype(np.float16)
    ends = np.cumsum(sizes).tolist()
    with StoreWriter(tmp_path / "store", spec, fingerprint(spec)) as writer:
        for size, end in zip(sizes, ends, strict=True):
            writer.append((digests[end - size : end], vectors[end - size : end]))
    done = salvage(tmp_path / "store", spec, fingerprint(spec), SILENT)
    assert (done.n_rows, done.n_dropped) == (len(digests), 0)
    with open_store(tmp_path / "store", spec, fingerprint(spec)) as store:
        assert np.array_equal(store.gather(store.rows_of(digests, ""), digests), vectors)


def flip(folder, at):
    with (folder / DATA_FILE).open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0xFF]))


def test_damage_is_not_compacted_but_salvaged(tmp_path):
    store = tmp_path / "store"
    digests, vectors = filled(store, [300, 400, 500])
    flip(store, (store / DATA_FILE).read_bytes().index(vectors[310:320].tobytes()))
    with pytest.raises(BadStore, match="checksum"):
        compact(store, SPEC, FINGERPRINT, None, SILENT)
    done = salvage(store, SPEC, FINGERPRINT, SILENT)
    assert (done.n_rows, done.n_dropped) == (800, 400)
    found, kept = contents(store, digests)
    assert np.array_equal(found, np.r_[np.ones(300), np.zeros(400), np.ones(500)].astype(bool))
    assert np.array_equal(kept, vectors[found])


def test_chunks_before_a_truncation_are_salvaged(tmp_path):
    store = tmp_path / "store"
    digests, vectors = filled(store, [300] * 10)
    (store / DATA_FILE).write_bytes((store / DATA_FILE).read_bytes()[:100_000])
    with pytest.raises(BadStore):
        reader(store)
    done = salvage(store, SPEC, FINGERPRINT, SILENT)
    found, kept = contents(store, digests)
    assert 300 <= done.n_rows == found.sum() < 3_000
    assert np.array_equal(kept, vectors[found])


def test_all_chunks_are_salvaged_from_a_destroyed_tree(tmp_path):
    store = tmp_path / "store"
    digests, vectors = filled(store, [300] * 10)
    content = bytearray((store / DATA_FILE).read_bytes())
    records = [at for at in range(16, len(content), 4096) if content[at : at + 8] == b"LOIDCHNK"]
    inside = {page for at in records for page in range(at // 4096, (at + 64 + 300 * (16 + DIM * 2)) // 4096 + 1)}
    for page in range(len(content) // 4096):
        if page not in inside:  # meta pages, branches, leaves
            content[page * 4096 : (page + 1) * 4096] = os.urandom(4096)
    (store / DATA_FILE).write_bytes(content)
    assert salvage(store, SPEC, FINGERPRINT, SILENT).n_rows == 3_000
    found, kept = contents(store, digests)
    assert found.all() and np.array_equal(kept, vectors)


@pytest.mark.parametrize("content", [b"", b"x", random.Random(0).randbytes(50_000)], ids=["empty", "short", "noise"])
def test_nothing_is_salvaged_from_other_files(tmp_path, content):
    store = tmp_path / "store"
    digests, vectors = filled(store, [10])
    (store / DATA_FILE).write_bytes(content)
    assert salvage(store, SPEC, FINGERPRINT, SILENT).n_rows == 0
    with StoreWriter(store, SPEC, FINGERPRINT) as writer:
        writer.append((digests, vectors))
    assert contents(store, digests)[0].all()


def test_salvage_ignores_chunks_of_another_encoder(tmp_path):
    store = tmp_path / "store"
    filled(store, [10])
    assert salvage(store, SPEC, "00" * 16, SILENT).n_rows == 0


def test_a_duplicated_chunk_is_kept_once(tmp_path):
    store = tmp_path / "store"
    digests, vectors = filled(store, [300])
    content = (store / DATA_FILE).read_bytes()
    content += bytes(-len(content) % 4096)
    page = content.index(b"LOIDCHNK") // 4096 * 4096
    (store / DATA_FILE).write_bytes(content + content[page : page + 10 * 4096])
    assert salvage(store, SPEC, FINGERPRINT, SILENT).n_rows == 300
    assert np.array_equal(contents(store, digests)[1], vectors)
