"""A transformer over packed tokens: concatenated texts without padding, as computed on GPUs.

Attention gets the start of each text; everything else works on single tokens. Queries, keys and values are one matrix
product. Where one token is pooled, the last layer computes all but keys and values for that token only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from loid_infer.architectures.layer import Layer, Plan, repeat_heads
from loid_infer.architectures.positions import Positions
from loid_infer.architectures.transformer import Transformer, linear

_MAX_FLASH_DIM = 256


@dataclass(frozen=True, slots=True)
class Pack:
    """Concatenated texts."""

    ids: Tensor  # [tokens], integers
    positions: Tensor  # [tokens], of each token in its text
    starts: Tensor  # [n + 1], int32: the first token of each text, and the end
    longest: int  # tokens of the longest text


@dataclass(frozen=True, slots=True)
class Texts:
    """The boundaries of texts in packed queries and keys: starts `[n + 1]` and the most tokens of a text."""

    starts_q: Tensor
    starts_k: Tensor
    longest_q: int
    longest_k: int
    query_positions: Tensor | None  # [n], of the only query of each text; None: every token is a query


# (queries [tokens_q, heads, d], keys, values [tokens, heads, d], boundaries) -> [tokens_q, heads, d]
Attention: TypeAlias = Callable[[Tensor, Tensor, Tensor, Texts], Tensor]


def attention_for(device: torch.device, dtype: torch.dtype, plan: Plan, relation: Positions, *, one: bool) -> Attention:
    """Flash attention over packed tokens (Dao 2023) where torch supports it for this device, dtype, head width and
    relation, else `Padded`. `one`: each text has one query."""
    supported = dtype != torch.float32 and plan.head_dim % 8 == 0 and plan.head_dim <= _MAX_FLASH_DIM
    supported = supported and plan.scale == plan.head_dim**-0.5
    if device.type != "cuda" or not supported or torch.cuda.get_device_capability(device) < (8, 0):
        return Padded(relation, plan.scale)
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before torch 2.10
        return Padded(relation, plan.scale)
    has_window = "window_size" in inspect.signature(varlen_attn).parameters
    sees_all = relation.sees_all or (one and relation.causal)  # a single causal query is the last token
    # varlen_attn aligns queries with the end of the text, which is wrong for the window of a single query.
    if relation.table is not None or not (sees_all or (has_window and not one)):
        return Padded(relation, plan.scale)
    window = (-1, -1) if sees_all else (-1, 0) if relation.causal else (relation.window, relation.window)
    options: dict[str, Any] = {} if sees_all else {"window_size": window}

    def flash(query: Tensor, key: Tensor, value: Tensor, texts: Texts) -> Tensor:
        output: Tensor = varlen_attn(
            query, key, value, texts.starts_q, texts.starts_k, texts.longest_q, texts.longest_k, **options
        )  # type: ignore[assignment]
        return output

    return flash


@dataclass(frozen=True, slots=True)
class Padded:
    """Attention on any device in any dtype: pads the texts, and packs the result again."""

    relation: Positions
    scale: float

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, texts: Texts) -> Tensor:
        """See `Attention`."""
        queries, _ = _pad(query, texts.starts_q, texts.longest_q)
        keys, valid = _pad(key, texts.starts_k, texts.longest_k)
        values, _ = _pad(value, texts.starts_k, texts.longest_k)
        mask = valid[:, None, None, :]
        if not self.relation.sees_all:
            columns = torch.arange(texts.longest_k, device=query.device)
            if texts.query_positions is None:
                rows = torch.arange(texts.longest_q, device=query.device)[None]
            else:
                rows = texts.query_positions[:, None]
            bias = self.relation.bias(columns - rows[:, :, None], query.dtype)  # [heads or 1, n or 1, q, k]
            mask = bias.transpose(0, 1).masked_fill(~mask, float("-inf"))
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=self.scale)
        tokens = torch.arange(len(query), dtype=texts.starts_q.dtype, device=query.device)
        text = torch.searchsorted(texts.starts_q, tokens, right=True) - 1
        return mixed.transpose(1, 2)[text, tokens - texts.starts_q[text]]


def _pad(packed: Tensor, starts: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """`[tokens, heads, d]` -> `[n, heads, longest, d]`, and a mask `[n, longest]` that is false for padding."""
    tokens = starts[:-1, None] + torch.arange(longest, dtype=starts.dtype, device=starts.device)
    padded = packed[tokens.clamp(max=len(packed) - 1)]
    return padded.transpose(1, 2), tokens < starts[1:, None]


@dataclass(frozen=True, slots=True, eq=False)
class PackedAttention:
    """See `layer.Attend`: over the tokens of a pack, `[tokens, ..]`."""

    positions: Positions
    attention: Attention
    pack: Pack
    rows: Tensor | None  # [n], the token of each text that is computed; None: all tokens

    def __call__(self, layer: Layer, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See `Attend`."""
        pack, rows, plan = self.pack, self.rows, layer.plan
        if rows is None:
            query_input, residual = x, hidden
            texts = Texts(pack.starts, pack.starts, pack.longest, pack.longest, None)
        else:
            query_input, residual = x[rows], hidden[rows]
            starts = torch.arange(len(rows) + 1, dtype=torch.int32, device=rows.device)
            texts = Texts(starts, pack.starts, 1, pack.longest, pack.positions[rows])
        if layer.linear_dtype is not None:
            x, query_input = x.to(layer.linear_dtype), query_input.to(layer.linear_dtype)
        query, key, value = layer.heads(x) if rows is None else layer.heads(x, query_input)
        query = self.positions.rotate(query, pack.positions if rows is None else pack.positions[rows], -3)
        key = self.positions.rotate(key, pack.positions, -3)
        key, value = (repeat_heads(part, plan.n_heads) for part in (key, value))
        return self.attention(query.to(value.dtype), key.to(value.dtype), value, texts).flatten(1), residual


