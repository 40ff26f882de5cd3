"""A run that is killed, or whose disk fails, at any write: nothing committed is lost, and the next run completes it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loid_infer import ingest
from tests.conftest import toy_texts, write_reviews
from tests.proofs.conftest import slow

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("cc")
    if not compiler or sys.platform != "linux":
        pytest.skip("faults are injected by a preloaded library: that takes Linux and a C compiler")
    made = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, HERE / "faults.c", "-ldl"], check=True)
    return made


def played(scene: str, workspace, *arguments: object, n_texts: int, preload: Path | None = None) -> str:
    ingest([write_reviews(workspace.root.parent / "toys.jsonl", toy_texts(n_texts))], "toys", workspace=workspace)
    environment = os.environ | ({"LD_PRELOAD": str(preload)} if preload else {})
    command = [sys.executable, "-m", "tests.proofs.scenes", scene, workspace.root, *map(str, arguments)]
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("every", [29, slow(1)])
def test_a_failure_of_any_write_loses_no_committed_vector(workspace, library, counted, every):
    counted(played("faults", workspace, library, every, n_texts=300, preload=library))


@pytest.mark.parametrize(("rounds", "runtime"), [(4, "fake"), slow(220, "fake"), slow(20, "auto")])
def test_a_kill_at_any_time_loses_no_committed_vector(workspace, counted, rounds, runtime):
    counted(played("kills", workspace, rounds, runtime, n_texts=3_000))
