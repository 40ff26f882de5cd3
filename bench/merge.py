"""What does a merge of two BERT-base-size plugins cost? Each method through the command line, in its own process.

python -m bench.merge
"""

import os
import shutil
import subprocess
import sys
import time

import numpy as np

from bench.record import median, save, work_folder
from loid_infer.plugins.delta import LowRank
from loid_infer.settings import Workspace
from tests.plugins.toy_plugins import write_plugin

N_LAYERS, DIM, WIDE, RANK, REPEATS = 12, 768, 3072, 32, 3
MAPS = {
    "attention.self.query": (DIM, DIM),
    "attention.self.key": (DIM, DIM),
    "attention.self.value": (DIM, DIM),
    "attention.output.dense": (DIM, DIM),
    "intermediate.dense": (WIDE, DIM),
    "output.dense": (DIM, WIDE),
}
# Peak memory as the system saw it, of a process that does nothing but this one command.
CODE = """if True:
    import resource, sys
    from loid_infer.cli.app import main
    try:
        main()
    finally:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=sys.stderr)
"""


def main() -> None:
    workspace = Workspace(work_folder("merge"))
    for seed, name in enumerate(("one", "two")):
        _write_plugin(workspace, name, seed)
    rows = []
    for method, rank in (("linear", None), ("ties", None), ("dare", None), ("dare_ties", None), ("linear", RANK)):
        options = ["--rank", str(rank)] if rank else []
        runs = [_merge(workspace, method, options) for _ in range(REPEATS)]
        kept = workspace.plugin("both")
        rows.append(
            {
                "method": f"{method} --rank {rank}" if rank else method,
                "seconds": median([seconds for seconds, _ in runs]),
                "peak_mib": max(peak for _, peak in runs) / 2**20,
                "written_mib": sum(file.stat().st_size for file in kept.iterdir()) / 2**20,
            }
        )
    save(
        "What does a merge of two plugins of BERT-base's size cost?",
        "merge",
        rows,
        f"Two plugins of random factors of rank {RANK} on all {N_LAYERS * len(MAPS)} linear layers of BERT-base; whole "
        f"command with start, checks and write, on one thread, median of {REPEATS}, density 0.8, no base needed.",
    )
    shutil.rmtree(workspace.root)


def _write_plugin(workspace: Workspace, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    delta = {
        f"encoder.layer.{layer}.{module}.weight": LowRank(
            rng.normal(size=(d_out, RANK)).astype("f4"), rng.normal(size=(RANK, d_in)).astype("f4"), 1.0
        )
        for layer in range(N_LAYERS)
        for module, (d_out, d_in) in MAPS.items()
    }
    write_plugin(workspace, name, delta)


def _merge(workspace: Workspace, method: str, options: list[str]) -> tuple[float, int]:
    """Seconds and peak bytes of one merge."""
    command = ["plugin", "merge", "one", "two", "--name", "both", "--method", method, *options]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CODE, *command, "-w", str(workspace.root), "--json", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"loid-infer {' '.join(command)} failed:\n{done.stderr}")
    return seconds, int(done.stderr.splitlines()[-1])


if __name__ == "__main__":
    main()
