"""RecTools' popularity and SASRec on a split of ours, in a process of their own; see bench/peer.py.

python -m bench.rivals.rank_rectools TASK SPLIT.npz OUT.npz OPTIONS_JSON

TASK: `popularity` or `sasrec` recommends 20 items to every test user and computes RecTools' metrics, `train` only
trains, `rank` recommends with an untrained network. SPLIT holds codes: `train` [n, 2] of user and item, in order,
`valid` and `test` [m, 2]. OUT gets `items` [m, 20], -1 where there are fewer, and `figures`, a JSON text. This
runs in an environment of its own (bench/rivals/rectools.txt), which has nothing of ours.
"""

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.metrics import MRR, NDCG, Recall, calc_metrics
from rectools.models import PopularModel, SASRecModel

TOP = 20
METRICS = {
    "recall@10": Recall(k=10),
    "ndcg@10": NDCG(k=10, divide_by_achievable=True),
    "ndcg@10 default": NDCG(k=10),
    "mrr@20": MRR(k=20),
}


def main() -> None:
    warnings.filterwarnings("ignore")
    task, split, out, options = sys.argv[1], np.load(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
    seed_everything(options.pop("seed", 0))
    # Training rows first: both data sets number users and items by appearance, and must agree.
    train = _frame(split["train"])
    both = _frame(np.concatenate([split["train"], split["valid"]]))
    figures, items = {}, np.zeros((0, TOP), np.int64)
    if task == "popularity":
        model = PopularModel("n_interactions").fit(Dataset.construct(train))
    elif task == "sasrec":
        model, figures = _stopped_early(train, split["valid"], options)
    else:
        model, figures = _trained(Dataset.construct(train), options)
    if task != "train":
        items, more = _recommended(model, Dataset.construct(both), split["test"][:: options.get("every", 1)])
        figures |= more
    np.savez(out, items=items, figures=json.dumps(figures))


def _frame(pairs):
    """Interactions with the row number as their time, which orders those of a user."""
    times = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(len(pairs)), unit="s")
    columns = {Columns.User: pairs[:, 0], Columns.Item: pairs[:, 1], Columns.Weight: 1.0, Columns.Datetime: times}
    return pd.DataFrame(columns)


class _Clock(Callback):  # type: ignore[misc]
    """Seconds and processor seconds of each training epoch."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {"sequences_per_s": [], "sequences_per_cpu_s": []}

    def on_train_epoch_start(self, trainer, module) -> None:
        self.start = time.perf_counter(), time.process_time()

    def on_train_epoch_end(self, trainer, module) -> None:
        now = time.perf_counter(), time.process_time()
        for found, start, end in zip(self.found.values(), self.start, now, strict=True):
            found.append(end - start)


def _trained(dataset, options: dict):
    """A `SASRecModel` after `epochs` of `steps` steps each, with the speed of the last one: the first is a warm-up."""
    clock, epochs, steps = _Clock(), options["epochs"], options["steps"]
    model = _model(options, lambda: _trainer(epochs, clock, limit_train_batches=steps))
    model.fit(dataset)
    clock = next(call for call in model.fit_trainer.callbacks if isinstance(call, _Clock))  # a copy
    return model, {name: steps * options["batch"] / found[-1] for name, found in clock.found.items()}


def _stopped_early(train, valid, options: dict):
    """A `SASRecModel` with the weights of the epoch with the best NDCG@10 of validation targets, at most 2,000."""
    dataset = Dataset.construct(train)
    wanted = pd.DataFrame({Columns.User: valid[:, 0], Columns.Item: valid[:, 1]})
    wanted = wanted.iloc[:: -(-len(wanted) // 2000)]
    model = _model(options, lambda: _trainer(1))
    start, best = time.perf_counter(), {}
    found: list[float] = []
    while len(found) < options["epochs"] and time.perf_counter() - start < 60 * options["minutes"]:
        model.fit_partial(dataset, min_epochs=1, max_epochs=1)
        found.append(METRICS["ndcg@10"].calc(_lists(model, dataset, wanted[Columns.User]), wanted))
        print(f"epoch {len(found)}: {found[-1]:.4f}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        if found[-1] == max(found):
            best = {name: tensor.clone() for name, tensor in model.lightning_model.state_dict().items()}
        if len(found) - 1 - int(np.argmax(found)) >= options["patience"]:
            break
    model.lightning_model.load_state_dict(best)
    return model, {"epochs": len(found), "valid ndcg@10": found, "fit_s": time.perf_counter() - start}


def _lists(model, dataset, users):
    """The best `TOP` items of the users that they have not seen."""
    return model.recommend(users=users, dataset=dataset, k=TOP, filter_viewed=True, on_unsupported_targets="ignore")


def _model(options: dict, trainer, **more):
    return SASRecModel(
        n_blocks=options["layers"],
        n_heads=options["attention_heads"],
        n_factors=options["dim"],
        dropout_rate=options["dropout"],
        session_max_len=options["max_length"],
        batch_size=options["batch"],
        lr=options["learning_rate"],
        loss="softmax",
        epochs=options["epochs"],
        get_trainer_func=trainer,
        **more,
    )


def _trainer(epochs: int, *callbacks: Callback, **limits) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        min_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        **limits,
    )


def _recommended(model, dataset, test):
    """The best `TOP` items of every test user that the user has not seen, with metrics, seconds and memory."""
    before = _reset_peak()
    start, cpu = time.perf_counter(), time.process_time()
    found = _lists(model, dataset, test[:, 0])
    wanted = pd.DataFrame({Columns.User: test[:, 0], Columns.Item: test[:, 1]})
    figures = calc_metrics(METRICS, found, wanted)
    seconds, cpu, more = time.perf_counter() - start, time.process_time() - cpu, _status("VmHWM") - before
    rows = pd.Series(np.arange(len(test)), index=test[:, 0])
    items = np.full((len(test), TOP), -1, np.int64)
    items[rows[found[Columns.User]].to_numpy(), found[Columns.Rank].to_numpy() - 1] = found[Columns.Item]
    return items, {**figures, "rank_s": seconds, "rank_cpu_s": cpu, "rank_mib": more / 2**20}


def _reset_peak() -> int:
    """Forget the peak of the resident set; gives its size now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
