"""The settings of a LoID head and its two presets. This file knows names and numbers only."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from loid_infer.errors import BadSetting

PRESETS = ("default", "paper")
PROTOCOLS = ("strict", "paper")


class HeadSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a fit depends on besides its data and seed."""

    preset: str
    protocol: str  # strict | paper
    k: int  # reviews drawn from each history, in training
    max_history: int  # reviews of each history that a prediction reads
    lam: float  # weight of the triplet loss, LoID eq. 10
    margin: float  # of the triplet loss, LoID eq. 8
    epochs: int
    patience: int  # epochs without a better validation MSE before training stops; 0: never
    batch: int
    learning_rate: float
    weight_decay: float
    id_weight_decay: float  # of ID embeddings; seven ratings a user are soon learnt by heart
    dropout: float
    unknown_share: float  # of training pairs whose user (item) is made unknown
    width: int  # of ID embeddings and of attention; 0: that of the vectors
    n_heads: int
    with_biases: bool  # global mean, user and item biases and the ridge readout below the network
    history_ratings: bool  # a history's reviews come with the ratings they gave
    residual: bool  # LayerNorm(p + attention) in place of attention alone
    product: bool  # the product of what both histories say is read beside them
    ids: bool  # users and items have embeddings and biases of their own
    attention: bool  # IDs weigh the reviews of a history; without, all weigh the same
    unit_triplet: bool  # normalize both sides of the triplet loss
    averaging: float  # decay of the running mean of the weights; 0: none


_DEFAULT = HeadSettings(
    preset="default", protocol="strict", k=5, max_history=32, lam=0.2, margin=0.3, epochs=40, patience=8, batch=512,
    learning_rate=3e-4, weight_decay=1.0, id_weight_decay=5.0, dropout=0.3, unknown_share=0.1, width=64, n_heads=4,
    with_biases=True, history_ratings=True, residual=True, product=True, ids=True, attention=True, unit_triplet=True,
    averaging=0.99,
)  # fmt: skip
# LoID section 5: batch 4, learning rate 1e-5, dropout 0.5, 5 epochs, Adam. The margin is not given there; 1 is usual.
_PAPER = HeadSettings(
    preset="paper", protocol="strict", k=5, max_history=5, lam=0.2, margin=1.0, epochs=5, patience=0, batch=4,
    learning_rate=1e-5, weight_decay=0.0, id_weight_decay=0.0, dropout=0.5, unknown_share=0.0, width=0, n_heads=4,
    with_biases=False, history_ratings=False, residual=False, product=False, ids=True, attention=True,
    unit_triplet=False, averaging=0.0,
)  # fmt: skip


def head_settings(
    preset: str,
    protocol: str,
    *,
    k: int = 5,
    lam: float = 0.2,
    margin: float | None = None,
    epochs: int | None = None,
    n_heads: int | None = None,
    dropout: float | None = None,
) -> HeadSettings:
    """The settings of `preset` under `protocol`, with what the user chose; None is the preset's.

    Under the paper's protocol a history is k reviews in prediction too, and comes without ratings: among them is the
    very rating to be predicted.

    Raises:
        BadSetting: an unknown preset or protocol, or a number outside its range.
    """
    for what, name, known in (("preset", preset, PRESETS), ("protocol", protocol, PROTOCOLS)):
        if name not in known:
            raise BadSetting(f"unknown {what}", where=f"--{what}", expected=" or ".join(known), got=repr(name))
    given: dict[str, Any] = {"margin": margin, "epochs": epochs, "n_heads": n_heads, "dropout": dropout}
    chosen = replace(_DEFAULT if preset == "default" else _PAPER, protocol=protocol, k=k, lam=lam,
                     **{name: value for name, value in given.items() if value is not None})  # fmt: skip
    for option, value, low, high in (("--k", k, 1, 1000), ("--lam", lam, 0, 100), ("--margin", chosen.margin, 0, 1e6),
                                     ("--epochs", chosen.epochs, 1, 10_000), ("--dropout", chosen.dropout, 0, 0.99),
                                     ("--n-heads", chosen.n_heads, 1, 1024)):  # fmt: skip
        if not low <= value <= high:
            raise BadSetting("a number outside its range", where=option, expected=f"{low} to {high}", got=str(value))
    if chosen.max_history < k or preset == "paper":
        chosen = replace(chosen, max_history=k)
    if protocol == "paper":
        chosen = replace(chosen, max_history=k, history_ratings=False)
    return chosen
