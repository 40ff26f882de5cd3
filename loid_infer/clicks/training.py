"""Trains collaborative models on labeled pairs by the binary cross-entropy, with early stopping on the AUC."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from loid_infer.clicks.nets import GraphPairs, PairBatch, PairNet, pair_net
from loid_infer.data.clicks import TRAIN, VALID, Clicks, Pairs
from loid_infer.evaluation.metrics import aucs
from loid_infer.kernels import sampling
from loid_infer.learning import loop
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import History, Loss, Training
from loid_infer.rankers.settings import RankOptions
from loid_infer.types import Array, Floats, Progress

_BLOCK = 4096  # pairs scored at once
_ORDER = 1  # purpose of random draws
# Learning rate and weight decay of each model.
_PACES = {"mf": (1e-3, 3.0), "ncf": (1e-3, 1.0), "lightgcn": (1e-3, 3.0), "sasrec": (1e-3, 0.1)}


def fit_pairs(
    model: str, clicks: Clicks, options: RankOptions, *, seed: int, progress: Progress, checkpoint: Checkpoint | None
) -> tuple[PairNet, History]:
    """Train `model`, one of MODELS, on the training part; validation errors are `1 - AUC`.

    Raises:
        NoSpace: a checkpoint cannot be written.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = pair_net(model, clicks, options)
    run = _Run(net, clicks, options, seed)
    history = loop.train(run.training(*_PACES[model]), checkpoint, progress)
    return net.final() if isinstance(net, GraphPairs) else net, history


def logits(net: PairNet, pairs: Pairs, max_length: int) -> Floats:
    """The logits `[n]` of `pairs`."""
    net.eval()
    with torch.inference_mode():
        tables = net.tables()
        parts = [
            net(PairBatch.of(pairs.take(slice(start, start + _BLOCK)), max_length), tables)
            for start in range(0, pairs.n, _BLOCK)
        ]
        found: Array = torch.cat(parts).numpy()
    return found


def auc(scores: Floats, labels: Array) -> float:
    """The AUC of all pairs; both labels must be among them."""
    return float(aucs(scores, labels, np.zeros(len(labels), np.int64))[0])


@dataclass(frozen=True, slots=True)
class _Run:
    net: PairNet
    clicks: Clicks
    options: RankOptions
    seed: int

    def training(self, learning_rate: float, weight_decay: float) -> Training:
        n, options = len(self.clicks.rows(TRAIN)), self.options
        rate, decay = options.rates(learning_rate, weight_decay)
        return Training(
            parameters=dict(self.net.named_parameters()),
            batches=self.batches,
            n_batches=math.ceil(n / options.batch),
            n_samples=n,
            step=self.step,
            validate=self.validate,
            task=("fit", "pairs"),
            seed=self.seed,
            learning_rate=rate,
            weight_decay=decay,
            **options.of_loop(),
        )

    def batches(self, epoch: int, position: int) -> Iterator[tuple[PairBatch, Tensor]]:
        """Pairs and labels `[b]`, in an order drawn for the epoch."""
        self.net.train()
        rows = self.clicks.rows(TRAIN)
        order = rows[np.argsort(sampling.keys(self.seed, _ORDER, rows, epoch), kind="stable")]
        for start in range(position * self.options.batch, len(order), self.options.batch):
            part = order[start : start + self.options.batch]
            labels = torch.from_numpy(self.clicks.labels[part].astype(np.float32))
            yield PairBatch.of(self.clicks.pairs(part), self.options.max_length), labels

    def step(self, batch: tuple[PairBatch, Tensor], number: int) -> Loss:
        pairs, labels = batch
        loss = functional.binary_cross_entropy_with_logits(self.net(pairs), labels)
        return Loss(loss, loss.detach(), len(labels), len(labels))

    def validate(self) -> float:
        rows = self.clicks.rows(VALID)
        return 1 - auc(logits(self.net, self.clicks.pairs(rows), self.options.max_length), self.clicks.labels[rows])
