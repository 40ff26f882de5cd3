"""Does each head on labeled pairs find what was planted for it? Interactions know one half of them, titles the other.

    python -m bench.planted_labels     five seeds, five minutes on a core

A decoder of three layers with random weights, so that nothing is known of language but what training teaches.
"""

from typing import Any

import numpy as np

from bench.record import save, work_folder
from loid_infer import bdlm_fit, cf_fit_clicks, cora_fit, cora_train, evaluate_clicks
from loid_infer.clicks.settings import AnswerSettings, BdlmSettings, CoraSettings
from loid_infer.clicks.training import auc
from loid_infer.evaluation.rows import paired
from loid_infer.rankers.settings import RankOptions
from loid_infer.settings import Workspace, wait_briefly
from tests.clicks.test_bdlm import TEMPLATE as WITH_IDS
from tests.clicks.test_cora import TEMPLATE, make_decoder
from tests.clicks.worlds import two_parts, write_pairs

SEEDS = 5
CF = RankOptions(dim=8, epochs=30, patience=30, learning_rate=2e-2, weight_decay=5.0, averaging=0.9)
LEARNED = {"epochs": 8, "learning_rate": 1e-2, "precision": "fp32", "max_tokens": 48, "batch_tokens": 1024, "rank": 4}
CORA = {"dim": 16, "queries": 4, "blocks": 1}
HEADS = {  # what each is called, what could be known at best, and the head
    "mf": ("interactions", "d-mf-clicks"),
    "tallrec": ("titles", "d-tallrec"),
    "cora": ("both", "d-cora-mf"),
    "cora, nothing hidden": ("both", "shown"),
    "bdlm, decoder": ("both", "bdlm-llm"),
    "bdlm, collaborative": ("both", "bdlm-drs"),
    **{
        f"bdlm, {side}, {what}": ("both", f"bdlm-{number}-{short}")
        for number, what in enumerate(("apart", "random tokens", "no tokens", "nothing hidden"))
        for side, short in (("decoder", "llm"), ("collaborative", "drs"))
    },
}
ABLATIONS: tuple[dict[str, Any], ...] = ({"joint": 0.0}, {"random_tokens": True}, {"no_tokens": True}, {"hidden": 0.0})


def main() -> None:
    wait_briefly()
    root = work_folder("planted-labels")
    base = str(make_decoder(root / "base", tie_word_embeddings=True))
    optima: dict[str, list[float]] = {}
    reached: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        workspace = Workspace(root / str(seed))
        rows, titles, by_ids, by_titles = two_parts(seed=seed)
        write_pairs(workspace, "d", rows, titles)
        labels = np.array([row[2] > 0 for row in rows if row[4] == "test"])
        known = {"interactions": by_ids, "titles": by_titles, "both": np.where(by_ids == 0.5, by_titles, by_ids)}
        for what, scores in known.items():
            optima.setdefault(what, []).append(auc(scores, labels))
        shared = {"base": base, "prompt": TEMPLATE, "workspace": workspace}
        cf_fit_clicks("d", settings=CF, workspace=workspace)
        cora_train("d", settings=AnswerSettings(**LEARNED), **shared)
        cora_fit("d", settings=CoraSettings(**LEARNED, **CORA), **shared)
        cora_fit("d", settings=CoraSettings(**LEARNED, **CORA, hidden=0.0), name="shown", **shared)
        asked = {"base": base, "workspace": workspace}
        bdlm_fit("d", settings=BdlmSettings(**LEARNED), prompt=WITH_IDS, name="bdlm", **asked)
        for number, ablation in enumerate(ABLATIONS):
            prompt = TEMPLATE if "no_tokens" in ablation else WITH_IDS
            bdlm_fit("d", settings=BdlmSettings(**LEARNED, **ablation), prompt=prompt, name=f"bdlm-{number}", **asked)
        summary = evaluate_clicks("d", workspace=workspace).summary
        found = {row.system: row.value for row in summary if row.metric == "auc"}
        for name, (_, head) in HEADS.items():
            reached.setdefault(name, []).append(found[head])
    table = []
    for name, (what, _) in HEADS.items():
        row: dict[str, Any] = {
            "head": name,
            "knows": what,
            "auc": float(np.mean(reached[name])),
            "optimum": float(np.mean(optima[what])),
        }
        row["share of the optimum"] = (row["auc"] - 0.5) / (row["optimum"] - 0.5)
        for other in ("mf", "tallrec"):
            mean, low, high = paired(np.array(reached[name]) - np.array(reached[other]))
            row[f"minus {other}"] = f"{mean:+.4f} ({low:+.4f} to {high:+.4f})" if name != other else None
        table.append(row)
        print(row, flush=True)
    save(
        "Does each head on labeled pairs find what was planted for it?",
        "planted_labels",
        table,
        f"{SEEDS} synthetic sets of 60 users and 2,160 pairs (`sample --implicit`, in fewer words): of one half of "
        "test pairs only interactions know the probability of the label, of the other half only titles; a tenth of "
        "the labels is turned. The optimum is the AUC of the true probabilities; its share counts from 0.5. "
        "Intervals: 95 %, over the sets.",
    )


if __name__ == "__main__":
    main()
