"""Position-dependent attention: causal masks, windows, relative position biases and rotary positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from loid_infer.architectures.family import Unsupported

MASKED = -1e4  # added to masked scores: finite in every precision, and the softmax weight is 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Relation:
    """How attention depends on positions: at most one of causal, window and buckets; and rotary frequencies."""

    causal: bool = False  # no attention to later tokens
    window: int = 0  # maximum distance of attention to either side; 0: unlimited
    buckets: tuple[int, int] | None = None  # number and maximum distance of relative biases (Raffel et al. 2020, 2.1)
    frequencies: Tensor | None = None  # [head_dim / 2], rotary positions (Su et al. 2021)


class Positions(nn.Module):
    """The tensors of a `Relation` for texts of up to `max_tokens`."""

    table: Tensor | None  # [2 max_tokens - 1, heads], score bias by distance
    cos: Tensor | None  # [max_tokens, head_dim]
    sin: Tensor | None

    def __init__(self, relation: Relation, max_tokens: int, biases: Tensor | None) -> None:
        """`biases [buckets, heads]`: the relative position biases, if there are any."""
        super().__init__()
        self.causal, self.window, self.max_distance = relation.causal, relation.window, max_tokens - 1
        if sum([relation.causal, bool(relation.window), relation.buckets is not None]) > 1:
            raise NotImplementedError("at most one of causal, window and buckets is supported")
        table = cos = sin = None
        if relation.buckets is not None and biases is not None:
            table = biases[_bucket(torch.arange(-self.max_distance, max_tokens), *relation.buckets)]
        if relation.frequencies is not None:
            angles = torch.arange(max_tokens).float()[:, None] * relation.frequencies
            cos, sin = (part.repeat(1, 2) for part in (angles.cos(), angles.sin()))
        # Whether there is no mask and no bias, so that `bias` need not be called.
        self.sees_all = table is None and not relation.causal and not relation.window
        for name, tensor in (("table", table), ("cos", cos), ("sin", sin)):
            self.register_buffer(name, tensor, persistent=False)

    def bias(self, distance: Tensor, dtype: torch.dtype) -> Tensor:
        """Score biases `[heads or 1, ..]` for `distance [..]`, the position of the key minus that of the query."""
        if self.table is not None:
            return functional.embedding(distance + self.max_distance, self.table).movedim(-1, 0).to(dtype)
        masked = distance > 0 if self.causal else distance.abs() > self.window
        return masked[None].to(dtype) * MASKED

    def rotate(self, x: Tensor, positions: Tensor, axis: int) -> Tensor:
        """`x [.., head_dim]` with rotary positions applied; `positions` are those along `axis` of `x`."""
        if self.cos is None or self.sin is None:
            return x
        cos, sin = (functional.embedding(positions, part).to(x.dtype) for part in (self.cos, self.sin))
        for _ in range(-2 - axis):
            cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin


def token_numbers(mask: Tensor) -> Tensor:
    """0, 1, 2, ... for the tokens of `mask [n, tokens]`, int64 `[tokens]`."""
    numbers: Tensor = torch.ones_like(mask[0]).cumsum(0) - 1
    return numbers


def padding_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Score biases `[n, 1, 1, tokens]` of `mask [n, tokens]`: 0 for a token (1), MASKED for padding (0)."""
    return (1.0 - mask[:, None, None, :].to(dtype)) * MASKED


def _bucket(distance: Tensor, n_buckets: int, max_distance: int) -> Tensor:
    """T5's bucket of each distance: half of them per direction, small distances exact, larger ones logarithmic."""
    per_side, n_exact = n_buckets // 2, n_buckets // 4
    size = distance.abs()
    scaled = torch.log(size.float() / n_exact) / math.log(max_distance / n_exact) * (per_side - n_exact)
    large = (n_exact + scaled.long()).clamp(max=per_side - 1)
    return (distance > 0).long() * per_side + torch.where(size < n_exact, size, large)


def rotary(config: Mapping[str, Any], theta: float, scaled: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The rotary fields of a config of transformers 4 or 5.

    Args:
        theta: default base of the frequencies.
        scaled: the `rope_parameters` of one kind of layer, where transformers 5 has several.

    Raises:
        Unsupported: a kind of scaling that is not implemented, such as those that depend on the length of the text.
    """
    given = dict(scaled or config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind not in _SCALED or given.get("partial_rotary_factor", 1.0) != 1.0:
        raise Unsupported("rope_type", kind, " or ".join(_SCALED))
    rope: dict[str, Any] = {"rope_theta": float(given.get("rope_theta") or config.get("rope_theta") or theta)}
    if kind != "default":
        rope["rope_type"] = kind
    return rope | {name: float(given[name]) for name in _SCALED[kind]}


_SCALED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def frequencies(rope: Mapping[str, Any], head_dim: int) -> Tensor:
    """The rotary frequencies `[head_dim / 2]` for the fields that `rotary` returned."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequency: Tensor = 1.0 / (rope["rope_theta"] ** exponents)
    if rope.get("rope_type") == "linear":
        frequency /= rope["factor"]
    if rope.get("rope_type") == "llama3":  # low frequencies are scaled, high ones are not, interpolated in between
        low, high, context = (rope[name] for name in _SCALED["llama3"][1:])
        wavelength = 2 * math.pi / frequency
        scaled = torch.where(wavelength > context / low, frequency / rope["factor"], frequency)
        share = (context / wavelength - low) / (high - low)
        mixed = (1 - share) * scaled / rope["factor"] + share * scaled
        frequency = torch.where((wavelength >= context / high) & (wavelength <= context / low), mixed, scaled)
    return frequency
