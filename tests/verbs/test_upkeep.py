"""`cache` commands: repairing, shrinking, verifying, exporting and importing stores without losing other vectors."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from loid_infer import (
    cache_compact,
    cache_export,
    cache_gc,
    cache_import,
    cache_info,
    cache_salvage,
    cache_verify,
    encode,
    export,
    fit,
    score,
)
from loid_infer.errors import BadArtifact, BadSetting, BadStore, NotEncoded
from loid_infer.heads.presets import HeadOptions
from loid_infer.settings import Workspace
from loid_infer.store.environment import DATA_FILE, SPEC_FILE, read_spec
from loid_infer.store.reader import open_store
from loid_infer.store.writer import StoreWriter
from tests.conftest import toy_texts
from tests.verbs.test_encode import ingest_texts, stored


@pytest.fixture
def two_domains(workspace: Workspace) -> Workspace:
    ingest_texts(workspace, toy_texts(1_400))
    ingest_texts(workspace, toy_texts(300, seed=1), "games")
    for domain in ("toys", "games"):
        encode(domain, workspace=workspace)
    return workspace


def store_folder(workspace: Workspace) -> Path:
    (store,) = cache_info(workspace=workspace).stores
    return workspace.store(store.fingerprint)


def flip_byte(store: Path, n_chunk: int) -> None:
    """Flip a bit in the vectors of chunk number `n_chunk`."""
    content = bytearray((store / DATA_FILE).read_bytes())
    records = [at for at in range(16, len(content), 4096) if content[at : at + 8] == b"LOIDCHNK"]
    rows = int.from_bytes(content[records[n_chunk] + 20 : records[n_chunk] + 24], "little")
    content[records[n_chunk] + 64 + rows * 16 + 5] ^= 1
    (store / DATA_FILE).write_bytes(content)


def test_salvage_reports_lost_texts_and_only_those_are_encoded_again(two_domains: Workspace) -> None:
    before = {domain: stored(two_domains, domain) for domain in ("toys", "games")}
    store = store_folder(two_domains)
    flip_byte(store, 0)
    assert cache_verify(workspace=two_domains).n_bad
    done = cache_salvage(workspace=two_domains)
    assert cache_verify(workspace=two_domains).n_bad == 0
    assert done.n_dropped > 0
    unfinished = {domain.domain: domain for domain in done.stores[0].unfinished}
    assert unfinished["toys"].n_missing > 0 and "encode --domain toys --encoder base" in unfinished["toys"].command
    again = encode("toys", workspace=two_domains)
    assert again.n_encoded == unfinished["toys"].n_missing
    encode("games", workspace=two_domains)
    for domain, vectors in before.items():
        assert np.abs(stored(two_domains, domain) - vectors).max() < 2e-3


def test_salvage_restores_a_missing_spec_from_the_encoder(two_domains: Workspace) -> None:
    store = store_folder(two_domains)
    spec = (store / SPEC_FILE).read_bytes()
    (store / SPEC_FILE).unlink()
    assert cache_salvage(encoder="base", workspace=two_domains).n_dropped == 0
    assert (store / SPEC_FILE).read_bytes() == spec
    (store / SPEC_FILE).write_text("{")
    assert cache_salvage(workspace=two_domains).n_dropped == 0
    assert (store / SPEC_FILE).read_bytes() == spec


def test_a_store_without_spec_or_encoder_is_not_changed(two_domains: Workspace) -> None:
    store = store_folder(two_domains)
    before = (store / DATA_FILE).read_bytes()
    (store / SPEC_FILE).unlink()
    for folder in (two_domains.root / "exports" / "encoders").iterdir():
        (folder / "manifest.json").unlink()
    with pytest.raises(BadStore, match="is unknown"):
        cache_salvage(workspace=two_domains)
    assert (store / DATA_FILE).read_bytes() == before


def test_other_files_in_the_data_folder_are_ignored(two_domains: Workspace) -> None:
    (two_domains.root / "data" / "My notes.parquet").write_bytes(b"not a table")
    assert cache_salvage(workspace=two_domains).n_dropped == 0
    assert cache_gc(workspace=two_domains).n_rows == 0
    assert cache_verify(reencode=5, workspace=two_domains).n_reencoded == 5


def test_compaction_frees_space_and_changes_no_vector(two_domains: Workspace) -> None:
    before = stored(two_domains)
    done = cache_compact(workspace=two_domains)
    assert done.n_stores == 1 and done.n_dropped == 0
    assert done.bytes_freed == done.stores[0].bytes_before - done.stores[0].bytes_after > 0
    assert np.array_equal(stored(two_domains), before)
    assert encode("toys", workspace=two_domains).n_encoded == 0


def test_gc_removes_only_the_rows_of_a_deleted_domain(two_domains: Workspace) -> None:
    before = stored(two_domains, "games")
    two_domains.table("toys").unlink()
    planned = cache_gc(dry_run=True, workspace=two_domains)
    assert planned.n_rows > 1_000 and cache_info(workspace=two_domains).n_rows > 1_400
    done = cache_gc(workspace=two_domains)
    assert (done.n_rows, done.n_stores) == (planned.n_rows, 0)
    assert done.bytes_freed > 0
    assert np.array_equal(stored(two_domains, "games"), before)
    assert cache_gc(workspace=two_domains).n_rows == 0


def test_gc_keeps_the_vectors_a_head_needs_after_its_table_is_deleted(two_domains: Workspace) -> None:
    fit("toys", settings=HeadOptions(epochs=1), workspace=two_domains)
    pairs = two_domains.root / "pairs.csv"
    pairs.write_text("user_id,item_id\nu1,i1\nu2,i3\n")
    before = Path(score(pairs, domain="toys", workspace=two_domains).out).read_text()
    two_domains.table("toys").unlink()
    done = cache_gc(workspace=two_domains)
    assert 0 < done.n_rows < 700  # texts of the validation and test parts
    assert Path(score(pairs, domain="toys", workspace=two_domains).out).read_text() == before


def test_gc_removes_leftovers_of_killed_runs_after_a_day(two_domains: Workspace) -> None:
    base = two_domains.encoder("base")
    leftovers = [base.parent / ".base.x1.partial", base.parent / ".base.x2.old", two_domains.cache / ".f.x3.partial"]
    kept = [base.parent / ".lost.x4.old", base.parent / ".new.x5.partial"]  # the only copy; still being written
    for folder in (*leftovers, *kept):
        folder.mkdir()
        (folder / "part").write_bytes(bytes(1_000))
        if folder.name != ".new.x5.partial":
            os.utime(folder, (0, 0))
    planned = cache_gc(dry_run=True, workspace=two_domains)
    assert (planned.n_leftovers, planned.bytes_freed) == (3, 3_000) and all(path.exists() for path in leftovers)
    assert cache_gc(workspace=two_domains).n_leftovers == 3
    assert not any(path.exists() for path in leftovers) and all(path.exists() for path in kept)
    assert base.exists()


def test_gc_removes_a_store_that_no_encoder_or_head_refers_to(two_domains: Workspace, toy_base: Path) -> None:
    export("other", base=str(toy_base), max_tokens=16, precision="fp32", workspace=two_domains)
    other = encode("games", encoder="other", workspace=two_domains)
    assert cache_gc(workspace=two_domains).n_stores == 0
    fit("games", encoder="other", settings=HeadOptions(epochs=1), workspace=two_domains)
    (two_domains.encoder("other") / "manifest.json").unlink()
    assert cache_gc(workspace=two_domains).n_stores == 0  # a head refers to it
    (two_domains.head("games") / "manifest.json").unlink()
    planned = cache_gc(dry_run=True, workspace=two_domains)
    assert planned.n_stores == 1 and Path(other.store).exists()
    assert cache_gc(workspace=two_domains).n_stores == 1
    assert not Path(other.store).exists() and store_folder(two_domains).exists()


def test_gc_refuses_with_an_unreadable_manifest_or_without_tables(two_domains: Workspace) -> None:
    (two_domains.encoder("base") / "manifest.json").write_text("{")
    with pytest.raises(BadArtifact, match="Nothing is removed"):
        cache_gc(workspace=two_domains)
    for domain in ("toys", "games"):
        two_domains.table(domain).unlink()
    (two_domains.encoder("base") / "manifest.json").unlink()
    with pytest.raises(BadSetting, match="no domain has a table"):
        cache_gc(workspace=two_domains)
    assert cache_info(workspace=two_domains).n_rows > 1_400


def test_verify_reencode_detects_vectors_of_another_model(two_domains: Workspace) -> None:
    done = cache_verify(reencode=100, workspace=two_domains)
    assert (done.n_bad, done.n_reencoded) == (0, 100)
    assert done.cos_min is not None and done.cos_min > 0.9999
    # A store with the spec of this model and vectors of another one: every checksum is correct.
    store = store_folder(two_domains)
    spec = read_spec(store)
    with open_store(store, spec, store.name) as reader:
        chunks = [(chunk.digests.copy(), chunk.vectors[:, ::-1].copy()) for chunk in reader.scan()]
    shutil.rmtree(store)
    with StoreWriter(store, spec, store.name) as writer:
        for chunk in chunks:
            writer.append(chunk)
    assert cache_verify(workspace=two_domains).n_bad == 0
    done = cache_verify(encoder="base", reencode=10, workspace=two_domains)
    assert done.n_bad == done.n_reencoded == 10
    assert done.cos_min < 0.9 and "another vector" in done.problems[0]
    assert cache_verify(reencode=10_000, seed=1, workspace=two_domains).n_reencoded == 1_700


def test_shards_can_be_imported_in_any_order(workspace: Workspace, tmp_path: Path) -> None:
    texts = toy_texts(500)
    ingest_texts(workspace, texts)
    shards = []
    for number, part in enumerate((texts[:300], texts[200:500], texts[100:150])):
        shard = Workspace(tmp_path / f"shard-{number}")
        shutil.copytree(workspace.root / "exports", shard.root / "exports")
        ingest_texts(shard, part)
        done = encode("toys", workspace=shard)
        bundle = tmp_path / f"shard-{number}.safetensors"
        cache_export("toys", bundle, workspace=shard)
        shards.append((bundle, Path(done.store)))
    imported = []
    for order in ((0, 1, 2), (2, 1, 0)):
        for kind in (0, 1):  # exported files, then store folders
            shutil.rmtree(workspace.cache, ignore_errors=True)
            results = [cache_import(shards[number][kind], workspace=workspace) for number in order]
            assert sum(result.n_new for result in results) == 500
            assert cache_import(shards[0][kind], workspace=workspace).n_new == 0
            assert cache_verify(workspace=workspace).n_bad == 0
            assert encode("toys", workspace=workspace).n_encoded == 0
            imported.append(stored(workspace))
    for vectors in imported[1:]:  # the same text in two shards may differ in its last bits
        assert np.abs(vectors - imported[0]).max() < 2e-3


def test_import_refuses_unknown_encoders_damaged_stores_and_other_files(
    two_domains: Workspace, tmp_path: Path, toy_base: Path
) -> None:
    foreign = Workspace(tmp_path / "foreign")
    export("base", base=str(toy_base), max_tokens=16, precision="fp32", workspace=foreign)
    ingest_texts(foreign, toy_texts(20))
    done = encode("toys", workspace=foreign)
    bundle = tmp_path / "foreign.safetensors"
    cache_export("toys", bundle, workspace=foreign)
    for source in (bundle, Path(done.store)):
        with pytest.raises(BadArtifact, match="not in this workspace"):
            cache_import(source, workspace=two_domains)
    damaged = tmp_path / "damaged"
    shutil.copytree(store_folder(two_domains), damaged)
    flip_byte(damaged, 0)
    with pytest.raises(BadStore, match="checksum"):
        cache_import(damaged, workspace=two_domains)
    for invalid in (tmp_path / "absent", two_domains.table("toys")):
        with pytest.raises(BadArtifact, match="not a valid bundle"):
            cache_import(invalid, workspace=two_domains)
    assert cache_verify(workspace=two_domains).n_bad == 0


def test_verify_reports_an_unreadable_store_and_checks_the_others(two_domains: Workspace, toy_base: Path) -> None:
    export("other", base=str(toy_base), max_tokens=16, precision="fp32", workspace=two_domains)
    other = Path(encode("games", encoder="other", workspace=two_domains).store)
    before = cache_verify(workspace=two_domains)
    content = (other / DATA_FILE).read_bytes()
    (other / DATA_FILE).write_bytes(content[:20_000])
    check = cache_verify(workspace=two_domains)
    assert (check.n_stores, check.n_bad, check.n_rows) == (2, 1, before.n_rows - 300)
    assert "shorter than its pages" in check.problems[0] and "cache salvage" in check.problems[0]
    (other / DATA_FILE).write_bytes(b"")
    assert cache_verify(workspace=two_domains).n_bad == 0
    (other / DATA_FILE).write_bytes(content)
    (other / SPEC_FILE).write_text("{")
    assert "card.json cannot be read" in cache_verify(workspace=two_domains).problems[0]


def test_cache_export_refuses_an_unknown_suffix(tmp_path):
    with pytest.raises(BadSetting, match=r"unknown suffix.*expected \.parquet or \.safetensors, got \.npz"):
        cache_export("toys", tmp_path / "v.npz", workspace=tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", "3", "[" * 100_000])
def test_an_invalid_encoder_manifest_is_ignored_by_info_and_verify_and_stops_gc(
    two_domains: Workspace, content: str
) -> None:
    (two_domains.encoder("base") / "manifest.json").write_text(content)
    assert cache_info(workspace=two_domains).stores[0].encoders == ()
    assert cache_verify(reencode=5, workspace=two_domains).n_reencoded == 0
    with pytest.raises(BadArtifact, match="Nothing is removed"):
        cache_gc(workspace=two_domains)


def test_an_encoder_without_a_store_is_reported_with_the_encode_command(two_domains: Workspace, toy_base: Path) -> None:
    export("other", base=str(toy_base), max_tokens=16, precision="fp32", workspace=two_domains)
    for command in (cache_verify, cache_salvage, cache_compact):
        with pytest.raises(NotEncoded, match="encode --domain D --encoder other"):
            command(encoder="other", workspace=two_domains)
