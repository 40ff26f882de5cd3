"""The settings of plugin training. Imports no torch, so that a command can refuse a setting at once."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from loid_infer.architectures.family import TARGETS
from loid_infer.errors import BadSetting
from loid_infer.settings import check_choice, check_limits, option


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Everything that decides a plugin's weights besides its data."""

    rank: int = option(32, "Rank of the LoRA factors.", min=1, max=100_000)
    alpha: float | None = option(None, "LoRA scales B A by alpha / rank. By default alpha equals the rank.")
    targets: tuple[str, ...] = option((), f"Linear layers with LoRA: some of {','.join(TARGETS)}. By default all.")
    layers: int | None = option(None, "Number of top layers to train. By default all.", min=1, max=1000)
    epochs: int = option(3, "Maximum number of epochs; training stops early when validation stalls.", min=1, max=10_000)
    learning_rate: float = option(1e-3, "Peak learning rate.")
    warmup: float = 0.06  # share of the run in which the learning rate rises
    weight_decay: float = 0.01
    clip: float = 1.0  # maximum norm of a gradient
    averaging: float = 0.98  # decay of the moving average of the weights that is validated and kept; 0: none
    batch_tokens: int = 4096  # with padding
    max_tokens: int = option(
        0,
        "Maximum number of tokens; longer texts are truncated on the right. 0: what the base says, else 256.",
        min=0,
        max=100_000,
    )
    evals: int = option(2, "Validations per epoch.", min=1, max=1000)
    patience: int = 4  # validations without a better one before early stopping
    seed: int = option(0, "Random seed.", min=0, max=2**63 - 1)
    precision: str = option("auto", "Precision of the frozen weights: auto | fp32 | bf16. LoRA is trained in fp32.")

    @property
    def scale(self) -> float:
        """The factor of the product B A."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def of_loop(self) -> dict[str, Any]:
        """The arguments of `learning.loop.Training` that are settings."""
        names = ("seed", "epochs", "learning_rate", "warmup", "weight_decay", "clip", "averaging", "patience")
        return {"validations": self.evals, **{name: getattr(self, name) for name in names}}

    def check(self, n_layers: int, width: int, targets: Collection[str]) -> None:
        """Check them for a base of `n_layers` layers of dimension `width` with these linear layers.

        Raises:
            BadSetting: a setting is outside its range; the option is named.
        """
        check_limits(self)
        for name, value, limit in (("rank", self.rank, width), ("layers", self.layers or 1, n_layers)):
            if value > limit:
                raise BadSetting("too large for this base", where=f"--{name}", expected=f"1 to {limit}", got=str(value))
        for name, number in (("learning-rate", self.learning_rate), ("alpha", self.scale)):
            if not 0 < number < math.inf:
                raise BadSetting(f"{name} must be positive", where=f"--{name}", got=str(number))
        unknown = sorted(set(self.targets) - set(targets))
        if unknown:
            raise BadSetting("unknown linear layers", where="--targets", expected=", ".join(targets), got=str(unknown))
        check_choice("precision", self.precision, ("auto", "fp32", "bf16"))


DEFAULT_SETTINGS = TrainSettings()


@dataclass(frozen=True, slots=True)
class RankTrainSettings(TrainSettings):
    """Those of training for next items. Rank and alpha are LLM-Rec's."""

    rank: int = option(16, "Rank of the LoRA factors.", min=1, max=100_000)
    epochs: int = option(5, "Maximum number of epochs; training stops early when validation stalls.", min=1, max=10_000)
    learning_rate: float = option(5e-4, "Peak learning rate.")
    evals: int = option(1, "Validations per epoch.", min=1, max=1000)
    patience: int = 2
    batch: int = option(32, "Users per step.", min=1, max=65_536)
    negatives: int = option(
        2, "Items drawn as negatives per user of a step, which all of its users share.", min=0, max=1000
    )
    temperature: float = option(0.05, "The loss divides cosines by it.", min=1e-3, max=10)


DEFAULT_RANK_TRAIN_SETTINGS = RankTrainSettings()
