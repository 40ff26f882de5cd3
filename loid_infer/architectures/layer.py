"""A transformer layer, put together from a family's parts, and its attention over padded batches.

Where one token of a text is asked for, only that token's output is computed: values meet the weighted sum of tokens
instead of each of them, and so do keys the query, unless a rotation or a norm stands between. This is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from loid_infer.architectures.positions import Positions, Relation
from loid_infer.types import Spec

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}
# Linear maps that read the same input.
GROUPS = (("qkv",), ("query", "key", "value"), ("output",), ("gate", "expand"), ("contract",))
NORMS = ("query_norm", "key_norm", "attention_norm", "output_norm")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What the layers of a family compute. The defaults are BERT's."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    eps: float
    activation: str
    scale: float  # of scores
    pre_norm: bool = False  # norms before attention and feed-forward, not behind the sums
    rms: bool = False  # RMSNorm instead of LayerNorm
    glu: bool = False  # `expand` gives the part that is activated and then the one it is multiplied by
    skip: int = 0  # rows of the table of positions that come before the first token's
    pad_id: int | None = None  # tokens with this id take no position
    relations: tuple[Relation, ...] = (Relation(),)
    relation_of: tuple[int, ...] = ()  # of each layer; the first of all by default

    @staticmethod
    def of(spec: Spec) -> Plan:
        """BERT's layers in the sizes of `spec`."""
        head_dim = spec.details.get("head_dim") or spec.hidden_dim // spec.n_heads
        n_kv_heads = spec.details.get("num_key_value_heads") or spec.n_heads
        return Plan(
            n_heads=spec.n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            scale=head_dim**-0.5,
            eps=spec.layer_norm_eps,
            activation=spec.activation,
        )


class RmsNorm(nn.Module):
    """RMSNorm (Zhang & Sennrich 2019, eq. 4), computed in float32."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(weight, requires_grad=False), eps

    def forward(self, x: Tensor) -> Tensor:
        """`[.., width]` -> the same."""
        wide = x.float()
        found: Tensor = self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)
        return found


class Attend(Protocol):
    """One layer's attention, for some or all tokens of each text."""

    def __call__(self, layer: Layer, x: Tensor, hidden: Tensor, /) -> tuple[Tensor, Tensor]:
        """The values mixed by attention over `x`, `[.., heads * head_dim]`, and `hidden` of the same tokens."""


