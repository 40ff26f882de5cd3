"""How fast is a plugin trained, against peft and transformers' Trainer? Real tokens a second, at which validation MSE.

python -m bench.train [N_REVIEWS] [EPOCHS]
"""

import json
import subprocess
import sys

from bench.record import ROOT, loid, median, real_table, save

LABELS = {"max_length": "peft + Trainer, fp32, padded to 256", "longest": "peft + Trainer, fp32, grouped by length"}


def main(n_reviews: int = 1500, epochs: int = 2) -> None:
    workspace, table = real_table("train", n_reviews)
    runs: dict[str, list[dict]] = {}
    for padding in (None, "longest", None, "max_length", None):
        if padding is None:
            runs.setdefault("loid-infer, bf16", []).append(_ours(workspace, epochs, "bf16"))
        else:
            runs.setdefault(LABELS[padding], []).append(_theirs(table, padding, epochs))
    runs["loid-infer, fp32"] = [_ours(workspace, epochs, "fp32")]
    speeds = {way: median([run["tokens_per_s"] for run in found]) for way, found in runs.items()}
    rows = [
        {
            "way": way,
            "tokens_per_s": speeds[way],
            "times_padded": speeds[way] / speeds[LABELS["max_length"]],
            "times_grouped": speeds[way] / speeds[LABELS["longest"]],
            "val_mse": found[0]["val_mse"],
            "rounds": len(found),
        }
        for way, found in runs.items()
    ]
    save(
        "How fast is a plugin trained?",
        "train",
        sorted(rows, key=lambda row: -row["tokens_per_s"]),
        f"LoRA of rank 32 on all six linear layers of MiniLM-L6, {epochs} epochs over the training part "
        f"of {n_reviews:,} Musical Instruments reviews; real tokens per second of training, without validation, "
        "medians. `val_mse`: after the last epoch, ratings' variance is about 0.8. Trainer: batches of 32, the same "
        "learning rate and schedule, dropout 0.1 inside the base; ours: batches of 4,096 tokens, no dropout.",
    )


def _ours(workspace, epochs: int, precision: str) -> dict:
    done = loid(
        "plugin",
        "train",
        "-d",
        "reviews",
        "--epochs",
        str(epochs),
        "--evals",
        "1",
        "--precision",
        precision,
        "-w",
        str(workspace),
    )
    return {"tokens_per_s": done["tokens_per_s"], "val_mse": done["val_mse"]}


def _theirs(table, padding: str, epochs: int) -> dict:
    command = [sys.executable, "-m", "bench.rivals.peft_trainer", str(table), padding, str(epochs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    return {"tokens_per_s": found["n_tokens"] / found["seconds"], "val_mse": found["val_mse"]}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
