"""How a plugin is trained: the settings, and what they may be. Imports no torch, so a command can refuse at once."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from loid_infer.errors import BadSetting
from loid_infer.settings import DEFAULT_MAX_TOKENS

PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Everything that decides a plugin's weights besides what it is trained on."""

    rank: int = 32
    alpha: float | None = None  # the product B A is scaled by alpha / rank; None: by one
    targets: tuple[str, ...] = ()  # linear maps of a layer, by the names of `architectures.family.TARGETS`; (): all
    layers: int | None = None  # how many of the top layers; all if None
    epochs: int = 3
    learning_rate: float = 1e-3
    warmup: float = 0.06  # share of the run in which the rate rises
    weight_decay: float = 0.01
    clip: float = 1.0  # largest norm of a gradient
    averaging: float = 0.98  # decay of the running mean of the weights that is validated and kept; 0: none
    batch_tokens: int = 4096  # with padding
    max_tokens: int = DEFAULT_MAX_TOKENS  # longest input; the base's own limit where that is less than the default
    evals: int = 2  # validations an epoch
    patience: int = 4  # validations without a better one before it ends
    seed: int = 0
    precision: str = "auto"  # of the frozen part: fp32, bf16, or auto: bf16 where it is native. LoRA is float32

    @property
    def scale(self) -> float:
        """Of the product B A."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def check(self, n_layers: int, width: int, targets: Collection[str]) -> None:
        """See that they fit a base of this many layers, of this width, whose layers have these linear maps.

        Raises:
            BadSetting: one does not; the option is named.
        """
        layers = n_layers if self.layers is None else self.layers
        whole = [("rank", self.rank, width), ("layers", layers, n_layers), ("epochs", self.epochs, 10_000),
                 ("evals", self.evals, 1_000)]  # fmt: skip
        for option, value, most in whole:
            if not 1 <= value <= most:
                raise BadSetting(f"{option} out of range", where=f"--{option}", expected=f"1 to {most}",
                                 got=str(value), mend=f"Give --{option} within it.")  # fmt: skip
        for option, number in (("learning-rate", self.learning_rate), ("alpha", self.scale)):
            if not 0 < number < math.inf:
                raise BadSetting(f"{option} must be positive", where=f"--{option}", got=str(number),
                                 mend="Leave it out for the default.")  # fmt: skip
        unknown = sorted(set(self.targets) - set(targets))
        if unknown:
            raise BadSetting("no such linear map of a layer", where="--targets", expected=", ".join(targets),
                             got=", ".join(unknown), mend="Name some of these.")  # fmt: skip
        if self.precision not in PRECISIONS:
            raise BadSetting("no such precision to train in", where="--precision",
                             expected=" | ".join(PRECISIONS), got=self.precision,
                             mend="Leave it out for the fastest.")  # fmt: skip


DEFAULT_SETTINGS = TrainSettings()
