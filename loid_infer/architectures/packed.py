"""A transformer over packed tokens: texts one after another, no padding anywhere; what a GPU is given to compute.

Everything but attention works on tokens, so it needs no mask and computes nothing twice; attention is told where each
text begins. Queries, keys and values are one product. Where one token is pooled, the last layer computes keys and
values for all tokens and the rest for that one, which is exact. The file knows no batches and no runtimes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from loid_infer.architectures.layer import Layer, Plan, shared
from loid_infer.architectures.positions import Positions
from loid_infer.architectures.transformer import Transformer, linear

_MAX_FLASH_DIM = 256


@dataclass(frozen=True, slots=True)
class Pack:
    """Texts one after another."""

    ids: Tensor  # [tokens], integers
    positions: Tensor  # [tokens], of each token in its text
    starts: Tensor  # [n + 1], int32: the first token of each text, and the end
    longest: int  # tokens of the longest text


@dataclass(frozen=True, slots=True)
class Texts:
    """Whose tokens ask, and whose are asked: of each the starts `[n + 1]` and the most of a text."""

    starts_q: Tensor
    starts_k: Tensor
    longest_q: int
    longest_k: int
    at: Tensor | None  # [n], the place of the only token that asks; None: all do


# (queries [tokens_q, heads, d], keys, values [tokens, heads, d], whose they are) -> [tokens_q, heads, d]
Mix: TypeAlias = Callable[[Tensor, Tensor, Tensor, Texts], Tensor]


def mix_for(device: torch.device, dtype: torch.dtype, plan: Plan, relation: Positions, *, one: bool) -> Mix:
    """Flash attention over packed tokens (Dao 2023) where torch has it for this device, dtype, width of a head and
    relation, else `Padded`."""
    narrow = dtype != torch.float32 and plan.head_dim % 8 == 0 and plan.head_dim <= _MAX_FLASH_DIM
    usual = plan.scale == plan.head_dim**-0.5
    if device.type != "cuda" or not (narrow and usual) or torch.cuda.get_device_capability(device) < (8, 0):
        return Padded(relation, plan.scale)
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before torch 2.10
        return Padded(relation, plan.scale)
    known = inspect.signature(varlen_attn).parameters.keys()
    sees_all = relation.sees_all or (one and relation.causal)  # the last token sees every other
    # One token's window would be taken from the end of its text.
    if relation.table is not None or not (sees_all or ("window_size" in known and not one)):
        return Padded(relation, plan.scale)
    window = (-1, -1) if sees_all else (-1, 0) if relation.causal else (relation.window, relation.window)
    options: dict[str, Any] = {} if sees_all else {"window_size": window}

    def flash(query: Tensor, key: Tensor, value: Tensor, texts: Texts) -> Tensor:
        found: Tensor = varlen_attn(
            query, key, value, texts.starts_q, texts.starts_k, texts.longest_q, texts.longest_k, **options
        )  # type: ignore[assignment]
        return found

    return flash


@dataclass(frozen=True, slots=True)
class Padded:
    """Attention on any device in any dtype: padded for itself alone, and packed again."""

    relation: Positions
    scale: float

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, texts: Texts) -> Tensor:
        """See `Mix`."""
        queries, _ = _spread(query, texts.starts_q, texts.longest_q)
        keys, there = _spread(key, texts.starts_k, texts.longest_k)
        values, _ = _spread(value, texts.starts_k, texts.longest_k)
        mask = there[:, None, None, :]
        if not self.relation.sees_all:
            columns = torch.arange(texts.longest_k, device=query.device)
            rows = torch.arange(texts.longest_q, device=query.device)[None] if texts.at is None else texts.at[:, None]
            bias = self.relation.bias(columns - rows[:, :, None], query.dtype)  # [heads or 1, n or 1, q, k]
            mask = bias.transpose(0, 1).masked_fill(~mask, float("-inf"))
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=self.scale)
        tokens = torch.arange(len(query), dtype=texts.starts_q.dtype, device=query.device)
        text = torch.searchsorted(texts.starts_q, tokens, right=True) - 1
        return mixed.transpose(1, 2)[text, tokens - texts.starts_q[text]]


def _spread(packed: Tensor, starts: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """`[tokens, heads, d]` -> `[n, heads, longest, d]`, and which of them are the text's own, `[n, longest]`."""
    tokens = starts[:-1, None] + torch.arange(longest, dtype=starts.dtype, device=starts.device)
    spread = packed[tokens.clamp(max=len(packed) - 1)]
    return spread.transpose(1, 2), tokens < starts[1:, None]


