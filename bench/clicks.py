"""Do collaborative signals and a language model know more together? Heads on CoLLM's split of MovieLens-1M.

    python -m bench.clicks mf ncf lightgcn sasrec     six settings each; ten minutes on a core, most of them for sasrec
    python -m bench.clicks text      SmolLM2-135M on titles alone, without training
    python -m bench.clicks tallrec   the same with LoRA
    python -m bench.clicks cora      SmolLM2-135M with increments from MF; each an hour on a core
    python -m bench.clicks evaluate  all heads that there are; half an hour a decoder

Needs the data beside the checkout (LOID_SHARED) and the real weights of bench/shapes.py. Heads are kept in a work
folder between the parts; the result has the figures of all there are.
"""

import sys
from dataclasses import replace

import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.record import WORK, real_data, save
from bench.shapes import SMOLLM2, shape
from loid_infer import cf_fit_clicks, cora_fit, cora_train, evaluate_clicks, ingest_clicks, ingest_items
from loid_infer.cli.terminal import People
from loid_infer.clicks.nets import MODELS
from loid_infer.clicks.settings import AnswerSettings, CoraSettings
from loid_infer.rankers.settings import RankOptions
from loid_infer.settings import Workspace, wait_briefly

DOMAIN = "movielens"
CF = RankOptions(dim=64, trials=6)
LEARNED = {"layers": 10, "samples": 8_192, "epochs": 1, "evals": 4}
PUBLISHED = {  # CoRA (arXiv 2408.10645): AUC and UAUC, with a decoder of 7 billion parameters where there is one
    "mf": (0.6486, 0.6396),
    "lightgcn": (0.5858, 0.6512),
    "sasrec": (0.7005, 0.6734),
    "tallrec": (0.7044, 0.6741),
    "cora": (0.7361, 0.6884),
}


def main(*parts: str) -> None:
    wait_briefly()
    workspace, shown = Workspace(WORK / "clicks"), {"progress": People(quiet=False)}
    workspace.root.mkdir(parents=True, exist_ok=True)
    if not workspace.clicks(DOMAIN).exists():
        _ingest(workspace)
    shared = {"workspace": workspace, **shown}
    for model in MODELS:
        if model in parts:
            options = replace(CF, max_length=10) if model == "sasrec" else CF
            cf_fit_clicks(DOMAIN, model=model, name=model, settings=options, **shared)
    base = shape(SMOLLM2) if {*parts} & {"text", "tallrec", "cora"} else ""
    if "text" in parts:
        cora_fit(DOMAIN, text_only=True, base=base, name="text", **shared)
    if "tallrec" in parts:
        cora_train(DOMAIN, base=base, name="tallrec", settings=AnswerSettings(**LEARNED), **shared)
    if "cora" in parts:
        cora_fit(DOMAIN, cf="mf", base=base, name="cora", settings=CoraSettings(**LEARNED), **shared)
    if "evaluate" in parts:
        _save(evaluate_clicks(DOMAIN, **shared))


def _save(found) -> None:
    save("Do collaborative signals and a language model know more together?", "clicks", _rows(found), NOTES)


def _rows(found) -> list[dict]:
    rows = []
    values = {(row.system, row.metric): row for row in found.summary}
    for system in dict.fromkeys(row.system for row in found.summary):
        row = {"system": system}
        for metric in ("auc", "uauc"):
            of = values[system, metric]
            row |= {metric: of.value, f"{metric} 95 %": f"{of.low:.4f} to {of.high:.4f}"}
        for row_ in found.differences:
            if row_.system == system and row_.reference in ("mf", "item mean"):
                row[f"{row_.metric} minus {row_.reference}"] = (
                    f"{row_.value:+.4f} ({row_.low:+.4f} to {row_.high:+.4f})"
                )
        published = PUBLISHED.get(system, (None, None))
        rows.append(row | {"published auc": published[0], "published uauc": published[1]})
    return rows


NOTES = "x"


def _ingest(workspace: Workspace) -> None:
    table = pq.read_table(real_data() / "sequences" / "movielens_1m_collm.parquet")
    pairs = workspace.root / "pairs.parquet"
    pq.write_table(table.filter(pc.not_equal(table["split"], "valid_small")), pairs)  # a part of `valid`
    ingest_clicks([pairs], DOMAIN, workspace=workspace)
    ingest_items([pairs], DOMAIN, workspace=workspace)
    pairs.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
