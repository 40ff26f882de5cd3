"""`encode --shard`, `--status` and `--collect`: tasks in any order, killed, run twice, equal one run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from loid_infer import (
    cache_export,
    cache_import,
    encode,
    encode_collect,
    encode_shard,
    encode_status,
    ingest,
    ingest_items,
)
from loid_infer.cli.app import with_values
from loid_infer.cli.commands import _encode_each
from loid_infer.cluster import handout, join
from loid_infer.cluster.join import add_vectors
from loid_infer.cluster.run import Run
from loid_infer.cluster.selection import missing_rows, shards_of
from loid_infer.data.corpora import Texts
from loid_infer.data.vectors import write_shard
from loid_infer.encoders.folder import open_folder
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import BadArtifact, BadSetting, NotEncoded
from loid_infer.kernels.cosine import row_cosines
from loid_infer.settings import Workspace
from loid_infer.store.environment import spec_bytes
from loid_infer.store.writer import StoreWriter
from loid_infer.types import SILENT
from loid_infer.verbs.upkeep import cache_gc
from tests.cluster.conftest import DUPLICATES, fake_vectors, with_toys
from tests.conftest import make_spec, toy_texts, write_reviews

KILLED = """
import sys
from loid_infer.cluster import run, sealing
sealing._MAX_FILE_ROWS = 15
seal = run.Run.seal
def dying(self, digests, vectors, name):
    if name.endswith("-0001.safetensors"):
        import os; os._exit(9)
    return seal(self, digests, vectors, name)
