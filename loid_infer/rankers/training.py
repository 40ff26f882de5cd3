"""Trains sequence networks on the training part of a split, with early stopping on NDCG@10.

Sequences are ordered by (seed, user, epoch), negatives drawn by (seed, step), and dropout by torch's generator.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from loid_infer.data.sequences import Sequences, SequenceSplit, training_histories
from loid_infer.errors import BadSetting
from loid_infer.kernels import sampling
from loid_infer.kernels.threads import Workers, workers
from loid_infer.learning import loop
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import History, Loss, Training
from loid_infer.rankers.network import SequenceNet, SequenceRanker
from loid_infer.rankers.ranking import validation_ndcg
from loid_infer.rankers.settings import RankOptions
from loid_infer.types import Bools, Floats, Ints, Progress

_WINDOW = 32  # batches that are sorted by length together
_ORDER, _BATCHES, _NEGATIVES = 1, 2, 3  # purposes of random draws


@dataclass(frozen=True, slots=True)
class FittedRanker:
    """A trained ranker and its learning curve: by epoch, validation errors are `1 - NDCG@10`."""

    ranker: SequenceRanker
    history: History


def fit_sequence(
    sequences: Sequences,
    split: SequenceSplit,
    options: RankOptions,
    texts: Floats | None,
    *,
    ids: bool,
    known: Bools | None = None,
    seed: int,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> FittedRanker:
    """Train a `SequenceNet` to predict every next item of the training part.

    The loss is the softmax cross-entropy over all items of the target's own domain, or over `options.negatives` of them
    drawn uniformly, with the correction that makes the sum over them unbiased (Bengio & Senecal 2008, eq. 9).

    Args:
        texts: whitened text vectors `[n_items, k]`; None: IDs only.
        known: which items `[n_items]` are ranked; by default all.

    Raises:
        BadSetting: no user has two training interactions.
        NoSpace: a checkpoint cannot be written.
    """
    if (split.train_ends - sequences.starts[:-1]).max(initial=0) < 2:
        what, fix = "no user has two interactions in the training part", "Run: loid-infer cf fit --model cooccurrence"
        raise BadSetting(what, where=f"--split {split.kind}", got=f"{sequences.n:,} interactions", fix=fix)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SequenceNet(options, sequences.n_items, ids=ids, text_dim=0 if texts is None else texts.shape[1])
    of_items = None if texts is None else torch.from_numpy(texts)
    with workers() as threads:  # the operations of a step are too small for two threads
        run = _Run(sequences, split, options, net, of_items, known, seed, threads)
        return FittedRanker(run.ranker(), loop.train(run.training(), checkpoint, progress))


@dataclass(frozen=True, slots=True)
class _Run:
    sequences: Sequences
    split: SequenceSplit
    options: RankOptions
    net: SequenceNet
    texts: Tensor | None
    known: Bools | None
    seed: int
    threads: Workers

    def ranker(self) -> SequenceRanker:
        return SequenceRanker(self.net, self.options.max_length, self.texts, self.known)

    def training(self) -> Training:
        lengths = self.split.train_ends - self.sequences.starts[:-1]
        n = int(np.count_nonzero(lengths > 1))
        rate, decay = self.options.rates(1e-3, 1e-4)
        return Training(
            parameters=dict(self.net.named_parameters()),
            batches=self.batches,
            n_batches=math.ceil(n / self.options.batch),
            n_samples=n,
            step=self.step,
            validate=self.validate,
            task=("fit", "sequences"),
            seed=self.seed,
            learning_rate=rate,
            weight_decay=decay,
            **self.options.of_loop(),
        )

    def validate(self) -> float:
        return 1 - validation_ndcg(self.ranker(), self.sequences, self.split, self.seed, self.threads)

    def batches(self, epoch: int, position: int) -> Iterator[Tensor]:
        """Sequences `[b, length + 1]` of similar lengths, in an order drawn for the epoch."""
        self.net.train()
        histories = training_histories(self.sequences, self.split).last(self.options.max_length + 1)
        users = np.flatnonzero(histories.lengths > 1)
        order = users[np.argsort(sampling.keys(self.seed, _ORDER, users, epoch), kind="stable")]
        window = self.options.batch * _WINDOW
        parts: list[Ints] = []
        for start in range(0, len(order), window):
            some = order[start : start + window]
            some = some[np.argsort(histories.lengths[some], kind="stable")]
            parts += [some[at : at + self.options.batch] for at in range(0, len(some), self.options.batch)]
        shuffled = np.argsort(sampling.keys(self.seed, _BATCHES, np.arange(len(parts)), epoch), kind="stable")
        for number in shuffled[position:].tolist():
            yield torch.from_numpy(histories.rows(parts[number]).padded())

    def step(self, batch: Tensor, number: int) -> Loss:
        items, following = self.net.items(self.texts), batch[:, 1:]
        given = following >= 0
        states, wanted = self.net(batch[:, :-1], items)[given], following[given]
        bounds = torch.from_numpy(self.sequences.bounds)
        domains = torch.bucketize(wanted, bounds[1:], right=True)
        total = states.new_zeros(())
        for domain in domains.unique().tolist():
            chosen = domains == domain
            low, high = int(bounds[domain]), int(bounds[domain + 1])
            total = total + self._cross_entropy(states[chosen], wanted[chosen], items, low, high, number)
        n = len(wanted)
        return Loss(total / n, total.detach() / n, len(batch), len(batch))

    def _cross_entropy(self, states: Tensor, wanted: Tensor, items: Tensor, low: int, high: int, number: int) -> Tensor:
        n, n_drawn = high - low, self.options.negatives
        if n <= n_drawn:
            return functional.cross_entropy(states @ items[low:high].T, wanted - low, reduction="sum")
        key = sampling.keys(self.seed, _NEGATIVES, number, np.arange(n_drawn))
        drawn = torch.from_numpy(low + sampling.below(key, np.full(n_drawn, n)))
        own = (states * functional.embedding(wanted, items)).sum(dim=1, keepdim=True)
        others = states @ functional.embedding(drawn, items).T + math.log(n / n_drawn)
        others = others.masked_fill(drawn[None] == wanted[:, None], -math.inf)
        target = torch.zeros(len(states), dtype=torch.int64)
        return functional.cross_entropy(torch.cat([own, others], dim=1), target, reduction="sum")
