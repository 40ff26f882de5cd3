"""Files at addresses: a server that speaks S3 serves reviews and pairs, and takes vectors, shards and scores."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from loid_infer import (
    cache_export,
    cache_import,
    encode,
    encode_collect,
    encode_shard,
    encode_status,
    fit,
    ingest,
    recommend,
    sample,
    score,
)
from loid_infer.data import addresses
from loid_infer.data.addresses import Folder, beside, delivered, fetched, inside
from loid_infer.errors import BadArtifact, BadSetting, BadTable, Unreachable
from loid_infer.settings import Workspace
from tests.cluster.conftest import fake_vectors, put, with_toys
from tests.conftest import toy_texts, write_reviews


def test_reviews_come_from_an_address(bucket: str, workspace: Workspace, tmp_path: Path) -> None:
    local = write_reviews(tmp_path / "reviews.jsonl", toy_texts(50))
    here = ingest([local], "here", workspace=workspace)
    zipped = tmp_path / "reviews.jsonl.gz"
    zipped.write_bytes(gzip.compress(local.read_bytes()))
    there = ingest([put(f"{bucket}/one/reviews.jsonl.gz", zipped)], "there", workspace=workspace)
    assert there.digest == here.digest
    # A folder of files, and an error that names the address and the line.
    put(f"{bucket}/two/a.jsonl", local)
    assert ingest([f"{bucket}/two"], "folder", workspace=workspace).n_rows == 50
    local.write_text(local.read_text() + "not json\n")
    with pytest.raises(BadTable) as error:
        ingest([put(f"{bucket}/two/b.jsonl", local)], "folder", workspace=workspace)
    assert error.value.where.startswith(f"{bucket}/two/b.jsonl:51")


def test_shards_of_two_workspaces_meet_at_an_address(bucket: str, workspace: Workspace, exported, tmp_path) -> None:
    import shutil

    shutil.copytree(exported / "exports", tmp_path / "other" / "exports")
    machines = [with_toys(workspace), with_toys(Workspace(tmp_path / "other"))]
    options = {"runtime": "fake", "shard_folder": f"{bucket}/runs"}
    encode_shard("toys", "0/2", workspace=machines[0], **options)
    assert encode_status("toys", workspace=machines[1], **options).missing == (1,)
    encode_shard("toys", "1/2", workspace=machines[1], **options)
    assert encode_shard("toys", "1/2", workspace=machines[0], **options).n_encoded == 0
    collected = encode_collect("toys", workspace=machines[0], **options)
    assert (collected.n_new, collected.n_missing) == (400, 0)
    left = Folder(f"{bucket}/runs")._system.get_file_info(pafs.FileSelector("shared/runs", recursive=True))
    assert [info.path for info in left if info.type == pafs.FileType.File] == []
    vectors = fake_vectors(machines[0])
    encode("toys", runtime="fake", workspace=machines[1])
    assert vectors == fake_vectors(machines[1])


def test_vectors_are_exported_to_and_imported_from_an_address(bucket: str, workspace: Workspace) -> None:
    encode("toys", workspace=with_toys(workspace))
    for name in ("v.safetensors", "v.parquet"):
        assert cache_export("toys", f"{bucket}/out/{name}", workspace=workspace).out == f"{bucket}/out/{name}"
    with fetched(f"{bucket}/out/v.parquet") as (path,):
        assert pq.read_metadata(path).num_rows == 440
    import shutil

    shutil.rmtree(workspace.cache)
    assert cache_import(f"{bucket}/out/v.safetensors", workspace=workspace).n_new == 400
    with pytest.raises(BadArtifact) as error:
        cache_import(f"{bucket}/out/v.parquet", workspace=workspace)
    assert error.value.where == f"{bucket}/out/v.parquet"


def test_pairs_come_from_an_address_and_scores_go_there(bucket: str, workspace: Workspace, tmp_path: Path) -> None:
    sample(["toys"], n_reviews=300, workspace=workspace)
    encode("toys", workspace=workspace)
    fit("toys", workspace=workspace)
    pairs = tmp_path / "pairs.parquet"
    pq.write_table(pq.read_table(workspace.table("toys"), columns=["user_id", "item_id"]), pairs)
    here = score(pairs, workspace=workspace)
    address = put(f"{bucket}/in/pairs.parquet", pairs)
    there = score(address, workspace=workspace)
    assert there.out == f"{bucket}/in/pairs.scores.parquet"
    with fetched(there.out) as (path,):
        assert pq.read_table(path).equals(pq.read_table(here.out))
    assert score(address, out=tmp_path / "own.csv", workspace=workspace).out == str(tmp_path / "own.csv")
    with pytest.raises(BadSetting, match="replace the input"):
        score(address, out=address, workspace=workspace)


def test_recommendations_go_to_an_address(bucket: str, workspace: Workspace, tmp_path: Path) -> None:
    from loid_infer import cf_fit

    sample(["toys"], n_reviews=600, workspace=workspace)
    cf_fit(["toys"], model="popularity", workspace=workspace)
    users = tmp_path / "users.csv"
    users.write_text("user_id\nnobody\n")
    result = recommend(put(f"{bucket}/in/users.csv", users), domain="toys", n=3, workspace=workspace)
    assert result.out == f"{bucket}/in/users.recommendations.csv"
    with fetched(result.out) as (path,):
        assert len(path.read_text().splitlines()) == 4


def test_what_cannot_be_read_or_written_is_said_with_its_address(bucket: str, workspace: Workspace) -> None:
    with pytest.raises(Unreachable, match="no such file") as error:
        ingest([f"{bucket}/none.csv"], "toys", workspace=workspace)
    assert error.value.where == f"{bucket}/none.csv"
    with pytest.raises(Unreachable), delivered("s3://no-such-bucket/file") as path:
        path.write_text("content")
    for wrong in ("file:///tmp/file", "ftp://host/file", "s4://bucket/file", "s3:/bucket/file"):
        with pytest.raises(BadSetting), fetched(wrong):
            pass


def test_secrets_are_refused_and_never_shown(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    for user in ("KEY:hunter2@", "hunter2@", "KEY:hun/hunter2@"):
        address = f"s3://{user}bucket/file.csv"
        for verb in (score, cache_import, lambda out, workspace: cache_export("toys", out, workspace=workspace)):
            with pytest.raises(BadSetting, match="password") as error:
                verb(address, workspace=workspace)
            assert "hunter2" not in str(error.value)
        with pytest.raises(BadSetting) as error:
            sample(["toys"], workspace=address)
        assert "hunter2" not in str(error.value)
    for address in ("gs://user:hunter2@bucket/file", "s3://bucket/file?secret_key=hunter2", "s3://[b/hunter"):
        with pytest.raises(BadSetting) as error:
            score(address, workspace=workspace)
        assert "hunter2" not in str(error.value)
    assert "hunter2" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("root", ["s3://bucket/ws", "gs://bucket/ws", Path("s3://bucket/ws")])
def test_a_workspace_is_a_local_folder(root: str) -> None:
    with pytest.raises(BadSetting, match="must be a folder") as error:
        sample(["toys"], workspace=root)
    assert "--shard-folder" in error.value.fix


def test_a_file_that_is_not_sent_completely_is_not_there(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = pafs.copy_files

    def cut(source, *places, **options) -> None:
        with Path(source).open("r+b") as file:
            file.truncate(10)
        copy(source, *places, **options)

    monkeypatch.setattr(addresses.pafs, "copy_files", cut)
    with pytest.raises(Unreachable, match="not sent completely"), delivered(f"{bucket}/cut") as path:
        path.write_bytes(bytes(1000))
    assert not Folder(bucket).has("cut")

    def refused(source, *places, **options) -> None:
        raise OSError("access denied")

    # What was there before stays.
    monkeypatch.setattr(addresses.pafs, "copy_files", copy)
    with delivered(f"{bucket}/kept") as path:
        path.write_bytes(bytes(5))
    monkeypatch.setattr(addresses.pafs, "copy_files", refused)
    with pytest.raises(Unreachable, match="access denied"), delivered(f"{bucket}/kept") as path:
        path.write_bytes(bytes(1000))
    assert Folder(bucket).sizes("")["kept"] == 5

    def failing(source, *places, **options) -> None:
        cut(source, *places, **options)
        raise OSError("the connection was lost")

    monkeypatch.setattr(addresses.pafs, "copy_files", failing)
    with pytest.raises(Unreachable, match="connection was lost"), delivered(f"{bucket}/cut") as path:
        path.write_bytes(bytes(1000))
    assert not Folder(bucket).has("cut")


def test_names_beside_and_inside() -> None:
    assert beside("s3://b/in/p.csv?region=x", "q.csv") == "s3://b/in/q.csv?region=x"
    assert inside("s3://b/in/?region=x", "q") == "s3://b/in/q?region=x"
    assert (beside("in/p.csv", "q.csv"), inside("in", "q")) == ("in/q.csv", "in/q")
    assert np.all([not addresses.is_address(path) for path in ("a/b", "/s3://x", "C:/x", "./s3:/x")])
