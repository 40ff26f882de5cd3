"""BERT up to CLS over packed tokens: texts one after another, no padding anywhere; what a card is given to compute.

Everything but attention works on tokens, so it needs no mask and computes nothing twice; attention is told where each
text begins. Queries, keys and values are one product. In the last layer keys and values are computed for all tokens and
the rest for CLS, which is exact. The file knows the modules of `torch`; not batches, runtimes or devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from loid_infer.encoders.torch import ClsBert, ClsLayer, JointBert

_MAX_FLASH_DIM = 256


@dataclass(frozen=True, slots=True)
class Pack:
    """Texts one after another."""

    ids: Tensor  # [tokens], integers
    positions: Tensor  # [tokens], of each token in its text
    starts: Tensor  # [n + 1], int32: the first token of each text, and the end
    longest: int  # tokens of the longest text


# (queries [tokens_q, heads, d], keys, values [tokens, heads, d], their starts [n + 1] twice, the longest of each) ->
# [tokens_q, heads, d]: softmax(q k' / sqrt(d)) v within each text.
Attention: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], Tensor]


def attention_for(device: torch.device, dtype: torch.dtype, head_dim: int) -> Attention:
    """Flash attention over packed tokens (Dao 2023) where torch has it for this device, dtype and width of a head, else
    `padded`."""
    narrow = dtype != torch.float32 and head_dim % 8 == 0 and head_dim <= _MAX_FLASH_DIM
    if device.type != "cuda" or not narrow or torch.cuda.get_device_capability(device) < (8, 0):
        return padded
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before torch 2.10
        return padded
    return varlen_attn  # type: ignore[return-value]  # one tensor, unless more is asked for by name


def padded(
    query: Tensor, key: Tensor, value: Tensor, starts_q: Tensor, starts_k: Tensor, longest_q: int, longest_k: int
) -> Tensor:
    """The same on any device in any dtype: padded for attention alone, and packed again."""
    queries, _ = _spread(query, starts_q, longest_q)
    (keys, there), (values, _) = _spread(key, starts_k, longest_k), _spread(value, starts_k, longest_k)
    mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=there[:, None, None, :])
    tokens = torch.arange(len(query), dtype=starts_q.dtype, device=query.device)
    text = torch.searchsorted(starts_q, tokens, right=True) - 1
    return mixed.transpose(1, 2)[text, tokens - starts_q[text]]


def _spread(packed: Tensor, starts: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """`[tokens, heads, d]` -> `[n, heads, longest, d]`, and which of them are the text's own, `[n, longest]`."""
    tokens = starts[:-1, None] + torch.arange(longest, dtype=starts.dtype, device=starts.device)
    spread = packed[tokens.clamp(max=len(packed) - 1)]
    return spread.transpose(1, 2), tokens < starts[1:, None]


class PackedLayer(nn.Module):
    """A `ClsLayer` over packed tokens; the last one gives CLS only."""

    def __init__(self, layer: ClsLayer, attention: Attention) -> None:
        """Take over the parts of `layer`."""
        super().__init__()
        self.n_heads, self.last, self.activation = layer.n_heads, layer.last, layer.activation
        parts = [layer.key, layer.value] if layer.last else [layer.query, layer.key, layer.value]
        width = layer.query.in_features
        self.fused = nn.Linear(width, len(parts) * width)
        self.fused.load_state_dict({"weight": torch.cat([part.weight for part in parts]),
                                    "bias": torch.cat([part.bias for part in parts])})  # fmt: skip
        self.query = layer.query if layer.last else None
        self.output, self.expand, self.contract = layer.output, layer.expand, layer.contract
        self.attention_norm, self.output_norm = layer.attention_norm, layer.output_norm
        self._attention = attention

    def forward(self, hidden: Tensor, pack: Pack) -> Tensor:
        """`hidden [tokens, width]` -> the same, of the last layer `[n, width]`."""
        narrow = hidden.to(self.fused.weight.dtype)
        parts = self.fused(narrow).unflatten(-1, (2 if self.last else 3, self.n_heads, -1)).unbind(1)
        key, value = parts[-2:]
        if self.query is None:
            asked, query, starts, longest = hidden, parts[0], pack.starts, pack.longest
        else:
            first = pack.starts[:-1]  # CLS is the first token of a text
            asked, query = hidden[first], self.query(narrow[first]).unflatten(-1, (self.n_heads, -1))
            starts, longest = torch.arange(len(first) + 1, dtype=torch.int32, device=first.device), 1
        mixed = self._attention(query, key, value, starts, pack.starts, longest, pack.longest)
        attended = self.attention_norm(self.output(mixed.flatten(1)) + asked)
        inner = self.activation(self.expand(attended.to(narrow.dtype)))
        out: Tensor = self.output_norm(self.contract(inner) + attended)
        return out


class PackedBert(nn.Module):
    """A `ClsBert` over packed tokens."""

    def __init__(self, bert: ClsBert, attention: Attention) -> None:
        """Take over the parts of `bert`."""
        super().__init__()
        self.words, self.positions, self.norm = bert.words, bert.positions, bert.norm
        layers = [PackedLayer(layer, attention) for layer in bert.layers if isinstance(layer, ClsLayer)]
        self.layers = nn.ModuleList(layers)
        self.requires_grad_(False).eval()

    def forward(self, pack: Pack) -> Tensor:
        """CLS `[n, width]`."""
        hidden = self.embed(pack)
        for layer in self.layers:
            hidden = layer(hidden, pack)
        return self.cls(hidden)

    def embed(self, pack: Pack) -> Tensor:
        """What the first layer gets, `[tokens, width]`."""
        hidden: Tensor = self.norm(self.words(pack.ids) + functional.embedding(pack.positions, self.positions))
        return hidden

    def context(self, pack: Pack) -> Pack:
        """What every layer gets beside."""
        return pack

    def cls(self, hidden: Tensor) -> Tensor:
        """What the last layer gave."""
        return hidden


def packed(module: ClsBert | JointBert, attention: Attention, dtype: torch.dtype) -> PackedBert | JointBert:
    """`module`, whose parts are taken over, over packed tokens and in `dtype`.

    Of bfloat16, whose 8 bits are too few for what is added up over layers, only products are: embeddings, sums and
    LayerNorm stay in float32.
    """
    made: PackedBert | JointBert
    if isinstance(module, ClsBert):
        made = PackedBert(module, attention)
    else:
        berts = [PackedBert(bert, attention) for bert in module.berts if isinstance(bert, ClsBert)]
        made = JointBert(berts, module.keys)
    if dtype != torch.bfloat16:
        return made.to(dtype)
    for part in made.modules():
        if isinstance(part, nn.Linear):
            part.to(dtype)
    return made
