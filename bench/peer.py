"""Does a library that nobody here wrote find the same figures, and how fast? RecTools and PyTorch Geometric.

    python -m bench.peer [PART...]     a part of PARTS, by default all; two hours on two cores

Rows of other parts in the result are kept. Needs `make .venv-rectools/.ready .venv-rivals/.ready` and the data beside
the checkout (LOID_SHARED). Every measurement is a process of its own: theirs is bench/rivals/rank_rectools.py or
rank_pyg.py, ours is

    python -m bench.peer --ours TASK WORKSPACE DOMAIN OUT.json OPTIONS_JSON
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench.ranking import ingested
from bench.record import ROOT, loid, median, real_data, save, saved_rows, work_folder
from loid_infer.data.sequences import Histories, Sequences, SequenceSplit, Targets, split_sequences
from loid_infer.evaluation.ranking import MISSED, measured
from loid_infer.rankers.counts import popularity
from loid_infer.rankers.factors import fit_factors
from loid_infer.rankers.graph import GraphRanker
from loid_infer.rankers.network import SequenceNet, SequenceRanker
from loid_infer.rankers.ranking import target_ranks
from loid_infer.rankers.settings import RankOptions
from loid_infer.rankers.training import fit_sequence
from loid_infer.settings import Workspace
from loid_infer.types import SILENT
from loid_infer.verbs.sequences import read_sequences

RECTOOLS = (ROOT / ".venv-rectools" / "bin" / "python", "bench.rivals.rank_rectools")
PYG = (ROOT / ".venv-rivals" / "bin" / "python", "bench.rivals.rank_pyg")
SHAPE = {"dim": 64, "layers": 2, "attention_heads": 2, "dropout": 0.5, "batch": 128, "learning_rate": 1e-3}
FULL = 1 << 20  # negatives, more than there are items: the loss is over all items, as theirs
ROUNDS, STEPS, MINUTES = 3, 8, 60
EVERY = 10  # of the users that are ranked in every round; once all of them
QUICK = {"max_length": 10, "dropout": 0.2, "learning_rate": 3e-3}  # few epochs suffice
METRICS = ("recall@10", "ndcg@10", "mrr@20")
TOLERANCE = 0.002
MOVIELENS = "movielens_100k"
GRAPH = {"dim": 64, "layers": 3, "learning_rate": 1e-2}
PYG_OPTIONS = {"penalty": 1e-4, "batch": 8192, "sparse": True}  # its default; as ours; the faster form of its graph


def main(*parts: str) -> None:
    for part in parts or PARTS:
        saved(part, PARTS[part]())


def _popularity() -> list[dict]:
    folder = _prepared("scientific")
    theirs, items = _theirs("popularity", folder)
    rows = accuracy("popularity", _ours("popularity", folder), theirs, items, _tested(folder))
    for row in rows:
        assert abs(row["loid-infer"] - row["peer"]) < TOLERANCE, row
    return rows


def _sasrec() -> list[dict]:
    folder = _prepared("scientific")
    options = {**SHAPE, **QUICK, "epochs": 100}
    ours = _ours("sasrec", folder, **options, patience=6, negatives=FULL)
    theirs, items = _theirs("sasrec", folder, **options, patience=4, minutes=MINUTES)
    return accuracy("sasrec", ours, theirs, items, _tested(folder))


def accuracy(model: str, ours: dict, theirs: dict, items, wanted) -> list[dict]:
    """Rows of a model's metrics: ours, theirs, and theirs as our functions compute them from their lists."""
    hits = items == wanted[:, None]
    again = measured(np.where(hits.any(axis=1), 1.0 + hits.argmax(axis=1), MISSED))
    epochs = f", {ours['epochs']} and {theirs['epochs']} epochs" if "epochs" in ours else ""
    rows = []
    for metric in METRICS:
        row = {"what": f"{model}, {metric}{epochs}", "loid-infer": ours[metric], "peer": theirs[metric]}
        recomputed = float(again[metric].mean())
        assert abs(recomputed - theirs[metric]) < TOLERANCE, (metric, recomputed, theirs[metric])
        rows.append({**row, "peer by our metrics": recomputed, "times": None})
    return rows


def _train() -> list[dict]:
    folder, shape = _prepared("scientific"), {**SHAPE, "max_length": 50, "epochs": 2}
    pairs = []
    for _ in range(ROUNDS):
        pairs.append(
            (_ours("train", folder, **shape, negatives=FULL), _theirs("train", folder, **shape, steps=STEPS)[0])
        )
    return [
        speed(f"training, sequences per {name}", pairs, key, inverse=True)
        for name, key in (("s", "sequences_per_s"), ("processor s", "sequences_per_cpu_s"))
    ]