run.Run.seal = dying
from loid_infer.cli.app import main
main()
"""


@pytest.fixture
def toys(workspace: Workspace) -> Workspace:
    return with_toys(workspace)


def one_run(exported: Path, folder: Path) -> dict[bytes, bytes]:
    shutil.copytree(exported / "exports", folder / "exports")
    alone = with_toys(Workspace(folder))
    encode("toys", runtime="fake", workspace=alone)
    return fake_vectors(alone)


def run_folder(workspace: Workspace) -> Path:
    return next((workspace.cache / "shards").iterdir())


def test_tasks_in_random_order_two_of_them_killed_equal_one_run(
    toys: Workspace, exported: Path, tmp_path: Path
) -> None:
    order = np.random.default_rng(0).permutation(8).tolist()
    done: set[int] = set()
    for at, shard in enumerate(order):
        if at in (2, 5):  # killed after it sealed 15 texts
            command = ["encode", "-d", "toys", "--shard", f"{shard}/8", "--runtime", "fake", "-w", str(toys.root), "-q"]
            assert subprocess.run([sys.executable, "-c", KILLED, *command], check=False).returncode == 9
            status = encode_status("toys", runtime="fake", workspace=toys)
            assert (status.state, set(status.missing)) == ("unfinished", {*range(8)} - done)
            result = encode_shard("toys", f"{shard}/8", runtime="fake", workspace=toys)
            assert (result.n_sealed, result.n_hits) == (15, 15)
        else:
            result = encode_shard("toys", f"{shard}/8", runtime="fake", workspace=toys)
        done.add(shard)
        assert result.n_encoded == result.n_unique - result.n_hits
        status = encode_status("toys", runtime="fake", workspace=toys)
        assert set(status.missing) == {*range(8)} - done == {*range(8)} - {*order[: at + 1]}
        assert (status.n_missing, result.n_missing) == (8 - len(done), 8 - len(done))
    assert encode_status("toys", runtime="fake", workspace=toys).state == "complete"
    collected = encode_collect("toys", runtime="fake", workspace=toys)
    assert (collected.n_new, collected.n_missing, collected.n_damaged) == (400, 0, 0)
    assert encode_status("toys", runtime="fake", workspace=toys).state == "collected"
    assert not (toys.cache / "shards").exists() or not [*(toys.cache / "shards").iterdir()]
    assert fake_vectors(toys) == one_run(exported, tmp_path / "alone")


def test_the_real_runtime_gives_the_vectors_of_one_run(toys: Workspace, tmp_path: Path) -> None:
    for shard in (1, 0, 2):
        encode_shard("toys", f"{shard}/3", workspace=toys)
    encode_collect("toys", workspace=toys)
    cache_export("toys", tmp_path / "shards.safetensors", workspace=toys)
    shutil.rmtree(toys.cache)
    encode("toys", workspace=toys)
    cache_export("toys", tmp_path / "alone.safetensors", workspace=toys)
    from safetensors.numpy import load_file

    shards, alone = (load_file(tmp_path / f"{name}.safetensors") for name in ("shards", "alone"))
    assert (shards["digests"] == alone["digests"]).all()
    assert row_cosines(shards["vectors"], alone["vectors"]).min() >= 0.99999


def test_a_shard_that_runs_twice_or_after_the_store_has_its_texts_computes_nothing(toys: Workspace) -> None:
    first = encode_shard("toys", "0/2", runtime="fake", workspace=toys)
    again = encode_shard("toys", "0/2", runtime="fake", workspace=toys)
    assert (again.n_encoded, again.n_sealed, again.runtime) == (0, first.n_encoded, "none")
    encode("toys", runtime="fake", workspace=toys)
    other = encode_shard("toys", "1/2", runtime="fake", workspace=toys)
    assert (other.n_encoded, other.n_sealed, other.n_hits) == (0, 0, 400 - first.n_encoded)
    assert encode_collect("toys", runtime="fake", workspace=toys).n_new == 0


def test_a_shard_is_joined_before_all_are_there_and_the_rest_later(toys: Workspace) -> None:
    first = encode_shard("toys", "1/2", runtime="fake", workspace=toys)
    partly = encode_collect("toys", runtime="fake", workspace=toys)
    assert (partly.n_new, partly.missing) == (first.n_encoded, (0,))
    encode_shard("toys", "0/2", runtime="fake", workspace=toys)
    whole = encode_collect("toys", runtime="fake", workspace=toys)
    assert (whole.n_new, whole.n_missing) == (400 - first.n_encoded, 0)


def test_a_shard_that_is_finished_while_others_are_joined_is_joined_too(toys: Workspace, monkeypatch) -> None:
    from loid_infer.verbs import shards as verbs

    encode_shard("toys", "0/2", runtime="fake", workspace=toys)
    add = verbs.add_vectors

    def late(*arguments):
        monkeypatch.setattr(verbs, "add_vectors", add)
        encode_shard("toys", "1/2", runtime="fake", workspace=toys)
        return add(*arguments)

    monkeypatch.setattr(verbs, "add_vectors", late)
    collected = encode_collect("toys", runtime="fake", workspace=toys)
    assert (collected.n_missing, collected.n_new, collected.n_files) == (0, 400, 2)
    assert len(fake_vectors(toys)) == 400


def test_where_shards_meet_elsewhere_the_store_of_one_machine_does_not_count(
    toys: Workspace, exported: Path, tmp_path: Path
) -> None:
    encode("toys", runtime="fake", workspace=toys)
    shutil.copytree(exported / "exports", tmp_path / "other" / "exports")
    other = with_toys(Workspace(tmp_path / "other"))
    options = {"runtime": "fake", "shard_folder": tmp_path / "shared"}
    for shard in range(2):
        encode_shard("toys", f"{shard}/2", workspace=toys, **options)
    collected = encode_collect("toys", workspace=other, **options)
    assert (collected.n_new, collected.n_without) == (400, 0)


@pytest.mark.parametrize("fault", ["cut", "changed", "other encoder"])
def test_a_damaged_file_is_not_joined_and_its_shard_runs_again(toys: Workspace, fault: str) -> None:
    for shard in range(2):
        encode_shard("toys", f"{shard}/2", runtime="fake", workspace=toys)
    path = sorted((run_folder(toys) / "vectors").iterdir())[0]
    content = bytearray(path.read_bytes())
    if fault == "cut":
        path.write_bytes(content[: len(content) // 2])
        # The file's size is in the mark of its shard, so this is seen before anything is read.
        assert encode_status("toys", runtime="fake", workspace=toys).missing == (0,)
    elif fault == "changed":
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        spec = structs.replace(open_folder(toys.encoder("base"), "base").spec, weights="w")
        write_shard(path, spec_bytes(spec).decode(), np.zeros((3, 16), np.uint8), np.zeros((3, spec.dim), np.float16))
    collected = encode_collect("toys", runtime="fake", workspace=toys)
    assert (collected.n_damaged, collected.missing) == (1, (0,))
    assert not path.exists()
    assert encode_status("toys", runtime="fake", workspace=toys).missing == (0,)
    assert encode_shard("toys", "0/2", runtime="fake", workspace=toys).n_sealed == 0
    assert encode_collect("toys", runtime="fake", workspace=toys).n_missing == 0
    assert len(fake_vectors(toys)) == 400


def test_a_run_is_of_one_table_one_encoder_and_one_number_of_shards(toys: Workspace) -> None:
    encode_shard("toys", "0/2", runtime="fake", workspace=toys)
    with pytest.raises(BadSetting, match="another number of shards") as error:
        encode_shard("toys", "0/3", runtime="fake", workspace=toys)
    assert (error.value.expected, error.value.got) == ("2", "3")
    ingest([write_reviews(toys.root / "more.jsonl", toy_texts(30, seed=1))], "toys", workspace=toys)
    with pytest.raises(BadSetting, match="another table"):
        encode_shard("toys", "1/2", runtime="fake", workspace=toys)
    # Another encoder has a run of its own, and what was sealed is joined whatever the table is now.
    encode_shard("toys", "0/2", workspace=toys)
    assert len([*(toys.cache / "shards").iterdir()]) == 2
    assert encode_collect("toys", runtime="fake", workspace=toys).n_new > 0


def test_a_task_whose_run_was_removed_says_so(toys: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    seal = Run.seal

    def removing(self, digests, vectors, name) -> None:
        seal(self, digests, vectors, name)
        shutil.rmtree(run_folder(toys))

    monkeypatch.setattr(Run, "seal", removing)
    with pytest.raises(BadSetting, match="removed meanwhile"):
        encode_shard("toys", "0/2", runtime="fake", workspace=toys)


@pytest.mark.parametrize(
    ("environment", "shard", "expected"),
    [
        ({}, "3/8", (3, 8)),
        ({"SLURM_ARRAY_TASK_ID": "5", "MIN": "1", "MAX": "8", "COUNT": "8"}, "auto", (4, 8)),
        ({"SLURM_ARRAY_TASK_ID": "5", "MIN": "0", "MAX": "7", "COUNT": "8"}, "auto", (5, 8)),
        ({"SLURM_ARRAY_TASK_ID": "5", "MIN": "3", "MAX": "5", "COUNT": "2"}, "auto", None),  # --array=3,5
        ({"SLURM_ARRAY_TASK_ID": "5", "MIN": "3", "MAX": "5", "COUNT": "2"}, "auto/8", None),
        ({"SLURM_ARRAY_TASK_ID": "4", "MIN": "3", "MAX": "5", "COUNT": "3"}, "auto/8", None),
        ({"JOB_COMPLETION_INDEX": "2"}, "auto/8", (2, 8)),
        ({"JOB_COMPLETION_INDEX": "2"}, "auto", None),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "7", "AWS_BATCH_JOB_ARRAY_SIZE": "9"}, "auto", (7, 9)),
        ({"CLOUD_RUN_TASK_INDEX": "0", "CLOUD_RUN_TASK_COUNT": "2"}, "auto", (0, 2)),
        ({}, "auto", None),
        ({}, "8/8", None),
        ({}, "1/0", None),
        ({}, "-1/8", None),
        ({}, "1", None),
        ({}, "1/8/9", None),
    ],
)
def test_the_number_of_a_shard(
    environment: dict[str, str], shard: str, expected: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loid_infer.verbs.shards import _numbers

    for name, value in environment.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}" if name in ("MIN", "MAX", "COUNT") else name, value)
    if expected is None:
        with pytest.raises(BadSetting) as error:
            _numbers(shard)
        assert "I/N" in str(error.value)  # also in the fix
    else:
        assert _numbers(shard)[:2] == expected


def test_the_commands_and_their_exit_codes(toys: Workspace) -> None:
    base = [
        sys.executable,
        "-c",
        "from loid_infer.cli.app import main; main()",
        "encode",
        "-d",
        "toys",
        "--runtime",
        "fake",
        "--json",
    ]
    base += ["-w", str(toys.root)]

    def run(*options: str, **environment: str) -> tuple[int, dict]:
        environment |= os.environ
        done = subprocess.run([*base, *options], capture_output=True, text=True, check=False, env=environment)
        return done.returncode, json.loads(done.stdout.splitlines()[-1])

    slurm = {f"SLURM_ARRAY_TASK_{name}": value for name, value in {"MIN": "0", "MAX": "1", "COUNT": "2"}.items()}
    code, said = run("--shard", **slurm, SLURM_ARRAY_TASK_ID="1")
    assert (code, said["shard"], said["n_shards"], said["n_missing"]) == (0, 1, 2, 1)
    code, said = run("--status")
    assert (code, said["missing"], said["state"]) == (2, [0], "unfinished")
    encode_shard("toys", "0/2", runtime="fake", workspace=toys)
    code, said = run("--collect")
    assert (code, said["n_missing"], said["n_new"]) == (0, 0, 400)


@pytest.mark.parametrize(
    "options",
    [
        {"shard": "0/2", "status": True},
        {"workers": 2},
        {"collect": True, "dry_run": True},
        {"status": True, "patience": 3.0},
        {"status": True, "n_threads": 2},
        {"collect": True, "device": "cuda"},
        {"shard": ""},
        {"ray": ""},
        {"shard": "0/2", "shard_folder": ""},
    ],
)
def test_options_that_contradict_each_other(toys: Workspace, options: dict) -> None:
    with pytest.raises(BadSetting):
        _encode_each(domain="toys", runtime="fake", workspace=toys, **options)


def test_without_a_run_a_status_says_whether_texts_are_missing(toys: Workspace) -> None:
    with pytest.raises(NotEncoded, match="no run of shards") as error:
        encode_status("toys", runtime="fake", workspace=toys)
    assert error.value.got == "440 of 440 rows whose text has no vector"
    encode("toys", runtime="fake", workspace=toys)
    assert encode_status("toys", runtime="fake", workspace=toys).state == "collected"
    assert encode_collect("toys", runtime="fake", workspace=toys).n_files == 0


def test_every_task_needs_the_same_encoder_so_none_exports_it(tmp_path: Path) -> None:
    workspace = with_toys(Workspace(tmp_path))
    with pytest.raises(BadArtifact, match="no encoder 'base'") as error:
        encode_shard("toys", "0/2", workspace=workspace)
    assert "loid-infer export" in error.value.fix


def test_items_are_sharded_too_and_kept_by_gc(workspace: Workspace) -> None:
    source = workspace.root / "items.csv"
    source.write_text("item_id,title\n" + "".join(f"i{i},{text}\n" for i, text in enumerate(toy_texts(50))))
    ingest_items([source], "toys", workspace=workspace)
    with_toys(workspace)
    for shard in range(3):
        encode_shard("toys", f"{shard}/3", of="items", workspace=workspace)
    with pytest.raises(NotEncoded):  # the reviews have a run of their own
        encode_collect("toys", workspace=workspace)
    assert encode_collect("toys", of="items", workspace=workspace).n_new == 50
    cache_gc(workspace=workspace)
    assert encode("toys", of="items", workspace=workspace).n_hits == 50


def test_a_sealed_file_can_be_imported_elsewhere(toys: Workspace, exported: Path, tmp_path: Path) -> None:
    result = encode_shard("toys", "0/2", workspace=toys)
    path = next((run_folder(toys) / "vectors").iterdir())
    shutil.copytree(exported / "exports", tmp_path / "other" / "exports")
    imported = cache_import(path, workspace=Workspace(tmp_path / "other"))
    assert (imported.n_texts, imported.n_new) == (result.n_encoded, result.n_encoded)


def test_missing_rows_are_the_first_of_their_kind_that_the_store_lacks(tmp_path: Path, monkeypatch) -> None:
    from loid_infer.cluster import selection

    monkeypatch.setattr(selection, "_BUCKET_ROWS", 100)
    rng = np.random.default_rng(1)
    texts = [f"text {i}" for i in rng.integers(0, 1500, 3000)]
    corpus = Texts("texts", texts)
    digests = corpus.digests(SILENT)
    known = {bytes(digest) for digest in digests[rng.permutation(3000)[:700]]}

    def stored(asked):
        return np.array([bytes(digest) in known for digest in asked])

    missing, n_unique = missing_rows(corpus, stored, tmp_path, SILENT)
    seen: set[str] = set()
    for row, text in enumerate(texts):
        assert missing[row] == (text not in seen and bytes(digests[row]) not in known)
        seen.add(text)
    assert n_unique == len(seen)


def test_shards_are_even_and_depend_on_the_digest_alone() -> None:
    digests = Texts("texts", [f"text {i}" for i in range(8000)]).digests(SILENT)
    shards = shards_of(digests, 8)
    assert np.bincount(shards, minlength=8).min() > 850
    assert (shards_of(digests[::-1], 8)[::-1] == shards).all()
    assert shards[0] == int.from_bytes(bytes(digests[0][:8]), "big") % 8


def test_equal_texts_are_in_one_shard(toys: Workspace) -> None:
    results = [encode_shard("toys", f"{shard}/4", runtime="fake", workspace=toys) for shard in range(4)]
    assert sum(result.n_unique for result in results) == 400
    assert {result.n_rows for result in results} == {400 + DUPLICATES}


def test_options_that_may_stand_alone() -> None:
    assert with_values(["encode", "--ray", "-d", "toys", "--shard"]) == [
        *("encode", "--ray", "local", "-d", "toys", "--shard", "auto")
    ]
    assert with_values(["encode", "--ray", "h:1", "--shard", "0/2"]) == ["encode", "--ray", "h:1", "--shard", "0/2"]
    assert with_values([]) == []


def test_parts_become_smaller_so_that_all_workers_end_together() -> None:
    class Numbers:
        def texts(self, rows):
            yield rows, [str(row) for row in rows.tolist()]

    parts = [*handout._parts(Numbers(), np.ones(9_000, np.bool_), 8)]
    assert [text for part in parts for text in part] == [str(row) for row in range(9_000)]
    sizes = [len(part) for part in parts]
    assert sizes[:3] == [1_125, 985, 862]
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
    assert sizes[-2] == 128 >= sizes[-1]
    assert max(len(part) for part in handout._parts(Numbers(), np.ones(100_000, np.bool_), 8)) == 8_192


@pytest.mark.parametrize("sizes", [(1, 1_500, 3_000), (40_000, 7, 90_000)])
def test_pieces_of_any_size_are_joined_once(workspace: Workspace, sizes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "_COMMIT_BYTES", 2_000_000)
    spec = make_spec()
    rng, key = np.random.default_rng(0), fingerprint(spec)
    pieces = [(rng.integers(0, 256, (n, 16), np.uint8), rng.random((n, spec.dim), np.float32)) for n in sizes]
    repeated = (pieces[-1][0][::2], np.zeros_like(pieces[-1][1][::2]))  # keep the vector of the first
    with StoreWriter(workspace.store(key), spec, key) as writer, SILENT.task("join", None, "vectors") as task:
        assert add_vectors(writer, [*pieces[1:], repeated, pieces[0]], task) == sum(sizes)
        assert add_vectors(writer, pieces, task) == 0
        for digests, vectors in pieces:
            rows = writer.reader.lookup(digests)
            assert (rows >= 0).all()
            assert (writer.reader.gather(rows, digests) == vectors.astype(np.float16)).all()
