"""How good are the ratings without peeking, what is each part of the head worth, and how fast are fit and score?

    python -m bench.heads [SEEDS] [N_PAIRS]

Strict protocol, the same splits for every model, differences pair by pair; about a quarter of an hour on two cores.
"""

import random
import shutil
import sys
from pathlib import Path

from bench.record import compared, loid, median, needed_reviews, save, work_folder

DOMAINS = ("musical_instruments", "digital_music")
ABLATED = DOMAINS[0]


def main(n_seeds: int = 10, n_pairs: int = 1_000_000) -> None:
    workspace = work_folder("heads")
    rows, ablations = [], []
    for domain in DOMAINS:
        loid("ingest", str(needed_reviews(domain)), "-d", domain, "-w", str(workspace))
        loid("encode", "-d", domain, "-w", str(workspace))
        ablate = ("--ablate",) if domain == ABLATED else ()
        result = loid("evaluate", "-d", domain, "--seeds", str(n_seeds), *ablate, "-w", str(workspace))
        by_time = loid("evaluate", "-d", domain, "--seeds", "3", "--split", "time", "-w", str(workspace))
        on_splits, on_time = ({"domain": domain, "split": split} for split in ("random", "time"))
        models = [row for _, row in compared(result["summary"], "bias")]
        n_models = next(i for i, row in enumerate(models) if "impossible" in row["model"]) + 1
        rows += [on_splits | row for row in models[:n_models]]
        ablations += [on_splits | row for _, row in compared(result["summary"], "head")[n_models:]]
        rows += [on_time | row for _, row in compared(by_time["summary"], "bias")[:n_models]]
    save(
        "How good are the ratings without peeking?",
        "heads",
        rows,
        "Test MSE, strict protocol, default preset, frozen all-MiniLM-L6-v2. `difference`: from the tuned bias model "
        f"on the same pairs, with its 95 % interval. random: mean of split seeds 0 to {n_seeds - 1}, corrected "
        "resampled t of Nadeau and Bengio. time: the latest tenth, interval over its pairs, head of three seeds. Two "
        "constants of the head were chosen on other splits of these same reviews.",
    )
    save(
        "What is each part of the head worth?",
        "ablation",
        ablations,
        f"Test MSE, mean of split seeds 0 to {n_seeds - 1}, strict protocol, default preset with one thing changed, "
        "frozen all-MiniLM-L6-v2. `difference`: from the unchanged head, with its corrected 95 % interval; above zero "
        "the change makes it worse.",
    )
    _fit_speed(workspace)
    _score_speed(workspace, n_pairs)
    shutil.rmtree(workspace)


def _fit_speed(workspace: Path) -> None:
    rows = []
    for domain in DOMAINS:
        fits = [loid("fit", "-d", domain, "--epochs", "4", "-w", str(workspace)) for _ in range(3)]
        rate = median([fit["samples_per_s"] for fit in fits])
        rows.append(
            {
                "domain": domain,
                "train_pairs": fits[0]["n_train"],
                "pairs_per_s": rate,
                "epoch_s": fits[0]["n_train"] / rate,
                "fit_s": median([fit["seconds"] for fit in fits]),
            }
        )
    save(
        "How fast is a head trained?",
        "fit",
        rows,
        "Default preset, d = 384, k = 5, batches of 512, 4 epochs; `pairs_per_s`: of the network's training alone; "
        "`fit_s`: from opening the table to the saved head, baselines and evaluation included. Medians of 3.",
    )


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
        rows.append(
            {
                "preset": head["preset"],
                "network_share": head["network_share"],
                "pairs": n_pairs,
                "pairs_per_s": median(rates),
                "slowest": min(rates),
                "fastest": max(rates),
            }
        )
    save(
        "How fast are pairs scored?",
        "score",
        rows,
        "Random users and items of Musical Instruments, 3 % of either unknown; file to file; median of 3 processes.",
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
