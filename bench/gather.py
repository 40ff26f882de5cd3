"""How fast are vectors picked from a store, beside an array on disk?

    python -m bench.gather [N_VECTORS]

One store of float16 vectors of width 384 and the same matrix in a plain file, both in the system's page cache; the same
random numbers are asked of both, turn by turn.
"""

import shutil
import sys
import time

import numpy as np

from bench.record import median, save, work_folder
from loid_infer.encoders.spec import fingerprint
from loid_infer.store.reader import open_store
from loid_infer.store.writer import CHUNK_ROWS, StoreWriter
from tests.conftest import make_spec

SPEC = make_spec(
    weights="bench", n_layers=6, n_heads=12, hidden_dim=384, feed_forward_dim=1536, tokenizer="bench", max_tokens=256
)
BATCHES, ROUNDS = (2_560, 10_240, 81_920), 30


def main(n: int = 1_000_000) -> None:
    folder = work_folder("gather")
    rng = np.random.default_rng(0)
    digests = rng.integers(0, 256, (n, 16), np.uint8)
    plain = np.memmap(folder / "plain.bin", np.float16, "w+", shape=(n, SPEC.hidden_dim))
    with StoreWriter(folder / "store", SPEC, fingerprint(SPEC)) as writer:
        for start in range(0, n, CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            plain[part] = rng.normal(size=plain[part].shape).astype(np.float16)
            writer.append((digests[part], plain[part]))
    plain = np.memmap(folder / "plain.bin", np.float16, "r", shape=plain.shape)
    rows = []
    with open_store(folder / "store", SPEC, fingerprint(SPEC)) as store:
        start = time.perf_counter()
        found = store.rows_of(digests, "")
        looked_up = time.perf_counter()
        with store.view(found, digests) as view:
            ready = time.perf_counter()
            for batch in BATCHES:
                seconds: dict[str, list[float]] = {"memmap": [], "store": []}
                for _ in range(ROUNDS):
                    which = rng.integers(0, n, batch)
                    seconds["memmap"].append(_seconds(plain, which))
                    seconds["store"].append(_seconds(view, which))
                ours, theirs = median(seconds["store"]), median(seconds["memmap"])
                rows.append(
                    {
                        "batch": batch,
                        "store_per_s": batch / ours,
                        "memmap_per_s": batch / theirs,
                        "ratio": theirs / ours,
                    }
                )
    save(
        "How fast are vectors picked from the store?",
        "gather",
        rows,
        f"Vectors a second of {n:,} (384 x float16), random, one thread, median of {ROUNDS} batches each. Before that, "
        f"once: {looked_up - start:.1f} s to look all digests up, {ready - looked_up:.1f} s to check the checksum of "
        "every chunk and the digest of every row.",
    )
    shutil.rmtree(folder)


def _seconds(vectors: object, which: np.ndarray) -> float:
    start = time.perf_counter()
    vectors[which]
    return time.perf_counter() - start


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
