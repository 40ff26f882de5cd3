"""LightGCN (He et al. 2020): vectors of users and items, smoothed over the graph of their interactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from loid_infer.data.sequences import Histories, Sequences, SequenceSplit
from loid_infer.rankers.ranking import padded, products
from loid_infer.types import Array, Bools, Floats, Ints

_STD = 0.03  # of initial vectors; from 0.1 little more than popularity was learned before training stopped


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """The symmetric matrix `D^-1/2 A D^-1/2` of users, then items (eq. 8), by rows."""

    starts: Tensor  # [n + 1], the neighbors of node i are starts[i] .. starts[i + 1]
    neighbors: Tensor  # [m], nodes
    weights: Tensor  # [m], float32
    degrees: Tensor  # [n], float32

    @staticmethod
    def of(sequences: Sequences, split: SequenceSplit) -> Graph:
        """That of the training interactions."""
        train = split.train(sequences)
        users, items = sequences.users[train], sequences.items[train]
        return Graph.between(users, items, sequences.n_users, sequences.n_items)

    @staticmethod
    def between(users: Ints, items: Ints, n_users: int, n_items: int) -> Graph:
        """That of the interactions of `users [m]` with `items [m]`, codes; repeated ones count once."""
        pairs = np.unique(users * n_items + items)
        users, items = pairs // n_items, n_users + pairs % n_items
        rows, neighbors = np.concatenate([users, items]), np.concatenate([items, users])
        order = np.lexsort((neighbors, rows))
        rows, neighbors = rows[order], neighbors[order]
        degrees = np.bincount(rows, minlength=n_users + n_items)
        starts = np.concatenate([[0], np.cumsum(degrees)])
        weights = (1 / np.sqrt(degrees[rows] * degrees[neighbors])).astype(np.float32)
        arrays: tuple[Array, ...] = (starts, neighbors, weights, degrees.astype(np.float32))
        return Graph(*map(torch.from_numpy, arrays))

    def __call__(self, vectors: Tensor) -> Tensor:
        """The product with `vectors [n, d]`."""
        result: Tensor = _Product.apply(vectors, self)  # type: ignore[no-untyped-call]
        return result

    def propagated(self, nodes: Tensor, n_layers: int) -> list[Tensor]:
        """The vectors `[n, d]` in layers 0, which are `nodes`, to `n_layers`."""
        found = [nodes]
        for _ in range(n_layers):
            found.append(self(found[-1]))
        return found

    def product(self, vectors: Tensor) -> Tensor:
        """The same without a gradient. A sum of bags takes half the time of torch's sparse matrices."""
        return functional.embedding_bag(
            self.neighbors, vectors, self.starts, mode="sum", per_sample_weights=self.weights, include_last_offset=True
        )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, vectors: Tensor, graph: Graph) -> Tensor:
        context.graph = graph
        return graph.product(vectors)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.graph.product(gradients[0].contiguous()), None  # it is symmetric


class GraphNet(nn.Module):
    """The final vector of a node is the mean of its vectors in all layers, layer 0 included (eq. 3 to 5)."""

    def __init__(self, graph: Graph, n_users: int, dim: int, layers: int) -> None:
        super().__init__()
        self.graph, self.n_users, self.layers = graph, n_users, layers
        self.nodes = nn.Parameter(torch.randn(len(graph.degrees), dim) * _STD)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """The scores `[b, k]` of `items [b, k]` for `users [b]`, codes."""
        final = self.mean(self.propagated())
        of_users = functional.embedding(users, final)
        of_items = functional.embedding(self.n_users + items, final)
        return (of_users[:, None] * of_items).sum(dim=2)

    def propagated(self) -> list[Tensor]:
        """The vectors in every layer, `[n_users + n_items, dim]` each."""
        return self.graph.propagated(self.nodes, self.layers)

    def mean(self, layers: Sequence[Tensor]) -> Tensor:
        """The sum of some layers over the number of all."""
        return reduce(torch.add, layers) / (self.layers + 1)

    def ranker(self, known: Bools) -> GraphRanker:
        """What ranks with the vectors of now."""
        with torch.inference_mode():
            of_users, of_items = self.graph.degrees[:, None].split([self.n_users, len(known)])
            layers = self.propagated()
            items = self.mean(layers)[self.n_users :]
            messages = self.mean(layers[:-1])[self.n_users :] / of_items.clamp(min=1).sqrt()
            messages[torch.from_numpy(~known)] = 0
            users = self.nodes[: self.n_users] * (of_users > 0) / (self.layers + 1)
            return GraphRanker(users.numpy(), padded(items.numpy()), messages.numpy(), known)


@dataclass(frozen=True, slots=True, eq=False)
class GraphRanker:
    """A trained `GraphNet`. The vector of a user is computed from the history as that of a node with these neighbors.

    With the history of the training part it is the final vector of the user's node. A user the net was not trained on
    has a vector of 0 in layer 0, and what has been added to a history counts without a new training.
    """

    users: Floats  # [n_users, d], layer 0 over the number of layers
    items: Floats  # [>= n_items, d], `padded`
    messages: Floats  # [n_items, d], what an item adds to the vector of a user with one neighbor
    known: Bools  # [n_items], items with training interactions

    def scores(self, histories: Histories) -> Floats:
        """See `Ranker`."""
        return products(self, histories)

    def queries(self, histories: Histories) -> Floats:
        """See `ProductRanker`."""
        rows, items = histories.flat()
        cells: Ints = np.unique(rows * len(self.known) + items)
        rows, items = cells // len(self.known), cells % len(self.known)
        lengths = np.bincount(rows, minlength=histories.n)
        starts = torch.from_numpy(np.cumsum(lengths) - lengths)
        sums: Floats = functional.embedding_bag(
            torch.from_numpy(items), torch.from_numpy(self.messages), starts, mode="sum"
        ).numpy()
        own = np.where((histories.users >= 0)[:, None], self.users[histories.users], np.float32(0))
        return own + sums / np.sqrt(np.maximum(lengths, 1), dtype=np.float32)[:, None]

    def vectors(self) -> tuple[Floats, Bools]:
        """See `ProductRanker`."""
        return self.items, self.known

    def tensors(self) -> dict[str, Array]:
        """What `GraphRanker(**tensors)` restores."""
        return {"users": self.users, "items": self.items, "messages": self.messages, "known": self.known}
