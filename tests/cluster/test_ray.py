"""`encode --ray` on a cluster of two nodes of this machine: workers and nodes are lost, every text is encoded once."""

import os
import platform
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from loid_infer import encode, encode_ray
from loid_infer.artifact import digest_json
from loid_infer.cluster import supervision
from loid_infer.cluster.run import Run
from loid_infer.data.reviews import open_table
from loid_infer.encoders.folder import GRAPH_FILE, open_folder
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import LoidError, RuntimeMissing, StoreBusy, Stuck
from loid_infer.settings import Workspace, ray_environment
from loid_infer.store.writer import StoreWriter
from loid_infer.types import SILENT
from tests.cluster.conftest import fake_vectors, names, with_toys

# Not imported here: it reads its environment when it is.
pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install '.[cluster-dev]'")


@pytest.fixture(scope="module")
def nodes() -> Iterator:
    """A cluster of two nodes with a processor each, on the loopback."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ray_environment(local=True).items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


def workers() -> list[int]:
    """The processes of workers that compute."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if command.startswith(b"ray::MapWorker"):
                found.append(int(folder.name))
    return found


def listening() -> set[str]:
    """The addresses at which processes of Ray listen."""
    said = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in said.splitlines() if "raylet" in line or "gcs_server" in line or "ray::" in line]
    return {line[3].rpartition(":")[0] for line in lines}


def test_a_killed_worker_and_a_lost_node_cost_what_they_had_not_sealed(
    nodes, workspace: Workspace, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two parts a worker is killed, after five its node goes away for good."""
    monkeypatch.setattr(supervision, "_LOST_S", 4.0)
    with_toys(workspace, n=9000)
    taken, bundle = [], Run.load

    def counted(self, name):
        taken.append(name)
        if len(taken) == 2:
            os.kill(workers()[0], signal.SIGKILL)
        if len(taken) == 5:
            nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
        return bundle(self, name)

    monkeypatch.setattr(Run, "load", counted)
    result = encode_ray("toys", nodes.address, workers=2, n_threads=1, runtime="fake", workspace=workspace)
    assert (result.n_unique, result.n_encoded, result.n_missing, result.n_shards) == (9000, 9000, 0, 25)
    assert len(taken) == 25 == len(set(taken))  # no part was sealed twice
    assert names(workspace.cache / "shards") == set()
    shutil.copytree(exported / "exports", tmp_path / "alone" / "exports")
    alone = with_toys(Workspace(tmp_path / "alone"), n=9000)
    encode("toys", runtime="fake", workspace=alone)
    assert fake_vectors(workspace) == fake_vectors(alone)
    again = encode_ray("toys", nodes.address, runtime="fake", workspace=workspace)
    assert (again.n_hits, again.n_encoded, again.workers) == (9000, 0, 0)


def test_the_error_of_a_worker_ends_the_job(nodes, workspace: Workspace) -> None:
    """A file changes that only the workers read."""
    with_toys(workspace)

    def spoil() -> None:
        while not [*(workspace.cache / "shards").glob("*/texts/*")]:
            time.sleep(0.05)
        path = workspace.encoder("base") / GRAPH_FILE
        path.write_bytes(path.read_bytes() + b"x")

    thread = threading.Thread(target=spoil)
    thread.start()
    with pytest.raises(LoidError, match="does not match the digest"):
        encode_ray("toys", nodes.address, n_threads=1, workspace=workspace)
    thread.join()


def test_what_a_killed_job_sealed_is_joined_by_the_next_unless_another_one_runs(nodes, workspace: Workspace) -> None:
    table = open_table(with_toys(workspace).table("toys"), "toys")
    spec = structs.replace(open_folder(workspace.encoder("base"), "base").spec, precision="fake")
    key = fingerprint(spec)
    owner = digest_json([platform.node(), str(workspace.root.resolve())])[:8]
    left = Run.begin(workspace.shards / f"toys.{key[:12]}.{owner}.ray", "toys", table.digest, spec, 1)
    left.seal(table.digests(SILENT)[:10], np.zeros((10, spec.dim), np.float16), "00000-part.safetensors")
    with StoreWriter(workspace.store(key), spec, key), pytest.raises(StoreBusy):
        encode_ray("toys", nodes.address, runtime="fake", workspace=workspace)
    result = encode_ray("toys", nodes.address, n_threads=1, runtime="fake", workspace=workspace)
    assert (result.n_sealed, result.n_encoded, result.n_hits) == (10, 390, 10)


def test_a_cluster_of_its_own_listens_on_the_loopback_only_and_finds_all_at_an_address(
    bucket: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards and encoder go through a bucket, as if the workers saw nothing else of this machine."""
    with_toys(workspace)
    before, addresses, bundle = listening(), set(), Run.load

    def seen(self, name):
        addresses.update(listening())
        return bundle(self, name)

    monkeypatch.setattr(Run, "load", seen)
    result = encode_ray("toys", workers=1, n_threads=1, shard_folder=f"{bucket}/ray", workspace=workspace)
    assert (result.n_encoded, result.run.startswith(f"{bucket}/ray/toys.")) == (400, True)
    assert encode("toys", workspace=workspace).n_hits == 400
    assert (
        {"127.0.0.1"}
        <= {address.removeprefix("[::ffff:").rstrip("]") for address in addresses}
        <= {"127.0.0.1", "::1", *before}
    )


def test_a_cluster_that_cannot_be_used_is_said(nodes, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with_toys(workspace)
    with pytest.raises(LoidError, match="no node of the cluster has room for a worker") as error:
        encode_ray("toys", nodes.address, n_threads=64, runtime="fake", workspace=workspace)
    assert error.value.expected == "one with 64 free processors"
    with pytest.raises(LoidError, match="no cluster of Ray answers"):
        encode_ray("toys", "127.0.0.1:1", runtime="fake", workspace=workspace)
    monkeypatch.setattr(supervision, "_START_S", 0.1)
    with pytest.raises(Stuck, match="does not answer"):
        encode_ray("toys", nodes.address, runtime="fake", workspace=workspace)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeMissing, match="Ray is not installed") as missing:
        encode_ray("toys", runtime="fake", workspace=workspace)
    assert "loid-infer[cluster]" in missing.value.fix
