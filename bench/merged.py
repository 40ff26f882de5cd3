"""Does it help to merge the domains of a user? Rankers of one domain against rankers of both, on the same targets.

    python -m bench.merged [SET[:USERS] [HEAD...]]     food_kitchen | four; two minutes, hours for trained heads

With USERS the set has so many users of each of its files. Rows of other heads in the result are kept.

LLM-Rec (arXiv 2310.14304) says that merging by IDs hurts and merging by texts helps. Both kinds of rankers get the same
split (leave-one-out over all domains, by time or position); those of one domain see its interactions and targets only.
"""

import sys
import time

import numpy as np

from bench.ranking import ingested, interval
from bench.record import save, saved_rows, work_folder
from loid_infer.data.sequences import split_sequences, within
from loid_infer.evaluation.ranking import measured
from loid_infer.evaluation.rows import paired
from loid_infer.rankers.models import fit_model
from loid_infer.rankers.ranking import target_ranks
from loid_infer.rankers.settings import RankOptions
from loid_infer.rankers.texts import TextVectors
from loid_infer.settings import TEMPLATE, Workspace, wait_briefly
from loid_infer.types import SILENT
from loid_infer.verbs.encoder import resolve_or_export
from loid_infer.verbs.sequences import encode_items, item_texts, read_sequences, stored

MODELS = ("sasrec", "sequence", "sequence+id", "text", "cooccurrence")
OPTIONS = RankOptions(trials=1)


def main(name: str = "food_kitchen", *models: str) -> None:
    wait_briefly()
    of_set, _, users = name.partition(":")
    workspace = Workspace(work_folder(f"merged-{of_set}"))
    domains = ingested(workspace.root, of_set, int(users or 0))
    sequences = read_sequences(workspace, domains, 0, SILENT)
    split = split_sequences(sequences, "leave-one-out")
    texts = item_texts(workspace, sequences, TEMPLATE, SILENT)
    folder, _ = resolve_or_export(workspace, None, domains[0], None, SILENT)
    encode_items(workspace, sequences, texts, folder, SILENT)
    vectors = stored(workspace, folder.spec, folder.fingerprint, "")(texts.digests)
    of_item = sequences.item_domains[sequences.items]
    of_target, of_last = of_item[split.test.at], of_item[split.test.at - 1]
    chosen = models or MODELS
    kept = saved_rows("merged")
    rows = [row for row in kept if row["set"] != name or row["head"] not in chosen]
    for model in chosen:
        given = None if model in ("sasrec", "cooccurrence") else TextVectors(vectors, texts.has_text)
        start = time.perf_counter()
        merged = fit_model(model, sequences, split, OPTIONS, given, seed=0, progress=SILENT)
        together = measured(target_ranks(merged.ranker, sequences, split.test))["ndcg@10"]
        seconds = time.perf_counter() - start
        for number, domain in enumerate(sequences.domains):
            low, high = sequences.bounds[number], sequences.bounds[number + 1]
            only, part = within(sequences, split, domain)
            own = None if given is None else TextVectors(vectors[low:high], texts.has_text[low:high])
            single = fit_model(model, only, part, OPTIONS, own, seed=0, progress=SILENT)
            alone = measured(target_ranks(single.ranker, only, part.test))["ndcg@10"]
            both = together[of_target == number]
            row = {"set": name, "targets in": domain, "head": model, "users": len(alone)}
            row["after an item of another domain"] = float(np.mean((of_last != number)[of_target == number]))
            row |= {"single ndcg@10": float(np.mean(alone)), "merged ndcg@10": float(np.mean(both))}
            rows.append(row | {"merged minus single": interval(*paired(both - alone)), "merged fit_s": seconds})
            print(rows[-1], flush=True)
    save(
        "Does it help to merge the domains of a user?",
        "merged",
        rows,
        "Leave-one-out over all domains of the set, by time in food_kitchen; in four (Scientific, Games, Arts, Office) "
        "by position, so that the order between domains is artificial, and few users have several. Full ranking of the "
        "items of the target's domain. Rankers of one domain see only its interactions, with the same targets. Default "
        "settings, one trial. 95 % intervals, paired. `four:1500`: the first 1,500 users of each of its three files. "
        "`after an item of another domain`: the share of targets.",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
