"""Training of models of users and items by pairs: BPR (Rendle et al. 2009), of matrix factorization and LightGCN."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from loid_infer.data.histories import positions
from loid_infer.data.sequences import Histories, Sequences, SequenceSplit
from loid_infer.kernels import sampling
from loid_infer.kernels.threads import Workers, workers
from loid_infer.learning import loop
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import History, Loss, Training
from loid_infer.rankers.graph import Graph, GraphNet, GraphRanker
from loid_infer.rankers.ranking import padded, validation_ndcg
from loid_infer.rankers.settings import RankOptions
from loid_infer.types import Array, Bools, Floats, Progress

# Pairs of a step, learning rate and weight decay. What a step of the graph costs hardly depends on its pairs.
_PACES = {"mf": (2048, 1e-2, 1.0), "lightgcn": (8192, 1e-2, 0.1)}
_STD = 0.1  # of initial vectors
_ORDER, _NEGATIVE = 1, 2  # purposes of random draws


class FactorNet(nn.Module):
    """`x(u, i) = b_i + p_u . q_i`."""

    def __init__(self, n_users: int, n_items: int, dim: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(n_users, dim), nn.Embedding(n_items, dim)
        self.bias = nn.Parameter(torch.zeros(n_items))
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=_STD)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """The scores `[b, k]` of `items [b, k]` for `users [b]`, codes."""
        scores: Tensor = (self.users(users)[:, None] * self.items(items)).sum(dim=2) + self.bias[items]
        return scores

    def ranker(self, known: Bools) -> FactorRanker:
        """What ranks with the vectors of now."""
        return FactorRanker(self, known)


@dataclass(frozen=True, slots=True)
class FactorRanker:
    """A trained `FactorNet`. It knows users by their number, not by their history."""

    net: FactorNet
    known: Bools  # [n_items], items with training interactions

    def scores(self, histories: Histories) -> Floats:
        """See `Ranker`. An unknown user gets the biases of the items."""
        with torch.inference_mode():
            scores: Array = torch.addmm(self.net.bias, self._users(histories), self.net.items.weight.T).numpy()
        scores[:, ~self.known] = -np.inf
        return scores

    def queries(self, histories: Histories) -> Floats:
        """See `ProductRanker`: the user's vector and 1."""
        with torch.inference_mode():
            return np.column_stack([self._users(histories).numpy(), np.ones(histories.n, np.float32)])

    def _users(self, histories: Histories) -> Tensor:
        """The vectors of users `[n, dim]`, 0 for unknown ones."""
        users = torch.from_numpy(np.maximum(histories.users, 0))
        found: Tensor = self.net.users(users) * torch.from_numpy(histories.users >= 0)[:, None]
        return found

    def vectors(self) -> tuple[Floats, Bools]:
        """See `ProductRanker`: the item's vector and its bias."""
        parts = (self.net.items.weight, self.net.bias[:, None])
        found: Array = torch.cat([part.detach() for part in parts], dim=1).numpy()
        return padded(found), self.known


def fit_factors(
    model: str,
    sequences: Sequences,
    split: SequenceSplit,
    options: RankOptions,
    *,
    seed: int,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> tuple[FactorRanker | GraphRanker, History]:
    """Minimize `-ln sigmoid(x(u, i) - x(u, j))` over training pairs and one negative `j` each (eq. 3 and 4).

    A negative is drawn uniformly from the domain of `i`; one that the user has in training is drawn again, once.
    `options.weight_decay` is that of AdamW. In `mf`, vectors of users without training interactions are 0.

    Args:
        model: mf | lightgcn.

    Returns the ranker and the learning curve.

    Raises:
        NoSpace: a checkpoint cannot be written.
    """
    known = split.counts(sequences) > 0
    net: FactorNet | GraphNet
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model == "mf":
            net = FactorNet(sequences.n_users, sequences.n_items, options.dim)
            net.users.weight.data[torch.from_numpy(split.train_ends == sequences.starts[:-1])] = 0
        else:
            net = GraphNet(Graph.of(sequences, split), sequences.n_users, options.dim, options.layers)
    batch, *rates = _PACES[model]
    # The operations of a step of factors are too small for two threads, those of a graph are not.
    with workers() if model == "mf" else nullcontext() as threads:
        run = _Run(net, known, sequences, split, options, seed, batch, threads)
        history = loop.train(run.training(*rates), checkpoint, progress)
    return net.ranker(known), history


@dataclass(frozen=True, slots=True)
class _Run:
    net: FactorNet | GraphNet
    known: Bools
    sequences: Sequences
    split: SequenceSplit
    options: RankOptions
    seed: int
    batch: int  # pairs of a step
    threads: Workers | None

    def training(self, learning_rate: float, weight_decay: float) -> Training:
        n, options = int(self.split.train(self.sequences).sum()), self.options
        rate, decay = options.rates(learning_rate, weight_decay)
        return Training(
            parameters=dict(self.net.named_parameters()),
            batches=self.batches,
            n_batches=math.ceil(n / self.batch),
            n_samples=n,
            step=self.step,
            validate=self.validate,
            task=("fit", "pairs"),
            seed=self.seed,
            learning_rate=rate,
            weight_decay=decay,
            **options.of_loop(),
        )

    def validate(self) -> float:
        return 1 - validation_ndcg(self.net.ranker(self.known), self.sequences, self.split, self.seed, self.threads)

    def batches(self, epoch: int, position: int) -> Iterator[tuple[Tensor, ...]]:
        """Users, their items and negatives, `[b]` each, in an order drawn for the epoch."""
        sequences, train = self.sequences, self.split.train(self.sequences)
        users, items = sequences.users[train], sequences.items[train]
        low = sequences.bounds[sequences.item_domains[items]]
        sizes = np.diff(sequences.bounds)[sequences.item_domains[items]]
        pairs = np.sort(users * sequences.n_items + items)
        key = sampling.keys(self.seed, users, items, epoch)
        negatives = low + sampling.below(key, sizes)
        taken = positions(pairs, users * sequences.n_items + negatives) >= 0
        again = sampling.mix(key ^ np.uint64(_NEGATIVE))
        negatives = np.where(taken, low + sampling.below(again, sizes), negatives)
        order = np.argsort(sampling.mix(key ^ np.uint64(_ORDER)), kind="stable")
        for start in range(position * self.batch, len(order), self.batch):
            part = order[start : start + self.batch]
            yield tuple(torch.from_numpy(codes[part]) for codes in (users, items, negatives))

    def step(self, batch: tuple[Tensor, ...], number: int) -> Loss:
        users, items, negatives = batch
        scores = self.net(users, torch.stack([items, negatives], dim=1))
        loss = -functional.logsigmoid(scores[:, 0] - scores[:, 1]).mean()
        return Loss(loss, loss.detach(), len(users), len(users))
