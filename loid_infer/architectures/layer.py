"""The transformer layer of all families, and its attention over padded batches, for all tokens or for one per text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

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
# Linear maps with the same input.
GROUPS = (("qkv",), ("query", "key", "value"), ("output",), ("gate", "expand"), ("contract",))
NORMS = ("query_norm", "key_norm", "attention_norm", "output_norm")
# A layer's attention: (layer, x, hidden) -> its output over `x`, `[.., heads * head_dim]`, for all or some tokens of
# each text, and the rows of `hidden` of the same tokens.
Attend: TypeAlias = Callable[["Layer", Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """The computation of a family's layers. The defaults are BERT's."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    eps: float
    activation: str
    scale: float  # of scores
    pre_norm: bool = False  # norms before attention and feed-forward, not after the sums
    rms: bool = False  # RMSNorm instead of LayerNorm
    glu: bool = False  # `expand` computes both halves of a gated unit: the activated one, then the factor
    skip: int = 0  # unused first rows of the position table
    pad_id: int | None = None  # tokens with this id have no position
    relations: tuple[Relation, ...] = (Relation(),)
    relation_of: tuple[int, ...] = ()  # index into `relations` of each layer; by default 0

    @staticmethod
    def of(spec: Spec) -> Plan:
        """BERT's layers in the sizes of `spec`."""
        head_dim = spec.details.get("head_dim") or spec.hidden_dim // spec.n_heads
        return Plan(
            n_heads=spec.n_heads,
            n_kv_heads=spec.details.get("num_key_value_heads") or spec.n_heads,
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
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        scaled: Tensor = self.weight * normed.to(x.dtype)
        return scaled


class Layer(nn.Module):
    """A transformer layer. Its family decides which parts it has; the caller passes the attention."""

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
        self.linear_dtype: torch.dtype | None = None  # of the linear maps, if it differs from that of the sums
        # Factors `[width]` of the residuals of attention and feed-forward, if norms were folded. Residuals come first
        # in their sums: only then does OpenVINO multiply and add in one pass (seen in 2026.4).
        self.scales: tuple[Tensor | None, Tensor | None] = (None, None)
        self.sizes = [heads * plan.head_dim for heads in (plan.n_heads, plan.n_kv_heads, plan.n_kv_heads)]

    def forward(self, hidden: Tensor, attend: Attend) -> Tensor:
        """`hidden [.., width]` -> the same shape, for the tokens that `attend` returns."""
        pre = self.plan.pre_norm
        mixed, residual = attend(self, _normalize(self.attention_norm, hidden) if pre else hidden, hidden)
        attended = _scaled(residual, self.scales[0]) + self.output(mixed)
        attended = attended if pre else self.attention_norm(attended)
        inner = self._activated(self.output_norm(attended) if pre else attended)
        output: Tensor = _scaled(attended, self.scales[1]) + self.contract(inner)
        return output if pre else self.output_norm(output)

    def _activated(self, x: Tensor) -> Tensor:
        x = x if self.linear_dtype is None else x.to(self.linear_dtype)
        inner: Tensor = self.expand(x)
        if self.gate is not None:
            return self.activation(self.gate(x)) * inner
        if self.plan.glu:
            activated, factor = inner.chunk(2, -1)
            return self.activation(activated) * factor
        return self.activation(inner)

    def groups(self) -> list[tuple[str, ...]]:
        """The names of the linear maps, grouped by input."""
        groups = (tuple(part for part in group if getattr(self, part) is not None) for group in GROUPS)
        return [group for group in groups if group]

    def heads(self, x: Tensor, query_input: Tensor | None = None) -> Iterator[Tensor]:
        """Queries, keys and values of `x [.., width]`, each `[.., heads, head_dim]`; queries of `query_input` if
        given."""
        fused = None if self.qkv is None or query_input is not None else self.qkv(x).split(self.sizes, -1)
        for i, norm in enumerate((self.query_norm, self.key_norm, None)):
            part = self.project(i, x if i or query_input is None else query_input) if fused is None else fused[i]
            yield _normalize(norm, part.unflatten(-1, (-1, self.plan.head_dim)))

    def project(self, which: int, x: Tensor) -> Tensor:
        """Queries (0), keys (1) or values (2) of `x [.., width]`, `[.., heads * head_dim]`."""
        if self.qkv is None:
            projected: Tensor = (self.query, self.key, self.value)[which](x)
            return projected
        return functional.linear(x, *self.parameters_of(which))

    def parameters_of(self, which: int) -> tuple[Tensor, Tensor | None]:
        """The weight `[heads * head_dim, width]` of that projection, and its bias if it has one."""
        if self.qkv is None:
            linear = (self.query, self.key, self.value)[which]
            return linear.weight, linear.bias
        weight, bias = self.qkv.weight, self.qkv.bias
        return weight.split(self.sizes)[which], None if bias is None else bias.split(self.sizes)[which]


def _normalize(norm: nn.Module | None, x: Tensor) -> Tensor:
    normed: Tensor = x if norm is None else norm(x)
    return normed


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale


def repeat_heads(heads: Tensor, n_heads: int) -> Tensor:
    """Keys or values with heads along axis 1, repeated to `n_heads` (grouped-query attention)."""
    times = n_heads // heads.shape[1]
    if times == 1:
        return heads
    return heads.unsqueeze(2).expand(-1, -1, times, *[-1] * (heads.dim() - 2)).flatten(1, 2)


class EveryToken:
    """Attention of all tokens of a padded batch, `[n, tokens, ..]`."""

    def __init__(self, positions: Positions, padding: Tensor, numbers: Tensor) -> None:
        """`padding` is the `padding_bias` of the batch, `numbers` are its `token_numbers`."""
        self.positions, self.numbers = positions, numbers
        # Both are added to scores; with causal attention, padding is later than all tokens.
        self.padding, self.bias = None if positions.causal else padding, None
        if not positions.sees_all:
            self.bias = positions.bias(numbers[None, :] - numbers[:, None], padding.dtype)[None]

    def __call__(self, layer: Layer, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See `Attend`."""
        plan = layer.plan
        query, key, value = (part.transpose(1, 2) for part in layer.heads(x))
        query, key = (self.positions.rotate(part, self.numbers, -2) for part in (query, key))
        key, value = (repeat_heads(part, plan.n_heads) for part in (key, value))
        scores = query @ key.transpose(-1, -2)
        scores = scores if plan.scale == 1 else scores * plan.scale
        for bias in (self.padding, self.bias):
            scores = scores if bias is None else scores + bias
        mixed = torch.softmax(scores, dim=-1) @ value
        return mixed.transpose(1, 2).flatten(2), hidden


class OneToken:
    """Attention of one token of each text, `[n, 1, ..]`, over all tokens of a padded batch."""

    def __init__(
        self,
        positions: Positions,
        padding: Tensor,
        numbers: Tensor,
        mask: Tensor,
        *,
        last: bool,
        by_product: bool = False,
    ) -> None:
        """The `last` token of each text, or the first; `mask [n, tokens]`: 1 for a token, 0 for padding.

        `by_product`: select its row by a matrix product, with the same result.
        """
        self.positions, self.numbers, self.by_product = positions, numbers, by_product
        self.index = mask.sum(1) - 1 if last else None  # [n], the position of the token; None: the first
        self.padding, self.bias = None if positions.causal and last else padding, None  # as in `EveryToken`
        if not positions.sees_all:
            keys = numbers[None, :]
            distance = keys if self.index is None else keys - self.index[:, None]
            self.bias = positions.bias(distance, padding.dtype).transpose(0, 1)  # [n or 1, heads or 1, tokens]

    def __call__(self, layer: Layer, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See `Attend`.

        With one query per head, q·(Kx + b) = (Kᵀq)·x + q·b: the key matrix is applied to the query instead of every
        token, and q·b, equal for all tokens, cancels in the softmax. The value matrix is applied to the weighted sum of
        the tokens. Exact; with rotary positions or a key norm, keys are computed for all tokens.
        """
        plan, dim = layer.plan, layer.plan.head_dim
        if self.by_product:
            residual = self._product(hidden)
        else:
            residual = hidden[:, :1] if self.index is None else self._select(hidden)[:, None]
        padding = None if self.padding is None else self.padding[:, 0]
        (key, _), (value, value_bias) = map(layer.parameters_of, (1, 2))
        key, value = _by_head(key, plan), _by_head(value, plan)  # [heads, head_dim, width]
        query = layer.project(0, self._select(x))
        if self.positions.cos is None and layer.key_norm is None:
            query = (query * plan.scale).unflatten(-1, (plan.n_heads, -1)).transpose(0, 1)
            scores = (query @ key).transpose(0, 1) @ x.transpose(1, 2)  # [n, heads, tokens]
        else:
            query = _normalize(layer.query_norm, query.unflatten(-1, (-1, dim)))
            if self.index is not None:  # position 0 is not rotated
                query = self.positions.rotate(query, self.index, -3)
            query = query * plan.scale
            keys = _normalize(layer.key_norm, layer.project(1, x).unflatten(-1, (-1, dim))).transpose(1, 2)
            keys = repeat_heads(self.positions.rotate(keys, self.numbers, -2), plan.n_heads)
            scores = (query.unsqueeze(2) @ keys.transpose(-1, -2)).squeeze(2)
        for bias in (padding, self.bias):
            scores = scores if bias is None else scores + bias
        weights = torch.softmax(scores, dim=-1)
        mixed = (weights @ x).transpose(0, 1) @ value.transpose(1, 2)  # [heads, n, head_dim]
        output = mixed.transpose(0, 1).flatten(1)
        if value_bias is not None:
            if plan.n_kv_heads != plan.n_heads:
                value_bias = _by_head(value_bias[:, None], plan).flatten()
            output = output + value_bias
        return output[:, None], residual

    def _product(self, x: Tensor) -> Tensor:
        """`[n, tokens, width]` -> `[n, 1, width]`, as the product with rows of a 1 and zeros."""
        others = self.numbers[None] != (0 if self.index is None else self.index[:, None])
        selected: Tensor = (1.0 - others.to(x.dtype))[:, None] @ x
        return selected

    def _select(self, x: Tensor) -> Tensor:
        """`[n, tokens, width]` -> `[n, width]`."""
        return x[:, 0] if self.index is None else torch.take_along_dim(x, self.index[:, None, None], 1)[:, 0]


def _by_head(weight: Tensor, plan: Plan) -> Tensor:
    """`[kv heads * head_dim, ..]` -> `[heads, head_dim, ..]`."""
    heads = weight.unflatten(0, (-1, plan.head_dim))
    return heads if plan.n_kv_heads == plan.n_heads else repeat_heads(heads[None], plan.n_heads)[0]
