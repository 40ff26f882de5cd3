"""An encoder or a decoder, as LoID's table 3 asks: MiniLM and SmolLM2 with plugins of their own, and heads on them.

python -m bench.backbones [N_REVIEWS] [SEEDS]       about half an hour a seed on two cores with 2,000 reviews
"""

import sys

import numpy as np

from bench.plugged import text_mse
from bench.record import compared, interval, loid, median, real_table, save
from bench.shapes import SMOLLM2, shape
from loid_infer.evaluation.rows import paired

MODELS = {"minilm": "MiniLM-L6 (encoder, cls)", SMOLLM2: "SmolLM2-135M (decoder, last)"}
MAX_TOKENS = 96
TRAINING = ("--epochs", "2", "--evals", "4")


def main(n_reviews: int = 2000, n_seeds: int = 3) -> None:
    place, _ = real_table("backbones", n_reviews)
    runs: dict[str, list[dict]] = {model: [] for model in MODELS}
    for seed in range(n_seeds):
        for model in MODELS:
            name, base = f"{model}-{seed}", shape(model)
            common = ("--base", base, "--name", name, "--max-tokens", str(MAX_TOKENS), "-w", str(place))
            trained = loid("plugin", "train", "-d", "reviews", "--split-seed", str(seed), *TRAINING, *common)
            loid("export", "--plugin", name, *common)
            encoded = loid("encode", "-d", "reviews", "-e", name, "-w", str(place))
            runs[model].append(
                {
                    "text_mse": text_mse(place, name),
                    "trained": trained["tokens_per_s"],
                    "encoded": encoded["tokens_per_s"],
                }
            )
            print(name, runs[model][-1], flush=True)
    asked = [option for model in MODELS for option in ("-e", f"{model}-{{seed}}")]
    summary = loid("evaluate", "-d", "reviews", "--seeds", str(n_seeds), *asked, "-w", str(place))["summary"]
    heads = dict(zip(MODELS, (row for _, row in compared(summary, "head") if row["model"] == "head"), strict=True))
    rows, first = [], np.array([run["text_mse"] for run in runs["minilm"]])
    for model, label in MODELS.items():
        errors = np.array([run["text_mse"] for run in runs[model]])
        mean, low, high = paired(errors - first, 1 / 8)
        rows.append(
            {
                "model": label,
                "text_mse": float(errors.mean()),
                "text_difference": round(mean, 4),
                "text_interval": interval(low, high),
                "head_mse": heads[model]["mse"],
                "head_difference": heads[model]["difference"],
                "head_interval": heads[model]["interval"],
                "train_tokens_per_s": median([run["trained"] for run in runs[model]]),
                "encode_tokens_per_s": median([run["encoded"] for run in runs[model]]),
            }
        )
    save(
        "An encoder or a decoder?",
        "backbones",
        rows,
        f"{n_reviews:,} Musical Instruments reviews, cut at {MAX_TOKENS} tokens, split seeds 0 to {n_seeds - 1}; "
        "plugins of rank 32 on all linear layers, 2 epochs, each trained on the training part of the split it is "
        "tested on. `text_mse`: of the plugin, which predicts a test rating from its own text; `head_mse`: of the head "
        "on its vectors, strict protocol, default preset; differences from MiniLM with their corrected 95 % intervals.",
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
