"""What do many reviews cost a head? Fit on a tenth of them and on all, and score pairs; score by a head of many more.

Synthetic reviews: ten a user and fifty an item on average, ratings of user, item and text, a hundred thousand different
texts, vectors of width 384 by a small model with random weights. The head of N_LARGE reviews is not fitted: it has the
weights of the one before, random biases and ID embeddings, and its network's share is 0 and .25.

    python -m bench.size [N_REVIEWS] [N_PAIRS] [N_LARGE]       the defaults take ten minutes on two cores
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import structs

from bench.record import loid, median, save, work_folder
from tests.families import write_model, write_tokenizer

N_TEXTS, N_EPOCHS = 100_000, 2
WORDS = [f"{first}{last}" for first in ("ba", "de", "fi", "go", "hu", "ly") for last in ("m", "n", "r", "s", "t", "x")]
SHAPE = {"hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 6, "intermediate_size": 384}


def main(n_reviews: int = 1_000_000, n_pairs: int = 1_000_000, n_large: int = 10_000_000) -> None:
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
        row = {"reviews": n, "train_pairs_per_s": fit["samples_per_s"], "fit_s": fit["seconds"]}
        scored = _scored(workspace, domain, n, n_scored) if n_scored else dict.fromkeys(("open_s", "pairs_per_s"))
        rows.append(row | scored | {"network_share": fit["network_share"]})
        print(rows[-1], flush=True)
    for share in (0.0, 0.25):
        _large(workspace, n_large, share)
        row = {"reviews": n_large, "train_pairs_per_s": None, "fit_s": None}
        rows.append(row | _scored(workspace, "large", n_large, n_pairs) | {"network_share": share})
        print(rows[-1], flush=True)
    save(
        "What do millions of reviews cost a head?",
        "size",
        rows,
        f"Synthetic reviews, 10 a user and 50 an item on average, {N_TEXTS:,} different texts, d = 384. Default "
        f"preset, {N_EPOCHS} epochs; `train_pairs_per_s`: of the network's training alone; `fit_s`: the whole command. "
        f"`open_s`: loading of the head; `pairs_per_s`: {n_pairs:,} random pairs scored from file to file after "
        f"that, medians of 3. The head of {n_large:,} reviews is made up, not fitted.",
    )
    shutil.rmtree(workspace)


def _scored(workspace: Path, head: str, n_reviews: int, n_pairs: int) -> dict:
    """Seconds to load the head, and pairs a second from then on."""
    pairs = _pairs(workspace, n_reviews, n_pairs)
    runs = [loid("score", str(pairs), "--head", head, "-w", str(workspace)) for _ in range(3)]
    rates = [n_pairs / (run["seconds"] - run["opening_s"]) for run in runs]
    return {"open_s": median([run["opening_s"] for run in runs]), "pairs_per_s": median(rates)}


def _large(workspace: Path, n: int, share: float) -> None:
    """Write the head `large` of `n` reviews, from the weights and texts of the head `all`."""
    from loid_infer.heads.loid import LoidNet
    from loid_infer.heads.saved import load_head, save_head
    from loid_infer.learning.loop import History
    from loid_infer.types import NO_TIME, Interactions

    rng, n_users, n_items = np.random.default_rng(0), n // 10, n // 50
    saved = load_head(workspace / "exports" / "heads" / "all", "")
    head, known = saved.head, saved.reviews
    keys = rng.permutation(np.unique(_drawn(rng, n_users, n) * n_items + _drawn(rng, n_items, n)))
    reviews = Interactions(
        user_ids=_ids("u", np.arange(n_users)).to_pylist(),
        item_ids=_ids("i", np.arange(n_items)).to_pylist(),
        users=keys // n_items,
        items=keys % n_items,
        ratings=rng.integers(1, 6, len(keys)).astype(np.float32),
        timestamps=np.full(len(keys), NO_TIME),
        texts=rng.integers(0, len(known.digests), len(keys)),
        digests=known.digests,
        empty=known.empty,
        rating_range=known.rating_range,
        digest=known.digest,
    )
    net = LoidNet(head.settings, n_users, n_items, len(head.scale.center), head.scale.token_dim)
    weights = {
        name: part for name, part in head.net.state_dict().items() if name not in ("users.weight", "items.weight")
    }
    net.load_state_dict(weights, strict=False)
    biases = (np.append(rng.normal(0, 0.3, size), 0) for size in (n_users, n_items))
    foundation = replace(head.foundation, **dict(zip(("user_bias", "item_bias"), biases, strict=True)))
    report = structs.asdict(saved.manifest) | {"head": "large"}
    train = rng.random(len(keys)) < 0.8
    folder = workspace / "exports" / "heads" / "large"
    save_head(folder, replace(head, net=net, foundation=foundation, share=share), reviews, train, History(), report)


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
    main(*map(int, sys.argv[1:4]))
