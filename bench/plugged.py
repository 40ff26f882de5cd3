"""What do plugins add to a head: the domain's own, one over another domain's, other ranks? And the paper's protocol.

    python -m bench.plugged [SEEDS] [WORKSPACE]

Every plugin knows the split it is tested on, so each split takes two trainings: about twelve minutes on two cores.
In a WORKSPACE that is given, what it holds already is kept and the run goes on from there.
"""

import json
import shutil
import sys
from pathlib import Path

from bench.record import compared, loid, needed_reviews, save, train_plugin, work_folder

SOURCE, TARGET = "digital_music", "musical_instruments"
TRAINING = ("--epochs", "2", "--evals", "8")
OWN = f"{TARGET}-{{seed}}"
KINDS = {"own plugin": (OWN, ()), "own plugin over digital_music": (f"{OWN}-over", ("--on", f"{SOURCE}-0"))}
RANKS = {16: f"{TARGET}-0-r16", 32: f"{TARGET}-0", 48: f"{TARGET}-0-r48"}  # of split 0 alone


def main(n_seeds: int = 3, workspace: str | None = None) -> None:
    place = Path(workspace) if workspace else work_folder("plugged")
    for domain in (SOURCE, TARGET):
        if not (place / "data" / f"{domain}.parquet").exists():
            loid("ingest", str(needed_reviews(domain)), "-d", domain, "-w", str(place))
    loid("encode", "-d", TARGET, "-w", str(place))
    train(place, SOURCE, f"{SOURCE}-0", 0)
    for seed in range(n_seeds):
        for name, options in KINDS.values():
            encoder(place, TARGET, name.format(seed=seed), seed, options)
    asked = [option for name, _ in KINDS.values() for option in ("-e", name)]
    common = ("-d", TARGET, "--seeds", str(n_seeds), "-w", str(place))
    strict = loid("evaluate", *common, "-e", "base", *asked)
    labels = {"base": "frozen base", **{name: label for label, (name, _) in KINDS.items()}}
    save(
        "What do plugins add to a head?",
        "plugged",
        [row | {"model": labels[name]} for name, row in compared(strict["summary"], "head") if row["model"] == "head"],
        f"Test MSE on Musical Instruments, strict protocol, default preset, split seeds 0 to {n_seeds - 1}; plugins on "
        "all six linear layers, 2 epochs, each trained on the training part of the split it is tested on. "
        "`difference`: from the head of the frozen base, with its corrected 95 % interval.",
    )
    seen = loid("evaluate", *common, "-e", OWN, "--protocol", "paper")
    save(
        "What does it change that the paper's histories may hold the review to be rated?",
        "paper",
        [row for _, row in compared(seen["summary"], "head")],
        f"Test MSE on Musical Instruments with its own plugin (rank 32), split seeds 0 to {n_seeds - 1}. `head` "
        "samples histories as the paper does, the target review included; `difference`: from that head, with its "
        "corrected 95 % interval.",
    )
    _ranks(place)
    if not workspace:
        shutil.rmtree(place)


def _ranks(place: Path) -> None:
    rows = []
    for rank, name in RANKS.items():
        encoder(place, TARGET, name, 0, ("--rank", str(rank)))
        summary = loid("evaluate", "-d", TARGET, "--seeds", "1", "-e", name, "-w", str(place))["summary"]
        head = next(row["mse"] for _, row in compared(summary, "head") if row["model"] == "head")
        rows.append({"rank": rank, "text_mse": text_mse(place, name), "head_mse": head})
    save(
        "What does the rank of a plugin change?",
        "rank",
        rows,
        "Musical Instruments, split seed 0. `text_mse`: test MSE of predicting a rating from its own text; `head_mse`: "
        "of the head, strict protocol, default preset.",
    )


def train(place: Path, domain: str, name: str, seed: int, options: tuple[str, ...] = ()) -> None:
    """The plugin, trained on split `seed`, unless it is there."""
    if not (place / "exports" / "plugins" / name).exists():
        train_plugin(place, domain, name, seed, *TRAINING, *options)


def encoder(place: Path, domain: str, name: str, seed: int, options: tuple[str, ...]) -> None:
    """The plugin, its encoder and the domain's vectors, as far as they are not there."""
    train(place, domain, name, seed, options)
    if not (place / "exports" / "encoders" / name).exists():
        loid("export", "--plugin", name, "--name", name, "-w", str(place))
    loid("encode", "-d", domain, "-e", name, "-w", str(place))


def text_mse(place: Path, name: str) -> float:
    """Test MSE of the plugin, which predicts a rating from its own text."""
    return json.loads((place / "exports" / "plugins" / name / "manifest.json").read_text())["metrics"]["test_mse"]


if __name__ == "__main__":
    main(*(kind(value) for kind, value in zip((int, str), sys.argv[1:3], strict=False)))
