"""A frozen encoder with LoRA layers, and a regressor that predicts ratings from its vectors.

LoRA: Hu et al. 2021, `h = W x + s B A x`; the regressor: LoID eq. 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from loid_infer.architectures.family import TARGETS, family_of
from loid_infer.architectures.transformer import Transformer
from loid_infer.types import Spec


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


class RatingModel(nn.Module):
    """Token ids -> rating: the encoder with LoRA and an MLP with one hidden layer (LoID eq. 3)."""

    def __init__(
        self,
        spec: Spec,
        frozen: Mapping[str, Tensor],
        factors: Mapping[str, tuple[Tensor, Tensor]],
        scale: float,
        dtype: torch.dtype,
        ratings: tuple[float, float],
    ) -> None:
        """The regressor is initialized from torch's global generator.

        Args:
            frozen: float32 state of the transformers module, with folded plugins.
            factors: `(A [r, d_in], B [d_out, r])` by module name.
            scale: of every product B A.
            dtype: of the frozen weights and the activations.
            ratings: mean and standard deviation of the training ratings.
        """
        super().__init__()
        self.center, self.spread = ratings[0], max(ratings[1], 1e-3)
        self.spec = spec
        self.encoder = Transformer(spec, frozen).to(dtype)
        for i, layer in enumerate(self.encoder.layers):
            for part, name in module_names(spec, i).items():
                if name in factors:
                    setattr(layer, part, AdaptedLinear(getattr(layer, part), *factors[name], scale))
        self.hidden = nn.Linear(spec.dim, spec.dim)
        self.rating = nn.Linear(spec.dim, 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`[n, tokens]` twice -> `[n]`, float32."""
        vectors = self.encoder(input_ids, attention_mask).float()
        output: Tensor = self.rating(functional.gelu(self.hidden(vectors)))[:, 0]
        return self.center + self.spread * output

    def trained(self) -> dict[str, nn.Parameter]:
        """Trained parameters by name, in a fixed order: factors as `<module>.a` and `.b`, then the regressor."""
        factors: dict[str, nn.Parameter] = {}
        for i, layer in enumerate(self.encoder.layers):
            for part, name in module_names(self.spec, i).items():
                linear = getattr(layer, part)
                if isinstance(linear, AdaptedLinear):
                    factors |= {f"{name}.a": linear.a, f"{name}.b": linear.b}
        regressor = {name: part for name, part in self.named_parameters() if name.startswith(("hidden.", "rating."))}
        return factors | regressor
