"""A causal transformer over the items of a user, with vectors of IDs, of texts, or their sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from loid_infer.data.sequences import Histories
from loid_infer.rankers.ranking import padded, products
from loid_infer.rankers.settings import RankOptions
from loid_infer.types import Array, Bools, Floats

_STD = 0.02  # of initial vectors, as BERT's
_FLOOR = 1e-3  # of the variances in whitening, relative to the largest


class SequenceNet(nn.Module):
    """SASRec (Kang & McAuley 2018, section III) with GELU and norms after the sums, as RecBole and UniSRec use it.

    The vector of an item is that of its ID, a projection of the whitened vector of its text (UniSRec, Hou et al. 2022,
    section 2.1), or their sum (section 2.3.2). The score of an item is its product with the last position's state.
    """

    def __init__(self, options: RankOptions, n_items: int, *, ids: bool, text_dim: int) -> None:
        """`text_dim` 0: without texts."""
        super().__init__()
        dim = options.dim
        self.ids = nn.Embedding(n_items, dim) if ids else None
        self.text = nn.Linear(text_dim, dim) if text_dim else None
        self.positions = nn.Embedding(options.max_length, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(options.dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, options.attention_heads, 4 * dim, options.dropout, "gelu", batch_first=True)
            for _ in range(options.layers)
        )
        for table in (self.ids, self.positions):
            if table is not None:
                nn.init.normal_(table.weight, std=_STD)
        if self.text is not None:
            nn.init.normal_(self.text.weight, std=5 * _STD / text_dim**0.5)
            nn.init.zeros_(self.text.bias)

    def items(self, texts: Tensor | None) -> Tensor:
        """The vectors of all items `[n_items, dim]`, from whitened text vectors `[n_items, text_dim]`."""
        of_ids = None if self.ids is None else self.ids.weight
        if self.text is None:
            return cast(Tensor, of_ids)
        projected: Tensor = self.text(texts)
        return projected if of_ids is None else projected + of_ids

    def forward(self, sequences: Tensor, items: Tensor) -> Tensor:
        """States `[b, length, dim]` of `sequences [b, length]` of codes, padded with -1 on the right."""
        return self._states(sequences, items, len(self.layers))

    def last(self, sequences: Tensor, lengths: Tensor, items: Tensor) -> Tensor:
        """The states `[b, dim]` at the last positions of `sequences`, `lengths [b]`, without dropout.

        Those of `forward`, but the last layer computes no others.
        """
        hidden = self._states(sequences, items, len(self.layers) - 1)
        layer = cast(nn.TransformerEncoderLayer, self.layers[-1])
        at = (lengths - 1).clamp(min=0)[:, None]
        own = hidden[torch.arange(len(hidden))[:, None], at]
        # Not a padding mask, the first of which costs half a second: see findings/torch-padding-mask.sh.
        later = (torch.arange(hidden.shape[1]) > at)[:, None].repeat_interleave(layer.self_attn.num_heads, 0)
        attended, _ = layer.self_attn(own, hidden, hidden, attn_mask=later, need_weights=False)
        own = layer.norm1(own + attended)
        state: Tensor = layer.norm2(own + layer.linear2(functional.gelu(layer.linear1(own))))
        return state[:, 0]

    def _states(self, sequences: Tensor, items: Tensor, n_layers: int) -> Tensor:
        length = sequences.shape[1]
        hidden = functional.embedding(sequences.clamp(min=0), items) + self.positions.weight[:length]
        hidden = self.dropout(self.norm(hidden))
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=hidden.device)
        for layer in self.layers[:n_layers]:
            hidden = layer(hidden, src_mask=mask, is_causal=True)
        return cast(Tensor, hidden)


@dataclass(frozen=True, slots=True)
class Whitening:
    """A linear map after which vectors have mean 0 and, with power 1, equal variances in uncorrelated directions.

    PCA whitening (Su et al. 2021, eq. 4) with a floor under small variances. A smaller power leaves the directions some
    of their differences, 0 all of them: fewer texts than dimensions would become unlike one another by whitening.
    """

    center: Floats  # [d]
    matrix: Floats  # [d, k]

    @staticmethod
    def of(vectors: Floats, power: float = 1.0) -> Whitening:
        """That of `vectors [n, d]`: directions of variance `v` are divided by `v ** (power / 2)`."""
        vectors = vectors.astype(np.float64)
        center = vectors.mean(axis=0)
        centered = vectors - center
        variances, axes = np.linalg.eigh(centered.T @ centered / len(vectors))
        matrix = axes / np.maximum(variances + _FLOOR * variances[-1], 1e-12) ** (power / 2)
        spread = max(float((centered @ matrix).std()), 1e-12)
        return Whitening(center.astype(np.float32), (matrix / spread).astype(np.float32))

    @staticmethod
    def none(dim: int) -> Whitening:
        """One that changes nothing."""
        return Whitening(np.zeros(dim, np.float32), np.eye(dim, dtype=np.float32))

    def __call__(self, vectors: Floats) -> Floats:
        """The whitened `vectors [n, d]`, float32 `[n, k]`."""
        return cast(Floats, (vectors.astype(np.float32) - self.center) @ self.matrix)


class SequenceRanker:
    """A trained `SequenceNet` with the vectors of its items, which are computed once, when they are first needed."""

    def __init__(self, net: SequenceNet, max_length: int, texts: Tensor | None, known: Bools | None) -> None:
        """Of `texts [n_items, text_dim]`, whitened, and the items `known [n_items]` that can be ranked; None: all."""
        self.net, self.known = net, known
        self._max_length, self._texts = max_length, texts
        self._items: Tensor | None = None
        self._n_items = 0

    def scores(self, histories: Histories) -> Floats:
        """See `Ranker`. All items score 0 for an empty history."""
        return products(self, histories)

    def queries(self, histories: Histories) -> Floats:
        """See `ProductRanker`: the state at the last item."""
        self.net.eval()
        recent = histories.last(self._max_length)
        lengths = torch.from_numpy(recent.lengths)
        with torch.inference_mode():
            states = self.net.last(torch.from_numpy(recent.padded()), lengths, self._of_items())
            found: Array = (states * (lengths > 0)[:, None]).numpy()
        return found

    def vectors(self) -> tuple[Floats, Bools]:
        """See `ProductRanker`."""
        items = self._of_items().numpy()
        return items, np.ones(self._n_items, bool) if self.known is None else self.known

    def _of_items(self) -> Tensor:
        """`padded`."""
        if self._items is None:
            with torch.inference_mode():
                items = self.net.items(self._texts).numpy()
            self._n_items, self._items = len(items), torch.from_numpy(padded(items))
        return self._items
