"""What do many reviews cost a head? Fit on a tenth of them and on all, and score pairs.

Synthetic reviews: ten a user and fifty an item on average, ratings of user, item and text, a hundred thousand different
texts, vectors of width 384 by a small model with random weights.

    python -m bench.size [N_REVIEWS] [N_PAIRS]       half a million reviews and pairs take three minutes on two cores
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.record import loid, median, save, work_folder
from tests.families import write_model, write_tokenizer

N_TEXTS, N_EPOCHS = 100_000, 2
WORDS = [f"{first}{last}" for first in ("ba", "de", "fi", "go", "hu", "ly") for last in ("m", "n", "r", "s", "t", "x")]
SHAPE = {"hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 6, "intermediate_size": 384}


def main(n_reviews: int = 10_000_000, n_pairs: int = 1_000_000) -> None:
    workspace = work_folder("size")
    _model(workspace / "model")
    loid("export", "--name", "small", "--base", str(workspace / "model"), "-w", str(workspace))
    rows = []
    for domain, n, n_scored in (("tenth", n_reviews // 10, 0), ("all", n_reviews, n_pairs)):
        path = _reviews(workspace, n)
        loid("ingest", str(path), "-d", domain, "-w", str(workspace))
        path.unlink()
        loid("encode", "-d", domain, "-e", "small", "-w", str(workspace))
        fit = loid("fit", "-d", domain, "-e", "small", "--epochs", str(N_EPOCHS), "-w", str(workspace))
        row = {"reviews": n, "train_pairs_per_s": fit["samples_per_s"], "fit_s": fit["seconds"], "pairs_per_s": None}
        if n_scored:
            pairs = _pairs(workspace, n, n_scored)
            runs = [loid("score", str(pairs), "-d", domain, "-w", str(workspace)) for _ in range(3)]
            row["pairs_per_s"] = median([run["rows_per_s"] for run in runs])
        rows.append(row | {"network_share": fit["network_share"]})
        print(rows[-1], flush=True)
    save(
        "What do millions of reviews cost a head?",
        "size",
        rows,
        f"Synthetic reviews, 10 a user and 50 an item on average, {N_TEXTS:,} different texts, d = 384. Default "
        f"preset, {N_EPOCHS} epochs; `train_pairs_per_s`: of the network's training alone; `fit_s`: the whole command. "
        f"`pairs_per_s`: {n_pairs:,} random pairs scored from file to file, loading of the head included, median of 3.",
    )
    shutil.rmtree(workspace)


def _model(folder: Path) -> None:
    n_tokens = write_tokenizer(folder, "<s>", "</s>", [" ".join(WORDS)] * 5, 340)
    fields = SHAPE | {"vocab_size": n_tokens, "max_position_embeddings": 64}
    write_model(folder, "BertConfig", fields, lambda _: None)


def _reviews(workspace: Path, n: int) -> Path:
    rng = np.random.default_rng(0)
    users, items = _drawn(rng, n // 10, n), _drawn(rng, n // 50, n)
    texts = [" ".join(words) for words in rng.choice(WORDS, (N_TEXTS, 8))]
    chosen = rng.integers(0, N_TEXTS, n)
    effects = (rng.normal(0, 0.5, size)[of] for size, of in ((n // 10, users), (n // 50, items), (N_TEXTS, chosen)))
    ratings = np.clip(np.rint(3.5 + sum(effects) + rng.normal(0, 0.7, n)), 1, 5)
    columns = {
        "user_id": _ids("u", users),
        "item_id": _ids("i", items),
        "rating": pa.array(ratings.astype(np.float32)),
        "timestamp": pa.array(1_500_000_000 + np.arange(n)),
        "text": pa.array(texts).take(pa.array(chosen)),
    }
    path = workspace / "reviews.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def _pairs(workspace: Path, n: int, n_pairs: int) -> Path:
    rng = np.random.default_rng(1)
    columns = {"user_id": _ids("u", rng.integers(0, n // 10, n_pairs))}
    path = workspace / "pairs.parquet"
    pq.write_table(pa.table(columns | {"item_id": _ids("i", rng.integers(0, n // 50, n_pairs))}), path)
    return path


def _drawn(rng: np.random.Generator, size: int, n: int) -> np.ndarray:
    """`n` draws below `size`, the low numbers most often."""
    return (size * rng.random(n) ** 2).astype(np.int64)


def _ids(prefix: str, codes: np.ndarray) -> pa.Array:
    return pa.array(np.char.add(prefix, codes.astype(str)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
