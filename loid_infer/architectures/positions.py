"""How two tokens of a text see each other: masks, windows, distance biases and rotations, all by their positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loid_infer.architectures.family import Unsupported

MASKED = -1e4  # added to the score of a token that is not seen: its weight is 0, and it is finite in every precision


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Relation:
    """What a layer's attention depends on besides content: masked scores or learned biases, and rotations."""

    causal: bool = False  # no token sees a later one
    window: int = 0  # the farthest that a token sees to either side; 0: everything
    buckets: tuple[int, int] | None = None  # number and reach of learned distance biases (Raffel et al. 2020, 2.1)
    frequencies: Tensor | None = None  # [head_dim / 2], of rotary positions (Su et al. 2021)


class Positions(nn.Module):
    """A `Relation` as tensors, for texts of up to `max_tokens`."""

    table: Tensor | None  # [heads, 2 max_tokens - 1], what scores get by distance
    cos: Tensor | None  # [max_tokens, head_dim]
    sin: Tensor | None

    def __init__(self, relation: Relation, max_tokens: int, biases: Tensor | None) -> None:
        """`biases [buckets, heads]`: of each bucket of distances, where there are any."""
        super().__init__()
        self.causal, self.window, self.farthest = relation.causal, relation.window, max_tokens - 1
        if sum([relation.causal, bool(relation.window), relation.buckets is not None]) > 1:
            raise NotImplementedError("`bias` knows one of mask, window and distance biases")
        table = cos = sin = None
        if relation.buckets is not None and biases is not None:
            table = biases[_bucket(torch.arange(-self.farthest, max_tokens), *relation.buckets)].T.contiguous()
        if relation.frequencies is not None:
            angles = torch.arange(max_tokens).float()[:, None] * relation.frequencies
            cos, sin = (part.repeat(1, 2) for part in (angles.cos(), angles.sin()))
        for name, tensor in (("table", table), ("cos", cos), ("sin", sin)):
            self.register_buffer(name, tensor, persistent=False)

    @property
    def sees_all(self) -> bool:
        """Whether every token sees every other alike, so that there is no `bias`."""
        return self.table is None and not self.causal and not self.window

    def bias(self, distance: Tensor, dtype: torch.dtype) -> Tensor:
        """What scores get for `distance [..]`, key's position less query's: `[heads or 1, ..]`."""
        if self.table is not None:
            return self.table[:, distance + self.farthest].to(dtype)
        unseen = distance > 0 if self.causal else distance.abs() > self.window
        return unseen[None].to(dtype) * MASKED

    def turned(self, x: Tensor, at: Tensor | slice, axis: int) -> Tensor:
        """`x [.., head_dim]`, rotated by the positions `at`, which lie along `axis` of it."""
        if self.cos is None or self.sin is None:
            return x
        cos, sin = (part[at].to(x.dtype) for part in (self.cos, self.sin))
        for _ in range(-2 - axis):
            cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin


def hidden_by(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What scores get for the keys of `mask [n, tokens]`: nothing for a token (1), MASKED for padding (0). `[n, 1, 1,
    tokens]`."""
    return (1.0 - mask[:, None, None, :].to(dtype)) * MASKED


def _bucket(distance: Tensor, n: int, reach: int) -> Tensor:
    """The bucket of each distance: half of them for each side, near ones exact, then by logarithm up to `reach`."""
    side, near = n // 2, n // 4
    size = distance.abs()
    far = near + (torch.log(size.float() / near) / math.log(reach / near) * (side - near)).long()
    return (distance > 0).long() * side + torch.where(size < near, size, far.clamp(max=side - 1))


def rotary(config: Mapping[str, Any], theta: float, scaled: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The fields of a config that rotary frequencies come from, as transformers 4 or 5 writes them.

    Args:
        theta: the base of the frequencies where the config names none.
        scaled: transformers 5's `rope_parameters` of these layers, where they are of several kinds.

    Raises:
        Unsupported: frequencies that depend on a text's length, or any other kind we do not compute.
    """
    given = dict(scaled or config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind not in _SCALED or given.get("partial_rotary_factor", 1.0) != 1.0:
        raise Unsupported("rope_type", kind, " or ".join(_SCALED))
    found = {"rope_theta": float(given.get("rope_theta") or config.get("rope_theta") or theta)}
    return (
        found
        | ({"rope_type": kind} if kind != "default" else {})
        | {name: float(given[name]) for name in _SCALED[kind]}
    )


_SCALED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def frequencies(rope: Mapping[str, Any], head_dim: int) -> Tensor:
    """The frequencies `[head_dim / 2]` of what `rotary` read."""
    found: Tensor = 1.0 / (rope["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim))
    if rope.get("rope_type") == "linear":
        found /= rope["factor"]
    if rope.get("rope_type") == "llama3":  # long waves are stretched, short ones stay, and between the two it is mixed
        low, high, context = (rope[name] for name in _SCALED["llama3"][1:])
        length = 2 * math.pi / found
        stretched = torch.where(length > context / low, found / rope["factor"], found)
        share = (context / length - low) / (high - low)
        mixed = (1 - share) * stretched / rope["factor"] + share * stretched
        found = torch.where((length >= context / high) & (length <= context / low), mixed, stretched)
    return found
