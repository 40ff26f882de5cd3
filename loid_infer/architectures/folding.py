"""Moves scales and biases of norms into the linear maps behind them, so that a norm only normalizes.

With n the normalized x: W(γn + β) + b = (Wγ)n + (Wβ + b), which is exact but for the rounding of the new weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from loid_infer.architectures.transformer import Transformer
from loid_infer.types import Spec


def with_folded_norms(spec: Spec, tensors: Mapping[str, Tensor]) -> Transformer:
    """The module of `spec` with its norms folded into the next linear maps, and the same vectors.

    Where norms follow the sums, as in BERT, a residual is a norm's output, too: there it is multiplied by γ, and β is
    added to the bias of the linear map that it is added to. RMSNorm is left as it is: runtimes know it as a whole.
    """
    module = Transformer(spec, tensors)
    before = module.norm
    for layer in module.layers:
        linears = ([getattr(layer, name) for name in group] for group in layer.groups())
        attention, [output], expanding, [contract] = linears
        if module.plan.pre_norm:
            _fold(layer.attention_norm, attention)
            _fold(layer.output_norm, expanding)
        else:
            scale = _fold(before, attention, output)
            layer.scales = scale, _fold(layer.attention_norm, expanding, contract)
            before = layer.output_norm
    return module


def _fold(norm: nn.Module | None, linears: list[nn.Linear], sums: nn.Linear | None = None) -> Tensor | None:
    """Fold a LayerNorm into `linears`, and its bias into that of `sums`; its scale `[width]`."""
    if not isinstance(norm, nn.LayerNorm):
        return None
    scale, bias = norm.weight.detach(), norm.bias
    for linear in linears:
        if bias is not None:  # in float64, so that the rounded sums do not depend on threads
            _add(linear, (linear.weight.double() @ bias.double()).float())
        linear.weight = nn.Parameter(linear.weight * scale, requires_grad=False)
    if sums is not None and bias is not None:
        _add(sums, bias)
    norm.weight = nn.Parameter(torch.ones_like(scale), requires_grad=False)
    norm.register_parameter("bias", None)
    return scale


def _add(linear: nn.Linear, bias: Tensor) -> None:
    linear.bias = nn.Parameter(bias if linear.bias is None else linear.bias + bias, requires_grad=False)
