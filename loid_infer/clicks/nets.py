"""Collaborative models of labeled pairs: matrix factorization, NCF, LightGCN and SASRec.

Each gives a vector of the user and one of the item, which CoRA reads, and a logit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from loid_infer.data.clicks import TRAIN, Clicks, Pairs
from loid_infer.rankers.graph import Graph
from loid_infer.rankers.network import SequenceNet
from loid_infer.rankers.settings import RankOptions
from loid_infer.types import Array

_STD = 0.1  # of initial vectors
_BIASES = ("bias", "user_bias", "item_bias")


@dataclass(frozen=True, slots=True, eq=False)
class PairBatch:
    """Pairs as codes; an unknown user or item is -1."""

    users: Tensor  # [b]
    items: Tensor  # [b]
    histories: Tensor  # [b, length], items liked before, the oldest first, padded with -1 on the right

    @staticmethod
    def of(pairs: Pairs, max_length: int) -> PairBatch:
        """Those of `pairs`, with the last `max_length` items of their histories."""
        arrays: tuple[Array, ...] = (pairs.users, pairs.items, pairs.histories.last(max_length).padded())
        return PairBatch(*map(torch.from_numpy, arrays))

    def to(self, device: torch.device) -> PairBatch:
        """The same on another device."""
        return PairBatch(self.users.to(device), self.items.to(device), self.histories.to(device))


class PairNet(nn.Module):
    """The logit is `b + b_u + b_i` and what the model adds, by default the product of the two vectors."""

    def __init__(self, n_users: int, n_items: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.user_bias, self.item_bias = (nn.Parameter(torch.zeros(n)) for n in (n_users, n_items))

    def tables(self) -> tuple[Tensor, Tensor]:
        """What the vectors of users and items are looked up in, `[n_users, d]` and `[n_items, d]`."""
        raise NotImplementedError

    def vectors(self, batch: PairBatch, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The vectors of the users and of the items, `[b, d]` each; 0 for what is unknown."""
        return looked_up(tables[0], batch.users), looked_up(tables[1], batch.items)

    def interaction(self, user: Tensor, item: Tensor) -> Tensor:
        """What the vectors `[b, d]` add to the logits `[b]`."""
        return (user * item).sum(dim=1)

    def forward(self, batch: PairBatch, tables: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """The logits `[b]`."""
        return self.logits(batch, *self.vectors(batch, self.tables() if tables is None else tables))

    def logits(self, batch: PairBatch, user: Tensor, item: Tensor) -> Tensor:
        """The logits `[b]` of a batch with these vectors, `[b, d]` each."""
        of_user, of_item = self.biases(batch)
        return self.bias + of_user + of_item + self.interaction(user, item)

    def biases(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Those of the users and of the items, `[b]` each; 0 for what is unknown."""
        of_users, of_items = (
            looked_up(bias[:, None], codes)[:, 0]
            for bias, codes in ((self.user_bias, batch.users), (self.item_bias, batch.items))
        )
        return of_users, of_items

    def all_logits(self, users: PairBatch, tables: tuple[Tensor, Tensor]) -> Tensor:
        """The logits `[b, n_items]` of all items for the users of a batch, whose items do not matter."""
        own, _ = self.vectors(users, tables)
        of_user, _ = self.biases(users)
        return self.bias + of_user[:, None] + self.item_bias + self.interactions(own, tables[1])

    def interactions(self, users: Tensor, items: Tensor) -> Tensor:
        """What the vectors `[b, d]` and `[n_items, d]` add to the logits of all their pairs, `[b, n_items]`."""
        return users @ items.T

    def read(self, batch: PairBatch, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """What another model reads of the pairs: their vectors with their biases, `[b, d + 1]` each."""
        parts = zip(self.vectors(batch, tables), self.biases(batch), strict=True)
        user, item = (torch.cat([vectors, bias[:, None]], dim=1) for vectors, bias in parts)
        return user, item


def looked_up(table: Tensor, codes: Tensor) -> Tensor:
    """The rows of `table [n, d]`, `[b, d]`; 0 for a code of -1."""
    return functional.embedding(codes.clamp(min=0), table) * (codes >= 0)[:, None]


class FactorPairs(PairNet):
    """Matrix factorization with biases (Koren et al. 2009, eq. 4)."""

    def __init__(self, n_users: int, n_items: int, dim: int) -> None:
        super().__init__(n_users, n_items)
        self.users, self.items = (nn.Parameter(torch.randn(n, dim) * _STD) for n in (n_users, n_items))

    def tables(self) -> tuple[Tensor, Tensor]:
        """See `PairNet`."""
        return self.users, self.items


class NeuralPairs(PairNet):
    """NCF (He et al. 2017, eq. 12): a weighted product of one half of the vectors, and an MLP of the other half."""

    def __init__(self, n_users: int, n_items: int, options: RankOptions) -> None:
        super().__init__(n_users, n_items)
        self.users, self.items = (nn.Parameter(torch.randn(n, 2 * options.dim) * _STD) for n in (n_users, n_items))
        layers: list[nn.Module] = []
        width = 2 * options.dim
        for _ in range(options.layers):
            layers += [nn.Linear(width, width // 2), nn.ReLU(), nn.Dropout(options.dropout)]
            width //= 2
        self.perceptron, self.last = nn.Sequential(*layers), nn.Linear(options.dim + width, 1, bias=False)

    def tables(self) -> tuple[Tensor, Tensor]:
        """See `PairNet`."""
        return self.users, self.items

    def interaction(self, user: Tensor, item: Tensor) -> Tensor:
        """See `PairNet`."""
        (product, deep), (of_item, of_item_deep) = (side.chunk(2, dim=1) for side in (user, item))
        inner = self.perceptron(torch.cat([deep, of_item_deep], dim=1))
        return cast(Tensor, self.last(torch.cat([product * of_item, inner], dim=1))[:, 0])

    def interactions(self, users: Tensor, items: Tensor) -> Tensor:
        """See `PairNet`."""
        return torch.stack([self.interaction(user.expand(len(items), -1), items) for user in users])


class GraphPairs(PairNet):
    """LightGCN (He et al. 2020, eq. 3 to 5) on the graph of the positive training pairs."""

    def __init__(self, graph: Graph, n_users: int, n_items: int, options: RankOptions) -> None:
        super().__init__(n_users, n_items)
        self.graph, self.layers = graph, options.layers
        self.nodes = nn.Parameter(torch.randn(n_users + n_items, options.dim) * _STD)

    def tables(self) -> tuple[Tensor, Tensor]:
        """See `PairNet`."""
        layers = self.graph.propagated(self.nodes, self.layers)
        users, items = torch.stack(layers).mean(dim=0).split([len(self.user_bias), len(self.item_bias)])
        return users, items

    def final(self) -> FactorPairs:
        """The same with the vectors of now as parameters."""
        tables = [table.detach() for table in self.tables()]
        net = FactorPairs(len(self.user_bias), len(self.item_bias), tables[0].shape[1])
        net.load_state_dict(
            {"users": tables[0], "items": tables[1], **{name: getattr(self, name).detach() for name in _BIASES}}
        )
        return net


class SequencePairs(PairNet):
    """SASRec (Kang & McAuley 2018): the vector of a user is the state after what the user liked, whoever it is."""

    def __init__(self, n_users: int, n_items: int, options: RankOptions) -> None:
        super().__init__(n_users, n_items)
        self.net = SequenceNet(options, n_items, ids=True, text_dim=0)

    def tables(self) -> tuple[Tensor, Tensor]:
        """See `PairNet`; those of users are computed from histories."""
        items = self.net.items(None)
        return items[:0], items

    def vectors(self, batch: PairBatch, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """See `PairNet`."""
        lengths = (batch.histories >= 0).sum(dim=1)
        states = self.net(batch.histories, tables[1])
        own = states[torch.arange(len(states), device=states.device), (lengths - 1).clamp(min=0)]
        return own * (lengths > 0)[:, None], looked_up(tables[1], batch.items)


MODELS = ("mf", "ncf", "lightgcn", "sasrec")


def pair_net(model: str, clicks: Clicks, options: RankOptions) -> PairNet:
    """A new net, initialized from torch's global generator; vectors of users and items without training pairs are 0."""
    n_users, n_items, rows = len(clicks.user_ids), len(clicks.item_ids), clicks.rows(TRAIN)
    if model == "lightgcn":
        liked = rows[clicks.labels[rows]]
        graph = Graph.between(clicks.users[liked], clicks.items[liked], n_users, n_items)
        net: PairNet = GraphPairs(graph, n_users, n_items, options)
    else:
        net = empty_net(model, n_users, n_items, options)
    no_user, no_item = (
        torch.from_numpy(np.bincount(codes[rows], minlength=n) == 0)
        for codes, n in ((clicks.users, n_users), (clicks.items, n_items))
    )
    with torch.no_grad():
        if isinstance(net, FactorPairs | NeuralPairs):
            net.users[no_user], net.items[no_item] = 0, 0
        elif isinstance(net, GraphPairs):
            net.nodes[torch.cat([no_user, no_item])] = 0
        elif isinstance(net, SequencePairs):
            net.net.items(None)[no_item] = 0
    return net


def empty_net(model: str, n_users: int, n_items: int, options: RankOptions) -> PairNet:
    """The net to which the state of a trained one can be loaded; that of LightGCN has its final vectors."""
    if model == "ncf":
        return NeuralPairs(n_users, n_items, options)
    if model == "sasrec":
        return SequencePairs(n_users, n_items, options)
    return FactorPairs(n_users, n_items, options.dim)
