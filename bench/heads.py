"""How good are the ratings without peeking, and how fast are fit and score?

Strict protocol, the same splits for every model, differences pair by pair.

    python -m bench.heads [SEEDS] [N_PAIRS]
"""

import random
import shutil
import sys
from pathlib import Path

import numpy as np

from bench.record import loid, median, real_reviews, save, work_folder
from loid_infer.kernels.metrics import paired

DOMAINS = ("musical_instruments", "digital_music")


def main(n_seeds: int = 5, n_pairs: int = 1_000_000) -> None:
    workspace = work_folder("heads")
    rows = []
    for domain in DOMAINS:
        source = real_reviews(domain)
        if source is None:
            raise SystemExit("no real reviews beside the checkout: set LOID_SHARED")
        loid("ingest", str(source), "-d", domain, "-w", str(workspace))
        loid("encode", "-d", domain, "-w", str(workspace))
        rows.append(_errors(domain, [_fit(domain, seed, workspace) for seed in range(n_seeds)]))
    save(
        "How good are the ratings without peeking?",
        "heads",
        rows,
        f"Test MSE, mean of split seeds 0 to {n_seeds - 1}, strict protocol, default preset, frozen all-MiniLM-L6-v2; "
        "difference = head - tuned bias model, with the corrected 95 % interval of Nadeau and Bengio.",
    )
    _score_speed(workspace, n_pairs)
    shutil.rmtree(workspace)


def _fit(domain: str, seed: int, workspace: Path) -> dict:
    return loid("fit", "-d", domain, "--seed", str(seed), "-w", str(workspace))


def _errors(domain: str, fits: list[dict]) -> dict:
    head = np.array([fit["test_mse"] for fit in fits])
    bias = np.array([fit["baselines"]["bias"] for fit in fits])
    found = paired(head - bias, fits[0]["n_test"] / fits[0]["n_train"])
    return {
        "domain": domain,
        **{name: float(np.mean([fit["baselines"][name] for fit in fits])) for name in ("global_mean", "bias", "mf")},
        "head": float(head.mean()),
        "difference": found.mean,
        "interval": f"{found.low:+.4f} to {found.high:+.4f}",
        "fit_s": median([fit["seconds"] for fit in fits]),
        "train_pairs_per_s": median([fit["samples_per_s"] for fit in fits]),
    }


def _score_speed(workspace: Path, n_pairs: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    domain = DOMAINS[0]
    table = pq.read_table(workspace / "data" / f"{domain}.parquet", columns=["user_id", "item_id"])
    users, items = (sorted(set(table[name].to_pylist())) for name in ("user_id", "item_id"))
    rng = random.Random(0)
    users, items = [*users, *(f"new-{i}" for i in range(50))], [*items, *(f"new-{i}" for i in range(50))]
    pairs = pa.table({"user_id": rng.choices(users, k=n_pairs), "item_id": rng.choices(items, k=n_pairs)})
    pq.write_table(pairs, workspace / "pairs.parquet")
    # The paper's preset always uses its network; of the default's only what validation found worth using is computed.
    paper = loid("fit", "-d", domain, "--preset", "paper", "--epochs", "1", "--name", "paper", "-w", str(workspace))
    default = loid("fit", "-d", domain, "-w", str(workspace))
    rows = []
    for head in (default, paper):
        command = ("score", str(workspace / "pairs.parquet"), "--head", head["head"], "-w", str(workspace))
        rates = [loid(*command)["rows_per_s"] for _ in range(3)]
        rows.append({"preset": head["preset"], "network_share": head["network_share"], "pairs": n_pairs,
                     "pairs_per_s": median(rates), "slowest": min(rates), "fastest": max(rates)})  # fmt: skip
    save(
        "How fast are pairs scored?", "score", rows,
        "Random users and items of Musical Instruments, 3 % of either unknown; file to file; median of 3 processes.",
    )  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
