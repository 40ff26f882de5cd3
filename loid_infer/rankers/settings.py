"""Options of ranking heads."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

from loid_infer.errors import BadSetting
from loid_infer.settings import check_limits, option


@dataclass(frozen=True, slots=True, kw_only=True)
class RankOptions:
    """Settings of trained rankers, also command-line options. These are the first that are tried."""

    dim: int = option(128, "Width of the network.", min=1, max=4096)
    layers: int = option(2, "Transformer layers; of lightgcn those of the graph.", min=1, max=32)
    attention_heads: int = option(2, "Attention heads per layer.", min=1, max=64)
    dropout: float = option(0.5, "Dropout of the network.", min=0, max=0.95)
    max_length: int = option(50, "Items of a history that the network reads, the last ones.", min=1, max=1000)
    epochs: int = option(100, "Maximum number of epochs.", min=1, max=100_000)
    patience: int = option(6, "Epochs without a better validation NDCG@10 before training stops.", min=1, max=10_000)
    batch: int = option(128, "Sequences per step.", min=1, max=65_536)
    learning_rate: float | None = option(
        None, "Learning rate. By default 0.001, of mf and lightgcn 0.01.", min=1e-8, max=1
    )
    weight_decay: float | None = option(
        None, "Weight decay per step. By default 0.0001, of mf 1, of lightgcn 0.1.", min=0, max=10
    )
    averaging: float = option(0.99, "Decay of the moving average of the weights.", min=0, max=0.9999)
    negatives: int = option(2048, "Items drawn as negatives per step in domains of more items.", min=1, max=1 << 20)
    trials: int = option(1, "Settings tried on the validation part.", min=1, max=100)

    def checked(self) -> RankOptions:
        """These settings. Raises BadSetting if one is outside its limits."""
        check_limits(self)
        return self

    def refuse_unused(self, model: str, used: Collection[str] | None = None) -> None:
        """Raise BadSetting if an option differs from its default that `model` does not have.

        `used`: the options that it has, besides trials; by default those of a ranking model.
        """
        used = {"trials", *(_USED.get(model, [item.name for item in fields(self)]) if used is None else used)}
        given = [item.name for item in fields(self) if getattr(self, item.name) != item.default]
        unused = [f"--{name.replace('_', '-')}" for name in given if name not in used]
        if unused:
            expected = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(used))
            what, got = "options that the model does not have", ", ".join(unused)
            raise BadSetting(what, where=model, expected=expected, got=got, fix="Leave them out.")

    def rates(self, learning_rate: float, weight_decay: float) -> tuple[float, float]:
        """Learning rate and weight decay; a model gives its defaults."""
        return (
            learning_rate if self.learning_rate is None else self.learning_rate,
            weight_decay if self.weight_decay is None else self.weight_decay,
        )

    def of_loop(self) -> dict[str, Any]:
        """The arguments of `learning.loop.Training` that are options, and those that all of these models share."""
        own = {name: getattr(self, name) for name in ("epochs", "averaging", "patience")}
        return {**own, "averaging_lead": 1, "by_epoch": True}


# The options besides trials of the models that do not have all of them.
_USED: dict[str, tuple[str, ...]] = {
    "popularity": (),
    "recent": (),
    "cooccurrence": (),
    "text": (),
    "mf": ("dim", "epochs", "patience", "learning_rate", "weight_decay", "averaging"),
    "lightgcn": ("dim", "layers", "epochs", "patience", "learning_rate", "weight_decay", "averaging"),
}
DEFAULT_RANK_OPTIONS = RankOptions()