def _rank(every: int = EVERY, rounds: int = ROUNDS) -> list[dict]:
    folder, shape, pairs = _prepared("games"), {**SHAPE, "max_length": 50, "epochs": 1, "every": every}, []
    for _ in range(rounds):
        ours = _ours("rank", folder, **shape)
        pairs.append((ours, _theirs("rank", folder, **shape, steps=1)[0]))
    n = len(_tested(folder)[::every])
    names = {"s": "rank_s", "processor s": "rank_cpu_s", "MiB more than before": "rank_mib"}
    return [speed(f"{n:,} users, {name}", pairs, key) for name, key in names.items()]


def _rank_all() -> list[dict]:
    return _rank(1, 1)


def _lightgcn() -> list[dict]:
    folder, more = _prepared(MOVIELENS), {"epochs": 200, "patience": 10}
    ours = _ours("lightgcn", folder, **GRAPH, **more)
    theirs, items = _theirs("lightgcn", folder, PYG, **GRAPH, **more, **PYG_OPTIONS)
    return accuracy("lightgcn", ours, theirs, items, _tested(folder))


def _lightgcn_train() -> list[dict]:
    folder, pairs = _prepared(MOVIELENS), []
    for _ in range(ROUNDS):
        theirs, _ = _theirs("lightgcn_train", folder, PYG, **GRAPH, **PYG_OPTIONS, epochs=5)
        pairs.append((_ours("lightgcn_train", folder, **GRAPH, epochs=5), theirs))
    names = {"s": "pairs_per_s", "processor s": "pairs_per_cpu_s"}
    return [speed(f"lightgcn, pairs per {name}", pairs, key, inverse=True) for name, key in names.items()]


def speed(what: str, pairs: list[tuple[dict, dict]], key: str, *, inverse: bool = False) -> dict:
    """A row of medians; `times` is the median of the rounds' ratios, theirs to ours or the `inverse`."""
    mine, theirs = ([side[key] for side in sides] for sides in zip(*pairs, strict=True))
    times = median([a / b if inverse else b / a for a, b in zip(mine, theirs, strict=True)])
    return {
        "what": what,
        "loid-infer": median(mine),
        "peer": median(theirs),
        "peer by our metrics": None,
        "times": times,
    }


PARTS = {
    "popularity": _popularity,
    "sasrec": _sasrec,
    "train": _train,
    "rank": _rank,
    "rank_all": _rank_all,
    "lightgcn": _lightgcn,
    "lightgcn_train": _lightgcn_train,
}


def _prepared(name: str) -> Path:
    """A folder with the workspace of a set, and its leave-one-out split in codes for the other side."""
    folder = work_folder(f"peer-{name}")
    if name == MOVIELENS:
        loid("ingest", str(real_data() / f"{name}.parquet"), "-d", name, "--implicit", "-w", str(folder))
    else:
        ingested(folder, name)
    sequences, split = _opened(folder, name)
    train = split.train(sequences)

    def pairs(targets: Targets):
        return np.column_stack([targets.users, sequences.items[targets.at]])

    trained = np.column_stack([sequences.users[train], sequences.items[train]])
    np.savez(folder / "split.npz", train=trained, valid=pairs(split.valid), test=pairs(split.test))
    return folder


def _tested(folder: Path):
    return np.load(folder / "split.npz")["test"][:, 1]


def _opened(folder: Path, domain: str) -> tuple[Sequences, SequenceSplit]:
    sequences = read_sequences(Workspace.of(folder), [domain], 0, SILENT)
    return sequences, split_sequences(sequences, "leave-one-out")


def _theirs(task: str, folder: Path, side=RECTOOLS, **options) -> tuple[dict, np.ndarray]:
    """Figures of the peer, and its items `[m, 20]`."""
    out, (python, module) = folder / f"{task}.npz", side
    _run([str(python), "-m", module, task, str(folder / "split.npz"), str(out), json.dumps(options)])
    found = np.load(out)
    return json.loads(str(found["figures"])), found["items"]


def _ours(task: str, folder: Path, **options) -> dict:
    out, domain = folder / f"{task}.json", folder.name.removeprefix("peer-")
    _run([sys.executable, "-m", "bench.peer", "--ours", task, str(folder), domain, str(out), json.dumps(options)])
    return json.loads(out.read_text())


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")


