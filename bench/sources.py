"""Is a target domain better served over two merged source plugins than over one, or over none?

    python -m bench.sources [SEEDS]

On synthetic domains, since the real reviews at hand have one source only: two of 6,000 reviews teach, one of 1,500
learns. About four minutes a split on two cores.
"""

import shutil
import sys

import numpy as np

from bench.plugged import TRAINING, encoder, text_mse
from bench.record import compared, loid, save, work_folder

SOURCES, TARGET = ("electronics", "movies_tv"), "video_games"
BENEATH = {"none": (), **{name: (name,) for name in SOURCES}, "both, merged": ("both",)}


def main(n_seeds: int = 3) -> None:
    place = work_folder("sources")
    for domain in (*SOURCES, TARGET):
        n = "1500" if domain == TARGET else "6000"
        loid("sample", "--domain", domain, "--n-reviews", n, "-w", str(place))
    for domain in SOURCES:
        loid("plugin", "train", "-d", domain, "--name", domain, *TRAINING, "-w", str(place))
    loid("plugin", "merge", *SOURCES, "--name", "both", "--method", "dare_ties", "-w", str(place))
    names = {label: f"over-{(*on, 'none')[0]}-{{seed}}" for label, on in BENEATH.items()}
    for seed in range(n_seeds):
        for label, on in BENEATH.items():
            options = tuple(part for name in on for part in ("--on", name))
            encoder(place, TARGET, names[label].format(seed=seed), seed, options)
    asked = [part for name in names.values() for part in ("-e", name)]
    summary = loid("evaluate", "-d", TARGET, "--seeds", str(n_seeds), *asked, "-w", str(place))["summary"]
    heads = {name: row for name, row in compared(summary, "head") if row["model"] == "head"}
    rows = []
    for label, name in names.items():
        text = float(np.mean([text_mse(place, name.format(seed=seed)) for seed in range(n_seeds)]))
        rows.append({"text_mse": text, **heads[name], "model": f"over {label}"})
    save(
        "Does it help to merge two source plugins?",
        "sources",
        rows,
        f"Synthetic domains: plugins of {' and '.join(SOURCES)} (6,000 reviews each), alone or merged (DARE, then "
        f"TIES, density 0.8), under a plugin of {TARGET} (1,500 reviews); means of split seeds 0 to {n_seeds - 1}. "
        "`text_mse`: test MSE of predicting a rating from its own text; `mse`: of the head, strict protocol; "
        "`difference`: from the head without a source plugin, with its corrected 95 % interval.",
    )
    shutil.rmtree(place)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
