"""Proof that a cluster loses nothing: workers are killed at random moments, and every text is encoded once.

make soak, or ROUNDS=30 pytest -m slow tests/proofs/test_lost_workers.py
"""

import os
import random
import shutil
import signal
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from loid_infer import encode, encode_ray, sample
from loid_infer.cluster.run import Run
from loid_infer.errors import LoidError
from loid_infer.settings import Workspace, ray_environment
from loid_infer.types import SILENT
from tests.cluster.conftest import fake_vectors, names, with_toys
from tests.cluster.test_ray import nodes, workers  # noqa: F401 - a fixture

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install '.[cluster-dev]'"),
]
ROUNDS = int(os.environ.get("ROUNDS", "30"))
N_REVIEWS = 30_000
MAX_S = 180.0  # of a round


def test_workers_are_killed_at_random_moments(
    nodes,  # noqa: F811
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property,
) -> None:
    shutil.copytree(exported / "exports", tmp_path / "exports")
    workspace = Workspace(tmp_path)
    sample(["toys"], n_reviews=N_REVIEWS, workspace=workspace)
    encode("toys", runtime="fake", workspace=workspace)
    expected, bundle, rng = fake_vectors(workspace), Run.load, random.Random(0)
    taken: list[str] = []

    def counted(self, name):
        taken.append(name)
        return bundle(self, name)

    monkeypatch.setattr(Run, "load", counted)
    n_killed = n_computing = 0
    for number in range(ROUNDS):
        shutil.rmtree(workspace.cache)
        taken.clear()
        over = threading.Event()

        def kill(over=over) -> None:
            nonlocal n_killed, n_computing
            while not workers() and not over.wait(0.02):
                pass
            for _ in range(rng.randint(1, 3)):
                if over.wait(rng.uniform(0.0, 4.0)):
                    return
                if alive := workers():
                    n_computing += bool(taken)
                    n_killed += 1
                    os.kill(rng.choice(alive), signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        start = time.monotonic()
        result = encode_ray("toys", nodes.address, workers=2, n_threads=1, runtime="fake", workspace=workspace)
        over.set()
        killer.join()
        assert time.monotonic() - start < MAX_S
        assert len(taken) == len(set(taken)) == result.n_shards, f"round {number}: a sealed part was computed again"
        assert result.n_encoded == len(expected)
        assert fake_vectors(workspace) == expected, f"round {number}"
        assert names(workspace.cache / "shards") == set()
    assert n_killed >= ROUNDS / 2
    record_property(
        "proof",
        f"cluster: {n_killed} workers killed in {ROUNDS} jobs of {len(expected):,} texts, {n_computing} of them after "
        "the first sealed part; all vectors there, no sealed part computed twice",
    )


def test_a_worker_that_stands_still_costs_patience_and_nothing_else(
    nodes,  # noqa: F811
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is stopped, not killed: Ray waits for it, as for a node that hangs."""
    with_toys(workspace, n=4000)
    load, taken = Run.load, []

    def counted(self, name):
        taken.append(name)
        if len(taken) == 3:
            os.kill(workers()[0], signal.SIGSTOP)
        return load(self, name)

    monkeypatch.setattr(Run, "load", counted)
    said = Lines()
    result = encode_ray(
        "toys", nodes.address, workers=2, n_threads=1, patience=40.0, runtime="fake", workspace=workspace, progress=said
    )
    assert (result.n_encoded, len(taken), len(set(taken))) == (4000, result.n_shards, result.n_shards)
    assert any("no worker finished a part" in line for line in said.lines)


def test_when_the_head_is_lost_the_command_says_so_and_the_next_one_goes_on(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**ray_environment(local=True), "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    with_toys(workspace, n=4000)
    load, taken = Run.load, []

    def counted(self, name):
        taken.append(name)
        if len(taken) == 3:
            cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        return load(self, name)

    monkeypatch.setattr(Run, "load", counted)
    start = time.monotonic()
    with pytest.raises(LoidError) as error:
        encode_ray("toys", cluster.address, workers=2, n_threads=1, runtime="fake", workspace=workspace)
    assert time.monotonic() - start < MAX_S
    assert "Ray" in str(error.value) and len(taken) >= 3
    n_stored = len(fake_vectors(workspace))
    assert 0 < n_stored < 4000
    result = encode("toys", runtime="fake", workspace=workspace)
    assert result.n_hits == n_stored and result.n_encoded == 4000 - n_stored


class Lines:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def task(self, name: str, total: int | None, unit: str):
        return SILENT.task(name, total, unit)
