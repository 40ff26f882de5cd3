"""Do titles help to predict the next item? Heads on interactions, on stored vectors of titles, and on both.

    python -m bench.ranking [TRIALS] SET... [HEAD...]      of `FILES` and `HEADS`; 10 to 60 minutes a set on two cores

At most TRIALS settings of each head are tried on validation, by default 2. With some HEADs only these are fitted, and
sasrec to compare them with. Rows of other sets and heads in the result are kept. Needs the sequences beside the
checkout (LOID_SHARED).
"""

import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.record import loid, real_data, save, saved_rows, work_folder

FILES = {
    "scientific": ("scientific_2018.parquet",),
    "games": ("games_2018.parquet",),
    "food_kitchen": ("food_kitchen_2014.parquet",),
    "arts_office": ("arts_office_2018.parquet",),
    "movielens": ("movielens_1m_half.parquet",),  # without a column of domains
}
FILES["four"] = FILES["scientific"] + FILES["games"] + FILES["arts_office"]
SETS = ("scientific", "games", "food_kitchen")
HEADS = {
    "popularity": ("cf", "--model", "popularity"),
    "recent": ("cf", "--model", "recent"),
    "cooccurrence": ("cf", "--model", "cooccurrence"),
    "mf": ("cf", "--model", "mf"),
    "lightgcn": ("cf", "--model", "lightgcn"),
    "sasrec": ("cf", "--model", "sasrec"),
    "text": ("llmrec", "--text-only"),
    "sequence": ("llmrec", "--head", "sequence"),
    "sequence+id": ("llmrec", "--head", "sequence+id"),
}
COLD = "training interactions of the item=1 to 5"


def main(*arguments: str) -> None:
    trials = arguments[0] if arguments[:1] and arguments[0].isdecimal() else "2"
    unknown = [name for name in arguments if not (name.isdecimal() or name in FILES or name in HEADS)]
    if unknown:
        raise SystemExit(f"neither a set nor a head: {', '.join(unknown)}")
    chosen = [name for name in arguments if name in HEADS] or [*HEADS]
    for name in [name for name in arguments if name in FILES] or SETS:
        workspace = work_folder(f"ranking-{name}")
        domains = ingested(workspace, name)
        given = [part for domain in domains for part in ("-d", domain)]
        fits = {}
        for group, *options in (HEADS[model] for model in HEADS if model in (*chosen, "sasrec")):
            fit = loid(group, "fit", *given, *options, "--trials", trials, "-w", str(workspace))
            fits[fit["head"]] = fit
            print({key: fit[key] for key in ("head", "val", "epochs", "sequences_per_s", "seconds")}, flush=True)
        _save(name, chosen, fits, loid("evaluate", *given, "--candidates", "full", "-w", str(workspace)))
        shutil.rmtree(workspace)


def ingested(workspace: Path, name: str, users: int = 0) -> list[str]:
    """The domains of a set, each with its table of interactions and its items; of so many `users`, 0: of all."""
    domains = []
    for file in FILES[name]:
        table = pq.read_table(real_data() / "sequences" / file)
        if users:
            table = table.filter(pc.is_in(table["user_id"], pc.unique(table["user_id"])[:users]))
        if "domain" not in table.column_names:
            table = table.append_column("domain", pa.array([name] * len(table)))
        for domain in sorted(pc.unique(table["domain"]).to_pylist()):
            slug = domain.lower().replace(" ", "_")
            path = workspace / f"{slug}.parquet"
            pq.write_table(table.filter(pc.equal(table["domain"], pa.scalar(domain))), path)
            for kind in ("--implicit", "--items"):
                loid("ingest", str(path), "-d", slug, kind, "-w", str(workspace))
            domains.append(slug)
    return domains


def value(rows: list[dict], system: str, metric: str, **wanted: str) -> float | None:
    """The figure of a system in rows of `evaluate`."""
    found = [r for r in rows if r["system"] == system and r["metric"] == metric and wanted.items() <= r.items()]
    return found[0]["value"] if found else None


def interval(difference: float, low: float | None, high: float | None) -> str:
    """A difference with its interval."""
    return f"{difference:+.4f}" if low is None else f"{difference:+.4f} ({low:+.4f} to {high:+.4f})"


def _save(name: str, chosen: list[str], fits: dict, result: dict) -> None:
    kept = saved_rows("ranking")
    kept = [row for row in kept if row["set"] != name or row["head"] not in chosen]
    everything = "" if len(result["domains"]) > 1 else result["domains"][0]
    sasrec = next(head for head, fit in fits.items() if fit["model"] == "sasrec")

    rows = []
    for head, fit in ((head, fit) for head, fit in fits.items() if fit["model"] in chosen):
        row = {"set": name, "head": fit["model"]}
        row |= {
            metric: value(result["summary"], head, metric, domain=everything)
            for metric in ("recall@10", "ndcg@10", "mrr@20")
        }
        row["recall@10, 1 to 5 training interactions"] = value(result["groups"], head, "recall@10", group=COLD)
        against = [
            found
            for found in result["differences"]
            if found["system"] == head and found["reference"] == sasrec and found["metric"] == "ndcg@10"
        ]
        bounds = [against[0][part] for part in ("difference", "low", "high")] if against else []
        row["ndcg@10 minus sasrec"] = interval(*bounds) if bounds else "-"
        rows.append(row | {"trials": len(fit["trials"]), "fit_s": fit["seconds"]})
    notes = (
        "Full ranking of the items of the target's domain without those of the history, leave-one-out, all users with "
        "three interactions; ties take their mean rank. `trials`: settings of the head tried on validation. "
        "Titles by the default encoder. Intervals: 95 %, paired over users. `fit_s`: the whole command with all "
        "its trials, on a machine that did other work as well."
    )
    save("Do titles help to predict the next item?", "ranking", sorted([*kept, *rows], key=_order), notes)


def _order(row: dict) -> tuple[int, int]:
    return [*FILES].index(row["set"]), [*HEADS].index(row["head"])


if __name__ == "__main__":
    main(*sys.argv[1:])