class Layer(nn.Module):
    """One layer. Which parts it has is its family's business; what its tokens see is the caller's."""

    query: Any  # linear maps and norms, or None
    key: Any
    value: Any
    qkv: Any  # the three as one
    output: Any
    gate: Any
    expand: Any
    contract: Any
    query_norm: Any
    key_norm: Any
    attention_norm: Any
    output_norm: Any

    def __init__(self, plan: Plan, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for part in (*(part for group in GROUPS for part in group), *NORMS):
            setattr(self, part, parts.get(part))
        self.plan, self.activation = plan, ACTIVATIONS[plan.activation]
        self.narrow: torch.dtype | None = None  # of the linear maps, where it is another one than that of the sums
        self.sizes = [heads * plan.head_dim for heads in (plan.n_heads, plan.n_kv_heads, plan.n_kv_heads)]

    def forward(self, hidden: Tensor, attend: Attend) -> Tensor:
        """`hidden [.., width]` -> the same, of the tokens that `attend` gives."""
        pre = self.plan.pre_norm
        mixed, kept = attend(self, _normed(self.attention_norm, hidden) if pre else hidden, hidden)
        attended = self.output(mixed) + kept
        attended = attended if pre else self.attention_norm(attended)
        found: Tensor = self.contract(self._inner(self.output_norm(attended) if pre else attended)) + attended
        return found if pre else self.output_norm(found)

    def _inner(self, x: Tensor) -> Tensor:
        x = x if self.narrow is None else x.to(self.narrow)
        wide: Tensor = self.expand(x)
        if self.gate is not None:
            return self.activation(self.gate(x)) * wide
        if self.plan.glu:
            first, second = wide.chunk(2, -1)
            return self.activation(first) * second
        return self.activation(wide)

    def groups(self) -> list[tuple[str, ...]]:
        """The linear maps it has, by name; those of a group read the same input."""
        found = (tuple(part for part in group if getattr(self, part) is not None) for group in GROUPS)
        return [group for group in found if group]

    def heads(self, x: Tensor, asking: Tensor | None = None) -> Iterator[Tensor]:
        """Queries, keys and values of `x [.., width]`, each `[.., heads, head_dim]`; queries of `asking` if given."""
        whole = None if self.qkv is None or asking is not None else self._split(self.qkv(x), -1)
        for i, norm in enumerate((self.query_norm, self.key_norm, None)):
            part = self.of_one(i, x if i or asking is None else asking) if whole is None else whole[i]
            yield _normed(norm, part.unflatten(-1, (-1, self.plan.head_dim)))

    def of_one(self, which: int, x: Tensor) -> Tensor:
        """Queries (0), keys (1) or values (2) of `x [.., width]` alone, `[.., heads * head_dim]`."""
        if self.qkv is None:
            found: Tensor = (self.query, self.key, self.value)[which](x)
            return found
        return functional.linear(x, self.weight(which), self.bias(which))

    def weight(self, which: int) -> Tensor:
        """The weight `[heads * head_dim, width]` of that map."""
        parts = (self.query.weight, self.key.weight, self.value.weight) if self.qkv is None else None
        found: Tensor = (parts or self._split(self.qkv.weight, 0))[which]
        return found

    def bias(self, which: int) -> Tensor | None:
        """Its bias `[heads * head_dim]`, where it has one."""
        if self.qkv is None:
            found: Tensor | None = (self.query, self.key, self.value)[which].bias
            return found
        return None if self.qkv.bias is None else self._split(self.qkv.bias, 0)[which]

    def _split(self, whole: Tensor, axis: int) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = whole.split(self.sizes, axis)
        return parts


def _normed(norm: nn.Module | None, x: Tensor) -> Tensor:
    found: Tensor = x if norm is None else norm(x)
    return found


def shared(heads: Tensor, n_heads: int) -> Tensor:
    """Keys or values `[.., heads, ..]` along axis 1, each repeated for the queries that share it."""
    times = n_heads // heads.shape[1]
    if times == 1:
        return heads
    return heads.unsqueeze(2).expand(-1, -1, times, *[-1] * (heads.dim() - 2)).flatten(1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class EveryToken:
    """Attention of all tokens of a padded batch, `[n, tokens, ..]`."""

    positions: Positions
    padding: Tensor | None  # [n, 1, 1, tokens], added to scores; None where no token sees any
    between: Tensor | None  # [1, heads or 1, tokens, tokens], likewise

    @staticmethod
    def of(positions: Positions, padding: Tensor) -> EveryToken:
        """With what `hidden_by` gives for the batch."""
        between, n_tokens = None, padding.shape[-1]
        if not positions.sees_all:
            at = torch.arange(n_tokens, device=padding.device)
            between = positions.bias(at[None, :] - at[:, None], padding.dtype)[None]
        return EveryToken(positions, None if positions.causal else padding, between)

    def __call__(self, layer: Layer, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See `Attend`."""
        plan, every = layer.plan, slice(x.shape[1])
        query, key, value = (part.transpose(1, 2) for part in layer.heads(x))
        query, key = (self.positions.turned(part, every, -2) for part in (query, key))
        key, value = (shared(part, plan.n_heads) for part in (key, value))
        scores = query @ key.transpose(-1, -2)
        scores = scores if plan.scale == 1 else scores * plan.scale
        for bias in (self.padding, self.between):
            scores = scores if bias is None else scores + bias
        mixed = torch.softmax(scores, dim=-1) @ value
        return mixed.transpose(1, 2).flatten(2), hidden


@dataclass(frozen=True, slots=True, eq=False)
class OneToken:
    """Attention of one token of each text, `[n, 1, ..]`, over all tokens of a padded batch."""

    positions: Positions
    padding: Tensor | None  # as in `EveryToken`
    between: Tensor | None  # [n or 1, heads or 1, tokens], likewise
    at: Tensor | None  # [n], where it is; None: the first

    @staticmethod
    def of(positions: Positions, padding: Tensor, mask: Tensor, *, last: bool) -> OneToken:
        """The `last` token of each text, or the first; `mask [n, tokens]`: 1 for a token, 0 for padding."""
        at, between = mask.sum(1) - 1 if last else None, None
        if not positions.sees_all:
            keys = torch.arange(mask.shape[1], device=mask.device)[None, :]
            between = positions.bias(keys if at is None else keys - at[:, None], padding.dtype).transpose(0, 1)
        return OneToken(positions, None if positions.causal and last else padding, between, at)

    def __call__(self, layer: Layer, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See `Attend`.

        With one query a head, q·(Kx + b) = (Kᵀq)·x + q·b: the key's matrix meets the query instead of every token, q·b
        is the same for all tokens and leaves the softmax, and the value's matrix meets the weighted sum of tokens.
        """
        plan, dim = layer.plan, layer.plan.head_dim
        kept = hidden[:, :1] if self.at is None else self._picked(hidden)[:, None]
        padding = None if self.padding is None else self.padding[:, 0]
        key, value = (_by_head(layer.weight(which), plan) for which in (1, 2))  # [heads, head_dim, width]
        query = layer.of_one(0, self._picked(x))
        if self.positions.cos is None and layer.key_norm is None:
            query = (query * plan.scale).unflatten(-1, (plan.n_heads, -1)).transpose(0, 1)
            scores = (query @ key).transpose(0, 1) @ x.transpose(1, 2)  # [n, heads, tokens]
        else:
            query = self._turned(_normed(layer.query_norm, query.unflatten(-1, (-1, dim)))) * plan.scale
            keys = _normed(layer.key_norm, layer.of_one(1, x).unflatten(-1, (-1, dim))).transpose(1, 2)
            keys = shared(self.positions.turned(keys, slice(x.shape[1]), -2), plan.n_heads)
            scores = (query.unsqueeze(2) @ keys.transpose(-1, -2)).squeeze(2)
        for added in (padding, self.between):
            scores = scores if added is None else scores + added
        weights = torch.softmax(scores, dim=-1)
        mixed = (weights @ x).transpose(0, 1) @ value.transpose(1, 2)  # [heads, n, head_dim]
        found, bias = mixed.transpose(0, 1).flatten(1), layer.bias(2)
        if bias is not None:
            found = found + (bias if plan.n_kv_heads == plan.n_heads else _by_head(bias[:, None], plan).flatten())
        return found[:, None], kept

    def _picked(self, x: Tensor) -> Tensor:
        """`[n, tokens, width]` -> `[n, width]`."""
        return x[:, 0] if self.at is None else x[torch.arange(x.shape[0], device=x.device), self.at]

    def _turned(self, query: Tensor) -> Tensor:
        """`[n, heads, head_dim]`, rotated; the first position's rotation is none."""
        return query if self.at is None else self.positions.turned(query, self.at, -3)


def _by_head(weight: Tensor, plan: Plan) -> Tensor:
    """`[heads * head_dim, ..]` -> `[heads of queries, head_dim, ..]`."""
    heads = weight.unflatten(0, (-1, plan.head_dim))
    return heads if plan.n_kv_heads == plan.n_heads else shared(heads[None], plan.n_heads)[0]