@dataclass(frozen=True, slots=True, eq=False)
class PackedAttention:
    """See `layer.Attend`: over the tokens of a pack, `[tokens, ..]`."""

    positions: Positions
    mix: Mix
    pack: Pack
    rows: Tensor | None  # [n], the only token of each text that asks; None: all do

    def __call__(self, layer: Layer, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See `Attend`."""
        pack, rows, plan = self.pack, self.rows, layer.plan
        if rows is None:
            asking, kept, texts = x, hidden, Texts(pack.starts, pack.starts, pack.longest, pack.longest, None)
        else:
            asking, kept = x[rows], hidden[rows]
            starts = torch.arange(len(rows) + 1, dtype=torch.int32, device=rows.device)
            texts = Texts(starts, pack.starts, 1, pack.longest, pack.positions[rows])
        x, asking = (part if layer.narrow is None else part.to(layer.narrow) for part in (x, asking))
        query, key, value = layer.heads(x) if rows is None else layer.heads(x, asking)
        query = self.positions.turned(query, pack.positions if rows is None else pack.positions[rows], -3)
        key = self.positions.turned(key, pack.positions, -3)
        key, value = (shared(part, plan.n_heads) for part in (key, value))
        return self.mix(query.to(value.dtype), key.to(value.dtype), value, texts).flatten(1), kept


class PackedTransformer(nn.Module):
    """A `Transformer`, whose parts are taken over, on a device, in a dtype, over packed tokens.

    Of bfloat16, whose 8 bits are too few for what is added up over layers, only products are: embeddings, sums and
    norms stay in float32.
    """

    def __init__(self, module: Transformer, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.one = module, module.pooling != "mean"
        for layer in module.layers[:-1] if self.one else module.layers:
            _fuse(layer)
        for layer in module.layers if dtype == torch.bfloat16 else ():
            layer.narrow = dtype
            for part in layer.children():
                part.to(dtype if isinstance(part, nn.Linear) else torch.float32)
        module.to(device) if dtype == torch.bfloat16 else module.to(device, dtype)
        ones = [self.one and i == len(module.layers) - 1 for i in range(len(module.layers))]
        relations = [module.relations[i] for i in module.relation_of]
        self.mixes = [
            mix_for(device, dtype, module.plan, relation, one=one)
            for relation, one in zip(relations, ones, strict=True)
        ]

    @property
    def pads(self) -> bool:
        """Whether the attention of a layer pads texts."""
        return any(isinstance(mix, Padded) for mix in self.mixes)

    def forward(self, pack: Pack) -> Tensor:
        """The vectors `[n, d]` of the texts of `pack`."""
        module, hidden = self.module, self.module.embed(pack.ids, pack.positions)
        rows = pack.starts[1:] - 1 if module.pooling == "last" else pack.starts[:-1]
        last = len(self.mixes) - 1
        for i, (layer, mix) in enumerate(zip(module.layers, self.mixes, strict=True)):
            relation = module.relations[module.relation_of[i]]
            hidden = layer(hidden, PackedAttention(relation, mix, pack, rows if self.one and i == last else None))
        hidden = hidden if module.final_norm is None else module.final_norm(hidden)
        return module.pool.finish(hidden if self.one else _mean(hidden, pack))


def _mean(hidden: Tensor, pack: Pack) -> Tensor:
    """The mean over each text, `[tokens, width]` -> `[n, width]`, summed in float32."""
    text = (pack.positions == 0).cumsum(0) - 1
    sums = torch.zeros(len(pack.starts) - 1, hidden.shape[1], device=hidden.device)
    sums.index_add_(0, text, hidden.float())
    return (sums / pack.starts.diff()[:, None]).to(hidden.dtype)


def _fuse(layer: Layer) -> None:
    """Make one linear map of those of queries, keys and values."""
    if layer.qkv is not None:
        return
    parts = (layer.query, layer.key, layer.value)
    tensors = {"qkv.weight": torch.cat([part.weight for part in parts])}
    if parts[0].bias is not None:
        tensors["qkv.bias"] = torch.cat([part.bias for part in parts])
    layer.qkv, layer.query, layer.key, layer.value = linear(tensors, "qkv"), None, None, None