def ours(task: str, folder: str, domain: str, out: str, options: str) -> None:
    """The process of our own side."""
    sequences, split = _opened(Path(folder), domain)
    given = json.loads(options)
    figures: dict[str, object] = {}
    targets = split.test.where(np.arange(0, split.test.n, given.pop("every", 1)))
    chosen = RankOptions(**given)
    if task == "popularity":
        ranker = popularity(sequences, split)
    elif task == "rank":  # as fast as a trained one
        torch.manual_seed(0)
        net = SequenceNet(chosen, sequences.n_items, ids=True, text_dim=0)
        known = np.bincount(sequences.items[split.train(sequences)], minlength=sequences.n_items) > 0
        ranker = SequenceRanker(net, chosen.max_length, None, known)
    elif task.startswith("lightgcn"):
        cpu = time.process_time()
        trained, history = fit_factors("lightgcn", sequences, split, chosen, seed=0, progress=SILENT)
        ranker, cpu = Trained(trained), time.process_time() - cpu
        figures = {"pairs_per_s": history.units_per_s, "pairs_per_cpu_s": history.n_units / cpu}
        figures |= {"epochs": history.epoch, "valid ndcg@10": [1 - error for error in history.eval_errors]}
    else:
        cpu = time.process_time()
        fitted = fit_sequence(sequences, split, chosen, None, ids=True, seed=0, progress=SILENT)
        ranker, history, cpu = fitted.ranker, fitted.history, time.process_time() - cpu
        figures = {"sequences_per_s": history.units_per_s, "sequences_per_cpu_s": history.n_units / cpu}
        figures |= {"epochs": history.epoch, "valid ndcg@10": [1 - error for error in history.eval_errors]}
    if not task.endswith("train"):
        before, start, cpu = _reset_peak(), time.perf_counter(), time.process_time()
        values = measured(target_ranks(ranker, sequences, targets))
        figures |= {"rank_s": time.perf_counter() - start, "rank_cpu_s": time.process_time() - cpu}
        figures |= {"rank_mib": (_status("VmHWM") - before) / 2**20}
        figures |= {metric: float(value.mean()) for metric, value in values.items()}
    Path(out).write_text(json.dumps(figures))


@dataclass(frozen=True)
class Trained:
    """LightGCN with users as they were in training, without the validation item: theirs cannot read it."""

    ranker: GraphRanker

    def scores(self, histories: Histories):
        return self.ranker.scores(replace(histories, ends=histories.ends - 1))


def _reset_peak() -> int:
    """Forget the peak of the resident set; gives its size now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


NOTES = (
    "RecTools 0.19.0 in an environment of its own (bench/rivals/rectools.txt) gets our leave-one-out split. Histories "
    "up to the validation item, top 20 without them; its NDCG with divide_by_achievable. popularity, sasrec, train: "
    "Scientific (8,440 users, 4,385 items); rank: Games (50,546 users, 16,859 items)."
)
_SHAPES = "2 layers, 2 heads, d 64, batches of 128; its feed-forward layers are d wide, ours 4 d."
PART_NOTES = {
    "sasrec": f"sasrec: {_SHAPES} {QUICK}, softmax over all items, the epoch with the best NDCG@10 on validation.",
    "train": f"train: {_SHAPES} Length 50; its figures over {STEPS} steps after as many, ours over two epochs, whose "
    f"processor time includes validation; medians of {ROUNDS} rounds in turn.",
    "rank": "rank: untrained networks, length 50; ours computes exact ranks, RecTools recommends 20 items and computes "
    f"four metrics; medians of {ROUNDS} rounds in turn.",
    "rank_all": "rank_all: as rank, one round.",
    "lightgcn": f"lightgcn: PyTorch Geometric 2.8.1, MovieLens-100K, {GRAPH}, 8,192 pairs a step, early stopping on "
    "NDCG@10 of all validation users; users as they were in training.",
    "lightgcn_train": f"lightgcn_train: five epochs, medians of {ROUNDS} rounds in turn; ours with validation in its "
    "processor time.",
}


def saved(part: str, rows: list[dict]) -> None:
    """Put the rows of a part in the place of its earlier ones."""
    kept = saved_rows("peer")
    rows = [row for row in kept if row["part"] != part] + [{"part": part, **row} for row in rows]
    order = list(PARTS)
    present = {row["part"] for row in rows}
    notes = " ".join([NOTES, *(note for name, note in PART_NOTES.items() if name in present)])
    rows.sort(key=lambda row: order.index(row["part"]))
    save("Does another library find the same, and how fast?", "peer", rows, notes)


if __name__ == "__main__":
    ours(*sys.argv[2:]) if sys.argv[1:2] == ["--ours"] else main(*sys.argv[1:])
