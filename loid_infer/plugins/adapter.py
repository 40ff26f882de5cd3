"""A frozen encoder with LoRA (Hu et al. 2021): `h = W x + s B A x` in its linear layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from loid_infer.architectures.family import TARGETS, family_of
from loid_infer.architectures.transformer import Transformer
from loid_infer.plugins.delta import LowRank
from loid_infer.plugins.reference import fresh_factors
from loid_infer.plugins.settings import TrainSettings
from loid_infer.types import Floats, Spec, TokenBatch


def module_names(spec: Spec, layer: int, targets: Sequence[str] = tuple(TARGETS)) -> dict[str, str]:
    """Names of the linear layers `targets` of a layer in the transformers module, by our attribute."""
    names = family_of(spec.architecture).targets(spec)
    return {TARGETS[target]: name.format(layer) for target, name in names.items() if target in targets}


class AdaptedLinear(nn.Module):
    """A frozen linear layer plus LoRA. The factors are float32 and are cast to the dtype of the layer."""

    def __init__(self, frozen: nn.Linear, a: Tensor, b: Tensor, scale: float) -> None:
        """`a [r, d_in]` and `b [d_out, r]` are copied to parameters."""
        super().__init__()
        self.frozen, self.scale = frozen, scale
        self.a, self.b = nn.Parameter(a.clone()), nn.Parameter(b.clone())

    @property
    def weight(self) -> Tensor:
        """`W + s B A`, needed for keys and values of the last layer."""
        return torch.addmm(self.frozen.weight.to(self.a.dtype), self.b, self.a, alpha=self.scale).to(self._dtype)

    @property
    def bias(self) -> Tensor:
        """The bias of the frozen layer."""
        return self.frozen.bias

    @property
    def _dtype(self) -> torch.dtype:
        return self.frozen.weight.dtype

    def forward(self, x: Tensor) -> Tensor:
        """`x [.., d_in]` -> `[.., d_out]`."""
        inner = functional.linear(x, self.a.to(self._dtype))
        # Scaling the factor is cheaper than scaling the result.
        return self.frozen(x) + functional.linear(inner, (self.b * self.scale).to(self._dtype))  # type: ignore[no-any-return]


class AdaptedEncoder(nn.Module):
    """Token ids -> vectors, by an encoder whose only parameters with a gradient are LoRA factors."""

    def __init__(
        self,
        spec: Spec,
        frozen: Mapping[str, Tensor],
        factors: Mapping[str, tuple[Tensor, Tensor]],
        scale: float,
        dtype: torch.dtype,
    ) -> None:
        """An encoder with these factors.

        Args:
            frozen: float32 state of the transformers module, with folded plugins.
            factors: `(A [r, d_in], B [d_out, r])` by module name.
            dtype: of the frozen weights and the activations.
        """
        super().__init__()
        self.encoder, self._scale = Transformer(spec, frozen).to(dtype), scale
        self._adapted: dict[str, AdaptedLinear] = {}
        for i, layer in enumerate(self.encoder.layers):
            for part, name in module_names(spec, i).items():
                if name in factors:
                    self._adapted[name] = AdaptedLinear(getattr(layer, part), *factors[name], scale)
                    setattr(layer, part, self._adapted[name])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`[n, tokens]` twice -> `[n, d]`, float32."""
        vectors: Tensor = self.encoder(input_ids, attention_mask).float()
        return vectors

    def factors(self) -> dict[str, nn.Parameter]:
        """The factors in a fixed order, as `<module>.a` and `.b`."""
        return {f"{name}.{part}": getattr(linear, part) for name, linear in self._adapted.items() for part in "ab"}

    def delta(self) -> dict[str, LowRank]:
        """A copy of what the factors add, by tensor."""
        return {
            f"{name}.weight": LowRank(_array(linear.b), _array(linear.a), self._scale)
            for name, linear in self._adapted.items()
        }


def _array(tensor: Tensor) -> Floats:
    copied: Floats = tensor.detach().cpu().float().numpy().copy()
    return copied


def adapted_encoder(spec: Spec, frozen: Mapping[str, Tensor], model: Any, settings: TrainSettings) -> AdaptedEncoder:
    """The encoder with LoRA as peft initializes it in the transformers module `model`, which is changed."""
    layers = range(spec.n_layers - (settings.layers or spec.n_layers), spec.n_layers)
    modules = [name for i in layers for name in module_names(spec, i, settings.targets).values()]
    factors = fresh_factors(model, modules, settings.rank, settings.seed)
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    return AdaptedEncoder(spec, frozen, factors, settings.scale, dtype)


def tensors_of(batch: TokenBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask of a batch."""
    return torch.from_numpy(batch.input_ids).to(device), torch.from_numpy(batch.attention_mask).to(device)
