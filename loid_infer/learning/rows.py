"""AdamW of an embedding table, row by row: a step costs what the batch has rows, whatever the size of the table."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # as torch's AdamW


class RowAdamW:
    """AdamW (Loshchilov & Hutter 2019, algorithm 2) with a clock for each row: its steps are those with a gradient.

    So a row is neither moved nor decayed by a batch without it, and the same holds for the moving average of the
    weights. Dense AdamW moves every row in every step, a gigabyte of memory for a million rows of width 64, and decays
    rare rows to nothing. With a gradient for every row in every step, both are the same.
    """

    def __init__(self, parameter: nn.Parameter, weight_decay: float, averaging: float, lead: int) -> None:
        """Optimize `parameter [n, d]`, whose gradients are sparse; see `Training` for the other arguments."""
        self._parameter, self._weight_decay, self._averaging, self._lead = parameter, weight_decay, averaging, lead
        self._moment, self._square = torch.zeros_like(parameter), torch.zeros_like(parameter)
        self._steps = torch.zeros(len(parameter), dtype=torch.int64, device=parameter.device)
        self.mean = parameter.detach().clone() if averaging else parameter.detach()

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The tensors of a checkpoint, without weights and mean."""
        return {"step": self._steps, "exp_avg": self._moment, "exp_avg_sq": self._square}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Take a step with the rows of the gradient."""
        assert self._parameter.grad is not None
        gradient = self._parameter.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        self._steps[rows] += 1
        n = self._steps[rows, None].double()
        moment = self._moment[rows].lerp_(values, 1 - _BETA1)
        square = self._square[rows].mul_(_BETA2).addcmul_(values, values, value=1 - _BETA2)
        self._moment[rows], self._square[rows] = moment, square
        correction = (1 - _BETA2**n).sqrt()
        rate = (learning_rate * correction / (1 - _BETA1**n)).float()
        epsilon = (_EPSILON * correction).float()
        weights = self._parameter[rows] * (1 - learning_rate * self._weight_decay)
        weights -= rate * moment / (square.sqrt_() + epsilon)
        self._parameter[rows] = weights
        if self._averaging:
            n += self._lead - 1
            decay = ((1 + n) / (10 + n)).clamp(max=self._averaging).float()
            self.mean[rows] = weights + decay * (self.mean[rows] - weights)
