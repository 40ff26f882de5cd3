"""Killed runs and failing writes: nothing committed is lost, and the next run completes the work."""

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
        pytest.skip("fault injection preloads a library, which needs Linux and a C compiler")
    path = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", path, HERE / "faults.c", "-ldl"], check=True)
    return path


def inject(test: str, workspace, *arguments: object, n_texts: int, preload: Path | None = None) -> str:
    """Run a test of `fault_injection` as a program; returns its line on the cases that were tried."""
    ingest([write_reviews(workspace.root.parent / "toys.jsonl", toy_texts(n_texts))], "toys", workspace=workspace)
    environment = os.environ | ({"LD_PRELOAD": str(preload)} if preload else {})
    command = [sys.executable, "-m", "tests.proofs.fault_injection", test, workspace.root, *map(str, arguments)]
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("every", [29, slow(1)])
def test_a_failure_of_any_write_loses_no_committed_vector(workspace, library, report_cases, every):
    report_cases(inject("write-faults", workspace, library, every, n_texts=300, preload=library))


@pytest.mark.parametrize(("rounds", "runtime"), [(4, "fake"), slow(220, "fake"), slow(20, "auto")])
def test_a_kill_at_any_time_loses_no_committed_vector(workspace, report_cases, rounds, runtime):
    report_cases(inject("kills", workspace, rounds, runtime, n_texts=3_000))
