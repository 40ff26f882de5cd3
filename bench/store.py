"""What does the store cost: committing, opening, looking up, checking, repairing, and how large is its file?

    python -m bench.store [N_VECTORS ...]

Vectors of 384 x float16 under random digests, committed as `encode` does it, each commit synced. Room for two stores of
the largest number is needed.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.gather import SPEC
from bench.record import save, work_folder
from loid_infer.encoders.spec import fingerprint
from loid_infer.store.reader import open_store
from loid_infer.store.rewrite import compact, salvage
from loid_infer.store.shared import DATA_FILE
from loid_infer.store.verify import verify
from loid_infer.store.writer import Committer, StoreWriter
from loid_infer.types import SILENT

FINGERPRINT = fingerprint(SPEC)
STEP, N_ASKED = 8_192, 1_000_000

# In a process of its own, so that nothing else is in its memory.
OPEN = """
import sys, time
from pathlib import Path
from bench.store import SPEC, FINGERPRINT, open_store
start = time.perf_counter()
open_store(Path(sys.argv[1]), SPEC, FINGERPRINT)
seconds = time.perf_counter() - start
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(seconds, int(peak.split()[1]) / 1024)
"""


def main(*sizes: int) -> None:
    rows = [_measured(n) for n in sizes or (1_000_000, 10_000_000)]
    save(
        "What does the store cost?",
        "store",
        rows,
        "Vectors of 384 x float16 under random digests; sizes are of the file, index and digests included, relative to "
        "the vectors alone. Committed in transactions of at most 8 chunks of 1,024, each synced; `lookup_s` is for "
        f"{N_ASKED:,} digests in random order; `open_mib` is the peak of a whole process that imports and opens (Linux "
        "only). The file was in the system's page cache where there was room for it. One run each, in this order.",
    )


def _measured(n: int) -> dict[str, object]:
    folder, rng = work_folder("store") / "store", np.random.default_rng(0)
    digests = rng.integers(0, 256, (n, 16), np.uint8)
    vectors = rng.normal(size=(STEP, SPEC.hidden_dim)).astype(np.float32)
    commit_s = _seconds(lambda: _commit(folder, digests, vectors))
    written = _size(folder, n)
    opened = subprocess.run([sys.executable, "-c", OPEN, folder], capture_output=True, text=True, check=True)
    open_s, open_mib = map(float, opened.stdout.split())
    with open_store(folder, SPEC, FINGERPRINT) as store:
        asked = digests[rng.permutation(n)[:N_ASKED]]
        lookup_s = _seconds(lambda: store.lookup(asked))
        verify_s = _seconds(lambda: verify(store, SILENT))
    salvage_s = _seconds(lambda: salvage(folder, SPEC, FINGERPRINT, SILENT))
    compact_s = _seconds(lambda: compact(folder, SPEC, FINGERPRINT, None, SILENT))
    row = {
        "vectors": n,
        "committed_per_s": n / commit_s,
        "size": written,
        "size_compact": _size(folder, n),
        "open_s": open_s,
        "open_mib": open_mib,
        "lookup_s": lookup_s,
        "verify_s": verify_s,
        "salvage_s": salvage_s,
        "compact_s": compact_s,
    }
    shutil.rmtree(folder)
    return row


def _commit(folder: Path, digests: np.ndarray, vectors: np.ndarray) -> None:
    with StoreWriter(folder, SPEC, FINGERPRINT) as writer, Committer(writer) as committer:
        for start in range(0, len(digests), STEP):
            part = digests[start : start + STEP]
            committer.add(part, vectors[: len(part)])


def _size(folder: Path, n: int) -> float:
    return (folder / DATA_FILE).stat().st_size / (n * SPEC.hidden_dim * 2)


def _seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
