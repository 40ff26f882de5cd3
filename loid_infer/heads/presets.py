"""The settings of a LoID head and its two presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from loid_infer.settings import check_choice, check_limits, option


class HeadSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that decides a head besides data and seed."""

    preset: str
    protocol: str  # strict | paper
    k: int  # reviews sampled from each history in training
    max_history: int  # reviews of each history used for a prediction
    lam: float  # weight of the triplet loss, LoID eq. 10
    margin: float  # of the triplet loss, LoID eq. 8
    epochs: int
    patience: int  # epochs without a better validation MSE before early stopping; 0: no early stopping
    batch: int
    learning_rate: float
    weight_decay: float
    id_weight_decay: float  # of ID embeddings, which overfit users with few ratings
    dropout: float
    unknown_share: float  # share of training pairs whose user (item) ID is masked
    width: int  # dimension of ID embeddings and attention; 0: that of the vectors
    n_heads: int
    with_biases: bool  # the network predicts residuals of global mean, user and item biases and a ridge model
    history_ratings: bool  # the ratings of a history's reviews are features
    residual: bool  # LayerNorm(p + attention) instead of attention alone
    product: bool  # the elementwise product of both histories is a feature
    ids: bool  # users and items have ID embeddings and biases
    attention: bool  # IDs attend to reviews; otherwise reviews are averaged
    unit_triplet: bool  # normalize both sides of the triplet loss
    averaging: float  # decay of the moving average of the weights; 0: none


_DEFAULT = HeadSettings(
    preset="default",
    protocol="strict",
    k=5,
    max_history=32,
    lam=0.2,
    margin=0.3,
    epochs=40,
    patience=8,
    batch=512,
    learning_rate=3e-4,
    weight_decay=1.0,
    id_weight_decay=5.0,
    dropout=0.3,
    unknown_share=0.1,
    width=64,
    n_heads=4,
    with_biases=True,
    history_ratings=True,
    residual=True,
    product=True,
    ids=True,
    attention=True,
    unit_triplet=True,
    averaging=0.99,
)
# LoID section 5: batch 4, learning rate 1e-5, dropout 0.5, 5 epochs, Adam. The margin is not given there; 1 is usual.
_PAPER: dict[str, Any] = {  # what differs from the default
    "max_history": 5,
    "margin": 1.0,
    "epochs": 5,
    "patience": 0,
    "batch": 4,
    "learning_rate": 1e-5,
    "weight_decay": 0.0,
    "id_weight_decay": 0.0,
    "dropout": 0.5,
    "unknown_share": 0.0,
    "width": 0,
    "with_biases": False,
    "history_ratings": False,
    "residual": False,
    "product": False,
    "unit_triplet": False,
    "averaging": 0.0,
}


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """What a user chooses about a head. None stands for the preset's value."""

    preset: str = option("default", "default | paper: the settings of the paper")
    protocol: str = option("strict", "strict: never use the target review | paper: may use it, as the paper does")
    k: int = option(5, "Reviews sampled per user and per item in training.", min=1, max=1000)
    lam: float = option(0.2, "Weight of the triplet loss.", min=0, max=100)
    margin: float | None = option(None, "Margin of the triplet loss. By default the preset's.", min=0, max=1e6)
    epochs: int | None = option(None, "Maximum number of epochs. By default the preset's.", min=1, max=10_000)
    n_heads: int | None = option(None, "Attention heads. By default the preset's.", min=1, max=1024)
    dropout: float | None = option(None, "Dropout rate. By default the preset's.", min=0, max=0.99)

    def settings(self) -> HeadSettings:
        """All settings of the head.

        Under the paper's protocol a prediction reads k reviews of each history too, without their ratings: the rating
        to be predicted is among them.

        Raises:
            BadSetting: an unknown preset or protocol, or a number outside its range.
        """
        check_choice("preset", self.preset, ("default", "paper"))
        check_choice("protocol", self.protocol, ("strict", "paper"))
        check_limits(self)
        chosen = {name: value for name, value in asdict(self).items() if value is not None}
        changes = _PAPER if self.preset == "paper" else {}
        settings = replace(_DEFAULT, **{**changes, **chosen})
        if settings.max_history < self.k or "paper" in (self.preset, self.protocol):
            settings = replace(settings, max_history=self.k)
        return replace(settings, history_ratings=False) if self.protocol == "paper" else settings


DEFAULT_OPTIONS = HeadOptions()
