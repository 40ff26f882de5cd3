"""Does it help to train the encoder for ranking? LLM-Rec with LoRA against its frozen self, and other heads on both.

    python -m bench.llmrec [SET [BASE [USERS]]]      scientific default; two hours on two cores

BASE: default, or smollm2-135m. USERS: so many of the users, with their items. Rows of other sets, bases and numbers of
users in the result are kept. Needs the sequences beside the checkout (LOID_SHARED).
"""

import json
import sys

from bench.ranking import COLD, ingested, interval, value
from bench.record import loid, save, saved_rows, work_folder
from bench.shapes import shape
from loid_infer.settings import Workspace

# Pooling, epochs and users of a step.
MODELS = {"default": ("MiniLM-L6", "mean", "2", "32"), "smollm2-135m": ("SmolLM2-135M", "last", "3", "16")}
EVALS = "2"
FROZEN = "frozen"


def main(name: str = "scientific", base: str = "default", users: str = "0") -> None:
    workspace = Workspace(work_folder(f"llmrec-{name}"))
    at = ("-w", str(workspace.root))
    domains = ingested(workspace.root, name, int(users))
    given = [part for domain in domains for part in ("-d", domain)]
    tuned = "_".join([*domains, "llmrec"])
    _, pooling, epochs, batch = MODELS[base]
    model = ("--base", base if base == "default" else str(shape(base)), "--pooling", pooling)
    print(
        loid("llmrec", "train", *given, *model, "--epochs", epochs, "--batch", batch, "--evals", EVALS, *at), flush=True
    )
    loid("export", "--name", FROZEN, *model, *at)
    heads = {}
    for encoder in (FROZEN, tuned):
        for history in ("joined", "mean"):
            head = tuned if (encoder, history) == (tuned, "joined") else f"{encoder}-{history}"
            heads[head] = (encoder, f"texts alone, {history}")
            if head != tuned:
                options = ("--text-only", "--history", history, "--encoder", encoder, "--name", head)
                loid("llmrec", "fit", *given, *options, *at)
    chosen = [part for head in heads for part in ("--head", head)]
    result = loid("evaluate", *given, *chosen, "--candidates", "full", *at)
    metrics = json.loads((workspace.plugin(tuned) / "manifest.json").read_text())["metrics"]
    part = name if users == "0" else f"{name}, {int(users):,} users"
    _save(part, base, heads, result, metrics, "" if len(domains) > 1 else domains[0])


def _save(name: str, base: str, heads: dict, result: dict, metrics: dict, domain: str) -> None:
    own = {"set": name, "base": MODELS[base][0]}
    kept = [row for row in saved_rows("llmrec") if not own.items() <= row.items()]
    rows = []
    for head, (encoder, kind) in heads.items():
        trained = {"encoder": "frozen", "steps": None, "trained tokens/s": None}
        if encoder != FROZEN:
            trained = {"encoder": "LoRA", "steps": metrics["best_step"], "trained tokens/s": metrics["tokens_per_s"]}
        row = {**own, **trained, "head": kind}
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
    used = {row["base"] for row in (*kept, *rows)}
    bases = [
        f"{model} with {pool} pooling, {epochs} epochs in steps of {batch} users"
        for model, pool, epochs, batch in MODELS.values()
        if model in used
    ]
    notes = (
        "Full ranking of the items of the target's domain without those of the history, leave-one-out, all users with "
        f"three interactions; ties take their mean rank. {'; '.join(bases)}. "
        "LoRA of rank 16 on all linear layers, beside other work. "
        "Of a part of the users only their own items are ranked, so its figures are higher. "
        "Intervals: 95 %, paired over users."
    )
    save("Does it help to train the encoder for ranking?", "llmrec", [*kept, *rows], notes)


if __name__ == "__main__":
    main(*sys.argv[1:])
