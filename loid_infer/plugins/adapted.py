"""A frozen encoder with LoRA beside its linear maps, and the regressor that predicts ratings from its vector.

LoRA: Hu et al. 2021, `h = W x + s B A x`; the regressor is LoID's equation 3. Gradients are torch's own. This
file knows neither peft nor how a training run goes.
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
    """Paths of the linear maps `targets` of a layer in the transformers module, by the layer's part."""
    names = family_of(spec.architecture).targets(spec)
    return {TARGETS[target]: name.format(layer) for target, name in names.items() if target in targets}


class AdaptedLinear(nn.Module):
    """A frozen linear map plus LoRA. The factors are float32 and meet the map in its own dtype."""

    def __init__(self, frozen: nn.Linear, a: Tensor, b: Tensor, scale: float) -> None:
        """`a [r, d_in]`, `b [d_out, r]`: copied, and trained."""
        super().__init__()
        self.frozen, self.scale = frozen, scale
        self.a, self.b = nn.Parameter(a.clone()), nn.Parameter(b.clone())

    @property
    def weight(self) -> Tensor:
        """`W + s B A`, for the one place that needs the map itself: the last layer's keys and values."""
        return torch.addmm(self.frozen.weight.to(self.a.dtype), self.b, self.a, alpha=self.scale).to(self._dtype)

    @property
    def bias(self) -> Tensor:
        """The frozen map's."""
        return self.frozen.bias

    @property
    def _dtype(self) -> torch.dtype:
        return self.frozen.weight.dtype

    def forward(self, x: Tensor) -> Tensor:
        """`x [.., d_in]` -> `[.., d_out]`."""
        inner = functional.linear(x, self.a.to(self._dtype))
        # The scale meets the small factor, not the large result.
        return self.frozen(x) + functional.linear(inner, (self.b * self.scale).to(self._dtype))  # type: ignore[no-any-return]


class RatingModel(nn.Module):
    """Token ids -> rating: the adapted encoder and a perceptron with one hidden layer on its vector (LoID eq. 3)."""

    def __init__(
        self,
        spec: Spec,
        frozen: Mapping[str, Tensor],
        factors: Mapping[str, tuple[Tensor, Tensor]],
        scale: float,
        dtype: torch.dtype,
        ratings: tuple[float, float],
    ) -> None:
        """Build it; the regressor's start is drawn from torch's global generator.

        Args:
            frozen: state of the transformers module beneath, float32: base and plugins folded.
            factors: `(A [r, d_in], B [d_out, r])` by module name.
            scale: of every product B A.
            dtype: of the frozen part and of what flows through it.
            ratings: mean and standard deviation of the ratings to learn.
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
        found: Tensor = self.rating(functional.gelu(self.hidden(vectors)))[:, 0]
        return self.center + self.spread * found

    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained, by name, in a fixed order: factors as `<module>.a` and `.b`, then the regressor."""
        found: dict[str, nn.Parameter] = {}
        for i, layer in enumerate(self.encoder.layers):
            for part, name in module_names(self.spec, i).items():
                linear = getattr(layer, part)
                if isinstance(linear, AdaptedLinear):
                    found |= {f"{name}.a": linear.a, f"{name}.b": linear.b}
        regressor = {name: part for name, part in self.named_parameters() if name.startswith(("hidden.", "rating."))}
        return found | regressor
