"""CoRA's generator (arXiv 2408.10645): low-rank increments of a decoder's weights from the vectors of a pair."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_HEADS = 4  # of its attention


class Generator(nn.Module):
    """Learned queries read the vectors of the user and of the item; their mean decides the left factor of an increment.

    The increment of the weight `W` of a layer is `A(u, i) B`: `A` is a linear map of the mean plus an embedding of the
    layer, and all layers share the map; `B` is learned for each weight and starts at 0, so that training starts from
    the unchanged decoder.
    """

    centers: Tensor  # [2, cf_dim], of users and of items
    spreads: Tensor  # [2]

    def __init__(
        self,
        cf_dim: int,
        n_layers: int,
        sizes: Mapping[str, tuple[int, int]],
        rank: int,
        dim: int,
        queries: int,
        blocks: int,
    ) -> None:
        """A generator for `n_layers` layers.

        Args:
            cf_dim: width of the vectors of users and items.
            sizes: input and output width of each linear map of a layer that is changed, by name.
            rank, dim, queries, blocks: of the increments; width, number and transformer blocks of the queries.
        """
        super().__init__()
        self.rank, self.sizes = rank, dict(sizes)
        self.read = nn.ModuleList(nn.Linear(cf_dim, dim) for _ in ("user", "item"))
        self.register_buffer("centers", torch.zeros(2, cf_dim))
        self.register_buffer("spreads", torch.ones(2))
        self.queries = nn.Parameter(torch.randn(queries, dim) * dim**-0.5)
        self.blocks = nn.ModuleList(
            nn.TransformerDecoderLayer(dim, _HEADS, 4 * dim, 0.0, "gelu", batch_first=True) for _ in range(blocks)
        )
        self.layers = nn.Parameter(torch.randn(n_layers, dim) * dim**-0.5)
        self.left = nn.ModuleDict({name: nn.Linear(dim, d_in * rank) for name, (d_in, _) in self.sizes.items()})
        self.right = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(n_layers, rank, d_out)) for name, (_, d_out) in self.sizes.items()}
        )

    def scale_to(self, *sides: Tensor) -> None:
        """Scale vectors of users and items so that these, `[n, cf_dim]` each, have mean 0 and variance 1."""
        self.centers = torch.stack([vectors.mean(dim=0) for vectors in sides])
        spreads = [(vectors - vectors.mean(dim=0)).square().mean().sqrt() for vectors in sides]
        self.spreads = torch.stack(spreads).clamp(min=1e-6)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """The vectors of pairs `[b, dim]`, from those of users and items `[b, cf_dim]`."""
        sides = zip(self.read, (user, item), self.centers, self.spreads, strict=True)
        memory = torch.stack([read((vectors - center) / spread) for read, vectors, center, spread in sides], dim=1)
        state = self.queries.expand(len(user), -1, -1)
        for block in self.blocks:
            state = block(state, memory)
        return state.mean(dim=1)

    def increment(self, pairs: Tensor, layer: int, name: str) -> tuple[Tensor, Tensor]:
        """`A [b, d_in, rank]` and `B [rank, d_out]` of a linear map, from the vectors of pairs `[b, dim]`."""
        d_in = self.sizes[name][0]
        left = self.left[name](pairs + self.layers[layer]).unflatten(1, (d_in, self.rank)) * d_in**-0.5
        return left, self.right[name][layer]


class GeneratedLinear(nn.Module):
    """A frozen linear layer plus the increments of the texts of a batch: `y = x W + (x A) B`, without building `W'`."""

    def __init__(self, frozen: nn.Linear) -> None:
        super().__init__()
        self.frozen = frozen
        self.increment: tuple[Tensor, Tensor] | None = None  # of the texts of the batch that comes next

    def forward(self, x: Tensor) -> Tensor:
        """`x [n, tokens, d_in]` -> `[n, tokens, d_out]`."""
        y: Tensor = self.frozen(x)
        if self.increment is None:
            return y
        left, right = (part.to(x.dtype) for part in self.increment)
        return y + (x @ left) @ right
