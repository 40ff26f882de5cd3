"""The two attentions of LoID (eq. 7) together, forward and backward, each on a thread of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loid_infer.kernels.loid import absorbed
from loid_infer.kernels.threads import Workers

_ROWS = 256  # per job: what a job computes between two products then stays in a core's cache


@dataclass(frozen=True, slots=True)
class Attention:
    """The arguments of `kernels.loid.absorbed`."""

    query: Tensor  # [n, h, c]
    tokens: Tensor  # [n, k, x], without gradient
    mask: Tensor  # [n, k]
    key: Tensor  # [h, c, x]
    value: Tensor  # [h, c, x]
    slot_logits: Tensor  # [n, h]
    slot_values: Tensor  # [h, c]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The arguments in their order."""
        return tuple(getattr(self, part.name) for part in fields(self))


def crossed(attentions: Sequence[Attention], workers: Workers) -> tuple[Tensor, ...]:
    """`absorbed` of each of `attentions`, `[n, h, c]` each.

    On the CPU with gradients of our own, because torch's batched products over a few tokens take more than twice the
    time of numpy's, and its graph keeps `[n, h, x]` arrays that leave the cache.
    """
    if attentions[0].query.is_cuda:
        return tuple(
            absorbed(of.query, of.tokens, of.mask, of.key, of.value, (of.slot_logits, of.slot_values))
            for of in attentions
        )
    result: tuple[Tensor, ...] = _Crossed.apply(workers, *(part for each in attentions for part in each.parts))  # type: ignore[no-untyped-call]
    return result


class _Crossed(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, workers: Workers, *parts: Tensor) -> tuple[Tensor, ...]:
        width = len(fields(Attention))
        context.workers = workers
        context.states = [_State(Attention(*parts[start : start + width])) for start in range(0, len(parts), width)]
        return tuple(workers.map(_State.forward, context.states))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        jobs = list(zip(context.states, gradients, strict=True))
        found = context.workers.map(lambda job: job[0].backward(job[1]), jobs)
        return None, *(gradient for each in found for gradient in each)


class _State:
    """One attention between its forward and its backward pass."""

    def __init__(self, attention: Attention) -> None:
        self.of = attention
        n, h, c = attention.query.shape
        k, x = attention.tokens.shape[1:]
        self.query = attention.query.new_empty(h, n, c)  # divided by sqrt(c)
        self.weights = attention.query.new_empty(n, h, k + 1)  # the last: of the slot
        self.averaged = attention.query.new_empty(h, n, x)  # weighted sums of tokens
        self.rows = [slice(start, min(start + _ROWS, n)) for start in range(0, n, _ROWS)]

    @torch.no_grad()
    def forward(self) -> Tensor:
        of, weights, averaged = self.of, self.weights, self.averaged
        torch.mul(of.query.transpose(0, 1), 1 / math.sqrt(of.query.shape[-1]), out=self.query)
        weights[:, :, -1] = of.slot_logits
        output = torch.empty_like(self.query)
        for rows in self.rows:
            _logits(torch.bmm(self.query[:, rows], of.key), of.tokens[rows], weights[rows])
            weights[rows, :, :-1].masked_fill_(~of.mask[rows, None], -math.inf)
            torch.softmax(weights[rows], 2, out=weights[rows])
            _sums(weights[rows], of.tokens[rows], averaged[:, rows])
            torch.bmm(averaged[:, rows], of.value.transpose(1, 2), out=output[:, rows])
        return output.transpose(0, 1) + weights[:, :, -1:] * of.slot_values

    @torch.no_grad()
    def backward(self, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the arguments, from that of the output `[n, h, c]`."""
        of, weights = self.of, self.weights
        by_head = gradient.transpose(0, 1).contiguous()
        of_key, of_value, of_query = torch.zeros_like(of.key), torch.zeros_like(of.value), torch.empty_like(self.query)
        of_logits = torch.empty_like(weights)  # first of the weights
        of_logits[:, :, -1] = (gradient * of.slot_values).sum(2)
        of_slot = (weights[:, :, -1:] * gradient).sum(0)
        for rows in self.rows:
            of_value.baddbmm_(by_head[:, rows].transpose(1, 2), self.averaged[:, rows])
            of_tokens = torch.bmm(by_head[:, rows], of.value)
            part = of_logits[rows]
            _logits(of_tokens, of.tokens[rows], part)
            part.sub_((part * weights[rows]).sum(2, keepdim=True)).mul_(weights[rows])  # softmax
            _sums(part, of.tokens[rows], of_tokens)
            of_key.baddbmm_(self.query[:, rows].transpose(1, 2), of_tokens)
            torch.bmm(of_tokens, of.key.transpose(1, 2), out=of_query[:, rows])
        of_query = of_query.transpose(0, 1) / math.sqrt(of_query.shape[-1])
        return of_query, None, None, of_key, of_value, of_logits[:, :, -1], of_slot


def _logits(vectors: Tensor, tokens: Tensor, out: Tensor) -> None:
    """Products of `vectors [h, n, x]` and `tokens [n, k, x]`, into `out [n, h, k + 1]` but its last column."""
    np.matmul(vectors.numpy().transpose(1, 0, 2), tokens.numpy().transpose(0, 2, 1), out=out.numpy()[:, :, :-1])


def _sums(weights: Tensor, tokens: Tensor, out: Tensor) -> None:
    """Sums of `tokens [n, k, x]` by `weights [n, h, k + 1]` but its last column, into `out [h, n, x]`."""
    np.matmul(weights.numpy()[:, :, :-1], tokens.numpy(), out=out.numpy().transpose(1, 0, 2))
