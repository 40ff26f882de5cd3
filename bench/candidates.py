"""One film among twenty: heads on labeled pairs on MovieLens-100K by BDLM's protocol, leave-one-out with 19 negatives.

    python -m bench.candidates [USERS [SAMPLES [BDLM...]]]   bdlm no-joint random-tokens no-tokens choose; none: minutes
    python -m bench.candidates popular      the collaborative heads with negatives of training drawn by popularity

Half of the negatives are popular, half have titles near the target's. Each BDLM reads SAMPLES training pairs and the
test pairs of USERS users (0: all). With SmolLM2-135M on one core with AVX512-BF16 1,000 training pairs take three
minutes, and the test pairs of 100 users eight. The result is saved after each; rows of other numbers of users, and of
systems that are not run, are kept. Needs the data beside the checkout (LOID_SHARED).
"""

import sys
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.record import interval, real_data, save, saved_rows, work_folder
from bench.shapes import SMOLLM2, shape
from loid_infer import bdlm_fit, bdlm_pairs, cf_fit_clicks, evaluate_clicks, ingest_implicit, ingest_items
from loid_infer.cli.terminal import People
from loid_infer.clicks.comparison import ClickRow
from loid_infer.clicks.settings import BdlmSettings
from loid_infer.rankers.settings import RankOptions
from loid_infer.settings import Workspace, wait_briefly
from loid_infer.verbs.drawing import DrawResult

DOMAIN, CF = "films", ("mf", "ncf", "lightgcn")
VARIANTS = {
    "bdlm": {},
    "no-joint": {"joint": 0.0},
    "random-tokens": {"random_tokens": True},
    "no-tokens": {"no_tokens": True},
    "choose": {"task": "choose"},
}
TRIALS = 1  # settings that each collaborative model tries; six take an hour on a slow core
KEYS = ("training", "users", "system")
METRICS = ("hr@1", "hr@2", "precision", "recall", "f1")


def main(users: str = "0", samples: str = "1024", *variants: str) -> None:
    wait_briefly()
    workspace = Workspace(work_folder("candidates"))
    _ingest(workspace)
    training, n = ("popular", None) if users == "popular" else ("even", int(users) or None)
    drawn = bdlm_pairs(DOMAIN, training=training, users=n, workspace=workspace, progress=People(quiet=False))
    shared = {"workspace": workspace, "progress": People(quiet=False)}
    for model in CF:
        cf_fit_clicks(DOMAIN, model=model, name=model, settings=RankOptions(dim=64, trials=TRIALS), **shared)
    _save(drawn, training, 0, shared)
    for variant in variants:
        settings = BdlmSettings(samples=int(samples), epochs=1, layers=10, **VARIANTS[variant])
        made = bdlm_fit(
            DOMAIN, base=shape(SMOLLM2), cf="lightgcn", name=variant, settings=settings, title_tokens=16, **shared
        )
        print(made, flush=True)
        _save(drawn, training, made.n_train, shared)  # each takes long


def _save(drawn: DrawResult, training: str, samples: int, shared: dict[str, Any]) -> None:
    result = evaluate_clicks(DOMAIN, **shared)
    systems = result.by_system()
    rows = [
        {
            "training": training,
            "users": drawn.n_tested,
            "system": name,
            "prompts": samples if name.startswith(tuple(VARIANTS)) else None,
        }
        | {metric: _said(of_system.get(metric)) for metric in METRICS}
        | {"hr@1 minus lightgcn": _minus(result.differences, name)}
        for name, of_system in systems.items()
    ]
    own = {tuple(row[key] for key in KEYS) for row in rows}
    kept = [row for row in saved_rows("candidates") if tuple(row[key] for key in KEYS) not in own]
    save(
        "Which of twenty films did a user see next?",
        "candidates",
        sorted([*kept, *rows], key=lambda row: (row["training"], -row["users"])),
        "MovieLens-100K, the last film of all or some users among 19 that they never saw (chance of a hit at "
        "1: .05), 10 by popularity and 9 from the 50 nearest titles; every training film with one other, drawn evenly "
        "or by popularity (`training`). "
        "Precision, recall and F1 of that film and one other, at the threshold that is best on validation. "
        f"Collaborative heads: width 64, {TRIALS} setting. BDLM: SmolLM2-135M, top 10 layers, so many prompts, one "
        "epoch, over LightGCN; choose: one prompt lists all twenty films. 95 % intervals over users.",
    )


def _said(row: ClickRow | None) -> str:
    return "-" if row is None else f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f})"


def _minus(differences: tuple[ClickRow, ...], name: str) -> str:
    found = [row for row in differences if (row.system, row.reference, row.metric) == (name, "lightgcn", "hr@1")]
    return f"{found[0].value:+.3f} ({interval(found[0].low, found[0].high)})" if found else "-"


def _ingest(workspace: Workspace) -> None:
    table = pq.read_table(real_data() / "movielens_100k.parquet")
    parts = pc.split_pattern(table["text"].cast(pa.string()), " | ", max_splits=1)
    films = (
        pa.table({"item_id": table["item_id"], "title": pc.list_element(parts, 0)})
        .group_by("item_id")
        .aggregate([("title", "first")])
    )
    pq.write_table(films.rename_columns(["item_id", "title"]), workspace.root / "films.parquet")
    pq.write_table(table.select(["user_id", "item_id", "timestamp"]), workspace.root / "seen.parquet")
    ingest_implicit([workspace.root / "seen.parquet"], DOMAIN, workspace=workspace)
    ingest_items([workspace.root / "films.parquet"], DOMAIN, workspace=workspace)


if __name__ == "__main__":
    main(*sys.argv[1:])
