"""Does a source plugin underneath help? Musical Instruments with and without one of Digital Music, three splits.

`python -m bench.relora [EPOCHS]`; about half an hour on two cores.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from bench.record import RESULTS, loid, needed_reviews, save, train_plugin, work_folder
from loid_infer.figures import Curve, learning_curves

SOURCE, TARGET = "digital_music", "musical_instruments"
SEEDS = (0, 1, 2)
EVALS = 8  # an epoch
SHARES = (0.8, 0.65, 0.54)  # of the variance of the validation ratings: how much of the task is left to learn


def main() -> None:
    epochs = sys.argv[1] if len(sys.argv) > 1 else "2"
    workspace = work_folder("relora")
    for domain in (SOURCE, TARGET):
        loid("ingest", str(needed_reviews(domain)), "-d", domain, "-w", str(workspace))
    rows = [_run(workspace, SOURCE, 0, epochs, source=False)]
    rows += [_run(workspace, TARGET, seed, epochs, source=source) for seed in SEEDS for source in (False, True)]
    for source in ("none", SOURCE):
        mine = [row for row in rows if row["plugin"] == TARGET and row["over"] == source]
        mean = {
            key: float(np.mean([row[key] for row in mine]))
            for key in mine[0]
            if all(_is_number(row[key]) for row in mine)
        }
        rows.append({**mine[0], **mean, "split": "mean"})
    _draw(workspace, rows)
    save(
        "What does a source plugin underneath change (re-LoRA)?",
        "relora",
        [{key: value for key, value in row.items() if key != "curve"} for row in rows],
        f"Predicting a rating from the review's own text, the task of plugin training; LoRA of rank 32 on all six "
        f"linear layers of MiniLM-L6, {epochs} epochs, {EVALS} validations per epoch, otherwise default settings. "
        "`ratio`: test MSE "
        "over the variance of the same test ratings. `steps_to_0.80` and so on: the first validation at or below "
        "that share of the variance of the validation ratings. The source plugin was trained on its own split 0. "
        "Curves: `relora.json`, `relora.png`.",
    )
    path = RESULTS / "relora.json"
    record = json.loads(path.read_text())
    record["curves"] = [{"split": row["split"], "over": row["over"], **row["curve"]} for row in rows[1:-2]]
    path.write_text(json.dumps(record, indent=1) + "\n")
    shutil.rmtree(workspace)


def _run(workspace: Path, domain: str, seed: int, epochs: str, *, source: bool) -> dict:
    name = f"{domain}-{seed}{'-over' if source else ''}"
    on = ("--on", f"{SOURCE}-0") if source else ()
    done = train_plugin(workspace, domain, name, seed, "--epochs", epochs, "--evals", str(EVALS), *on)
    history = json.loads((Path(done["path"]) / "curve.json").read_text())
    variance = _validation_variance(workspace, domain, seed)
    print(f"{name}: test {done['test_mse']:.4f} of {done['test_variance']:.4f}", file=sys.stderr, flush=True)
    return {
        "plugin": domain,
        "over": SOURCE if source else "none",
        "split": str(seed),
        "test_mse": done["test_mse"],
        "test_variance": done["test_variance"],
        "ratio": done["test_mse"] / done["test_variance"],
        "val_mse": done["val_mse"],
        **{f"steps_to_{share:.2f}": _steps_to(share * variance, history) for share in SHARES},
        "first_val_mse": history["eval_mse"][0],
        "steps": done["n_steps"],
        "curve": history,
    }


def _steps_to(error: float, history: dict) -> int | None:
    points = zip(history["eval_steps"], history["eval_mse"], strict=True)
    return next((step for step, found in points if found <= error), None)


def _validation_variance(workspace: Path, domain: str, seed: int) -> float:
    from loid_infer.data.reviews import open_table
    from loid_infer.data.splits import split
    from loid_infer.types import SILENT

    interactions = open_table(workspace / "data" / f"{domain}.parquet", domain).interactions(SILENT)
    return float(interactions.ratings[split(interactions, "random", seed).valid].var())


def _draw(workspace: Path, rows: list[dict]) -> None:
    curves = []
    for over, label in (("none", "over the base"), (SOURCE, f"over {SOURCE}")):
        histories = [row["curve"] for row in rows if row["plugin"] == TARGET and row["over"] == over][: len(SEEDS)]
        n = min(len(history["losses"]) for history in histories)
        m = min(len(history["eval_mse"]) for history in histories)
        curves.append(
            Curve(
                label,
                range(1, n + 1),
                np.mean([history["losses"][:n] for history in histories], 0).tolist(),
                np.mean([history["eval_steps"][:m] for history in histories], 0).tolist(),
                np.mean([history["eval_mse"][:m] for history in histories], 0).tolist(),
            )
        )
    variance = float(np.mean([_validation_variance(workspace, TARGET, seed) for seed in SEEDS]))
    learning_curves(
        RESULTS / "relora.png",
        f"{TARGET}: mean of split seeds 0 to {SEEDS[-1]}",
        curves,
        reference=("variance of the validation ratings", variance),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, float | int)


if __name__ == "__main__":
    main()
