"""Does it help to train the encoder for ranking? LLM-Rec with LoRA against its frozen self, and other heads on both.

    python -m bench.llmrec [SET [WORKSPACE]]      scientific; two hours on two cores

Parts that a WORKSPACE has already are not computed again. Needs the sequences beside the checkout (LOID_SHARED).
"""

import json
import sys
from pathlib import Path

from bench.ranking import COLD, ingested, interval, value
from bench.record import loid, save, saved_as, work_folder
from loid_infer.settings import Workspace

EPOCHS, EVALS = "2", "2"
FROZEN = "frozen"


def main(name: str = "scientific", folder: str | None = None) -> None:
    workspace = Workspace(Path(folder) if folder else work_folder(f"llmrec-{name}"))
    at = ("-w", str(workspace.root))
    domains = workspace.domains() or ingested(workspace.root, name)
    given = [part for domain in domains for part in ("-d", domain)]
    tuned = "_".join([*domains, "llmrec"])
    if not workspace.head(tuned).exists():
        print(loid("llmrec", "train", *given, "--pooling", "mean", "--epochs", EPOCHS, "--evals", EVALS, *at))
    if not workspace.encoder(FROZEN).exists():
        loid("export", "--name", FROZEN, "--pooling", "mean", *at)
    heads = {}
    for encoder in (FROZEN, tuned):
        for history in ("joined", "mean"):
            head = tuned if (encoder, history) == (tuned, "joined") else f"{encoder}-{history}"
            heads[head] = (encoder, f"texts alone, {history}")
            if not workspace.head(head).exists():
                options = ("--text-only", "--history", history, "--encoder", encoder, "--name", head)
                loid("llmrec", "fit", *given, *options, *at)
    chosen = [part for head in heads for part in ("--head", head)]
    result = loid("evaluate", *given, *chosen, "--candidates", "full", *at)
    metrics = json.loads((workspace.plugin(tuned) / "manifest.json").read_text())["metrics"]
    _save(name, heads, result, metrics, "" if len(domains) > 1 else domains[0])


def _save(name: str, heads: dict, result: dict, metrics: dict, domain: str) -> None:
    path = saved_as("llmrec")
    kept = [row for row in json.loads(path.read_text())["rows"] if row["set"] != name] if path.exists() else []
    rows = []
    for head, (encoder, kind) in heads.items():
        row = {"set": name, "encoder": "frozen" if encoder == FROZEN else "LoRA", "head": kind}
        row |= {part: value(result["summary"], head, part, domain=domain) for part in ("recall@10", "ndcg@10")}
        row["recall@10, 1 to 5 training interactions"] = value(result["groups"], head, "recall@10", group=COLD)
        reference = head.replace(encoder, FROZEN) if "-" in head else f"{FROZEN}-joined"
        against = [
            found
            for found in result["differences"]
            if (found["system"], found["reference"], found["metric"]) == (head, reference, "ndcg@10")
        ]
        bounds = [against[0][part] for part in ("difference", "low", "high")] if against else []
        rows.append(row | {"ndcg@10 minus frozen": interval(*bounds) if bounds else "-"})
    notes = (
        "Full ranking of the items of the target's domain without those of the history, leave-one-out, all users with "
        "three interactions; ties take their mean rank. MiniLM-L6 with mean pooling; LoRA of rank 16 on all linear "
        f"layers, {EPOCHS} epochs, {metrics['n_steps']:,} steps of 32 users, best after {metrics['best_step']:,}, "
        f"{metrics['tokens_per_s']:,.0f} tokens/s in {metrics['seconds'] / 60:,.0f} minutes beside other work. "
        "Intervals: 95 %, paired over users."
    )
    save("Does it help to train the encoder for ranking?", "llmrec", [*kept, *rows], notes)


if __name__ == "__main__":
    main(*sys.argv[1:])