class PackedTransformer(nn.Module):
    """A `Transformer` over packed tokens, on a device, in a dtype. The module's parts are modified and used.

    With bfloat16, only matrix products use it: embeddings, sums and norms stay in float32.
    """

    def __init__(self, module: Transformer, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.one = module, module.pooling != "mean"
        for layer in module.layers[:-1] if self.one else module.layers:
            _fuse(layer)
        for layer in module.layers if dtype == torch.bfloat16 else ():
            layer.linear_dtype = dtype
            for part in layer.children():
                part.to(dtype if isinstance(part, nn.Linear) else torch.float32)
        module.to(device) if dtype == torch.bfloat16 else module.to(device, dtype)
        last = len(module.layers) - 1
        self.attentions = [
            attention_for(device, dtype, module.plan, module.relations[relation], one=self.one and i == last)
            for i, relation in enumerate(module.relation_of)
        ]
        # Whether any layer pads texts for its attention.
        self.pads = any(isinstance(attention, Padded) for attention in self.attentions)

    def forward(self, pack: Pack) -> Tensor:
        """The vectors `[n, d]` of the texts of `pack`."""
        module, hidden = self.module, self.module.embed(pack.ids, pack.positions)
        rows = pack.starts[1:] - 1 if module.pooling == "last" else pack.starts[:-1]
        last = len(self.attentions) - 1
        for i, (layer, attention) in enumerate(zip(module.layers, self.attentions, strict=True)):
            relation = module.relations[module.relation_of[i]]
            selected = rows if self.one and i == last else None
            hidden = layer(hidden, PackedAttention(relation, attention, pack, selected))
        hidden = hidden if module.final_norm is None else module.final_norm(hidden)
        return module.pool.finish(hidden if self.one else _mean(hidden, pack))


def _mean(hidden: Tensor, pack: Pack) -> Tensor:
    """The mean over each text, `[tokens, width]` -> `[n, width]`, summed in float32."""
    text = (pack.positions == 0).cumsum(0) - 1
    sums = torch.zeros(len(pack.starts) - 1, hidden.shape[1], device=hidden.device)
    sums.index_add_(0, text, hidden.float())
    return (sums / pack.starts.diff()[:, None]).to(hidden.dtype)


def _fuse(layer: Layer) -> None:
    """Replace the linear maps of queries, keys and values by one."""
    if layer.qkv is not None:
        return
    parts = (layer.query, layer.key, layer.value)
    tensors = {"qkv.weight": torch.cat([part.weight for part in parts])}
    if parts[0].bias is not None:
        tensors["qkv.bias"] = torch.cat([part.bias for part in parts])
    layer.qkv, layer.query, layer.key, layer.value = linear(tensors, "qkv"), None, None, None
