"""DistilBERT (Sanh et al. 2019): BERT's layers without token types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loid_infer.architectures.family import Family, Shape
from loid_infer.architectures.layer import Plan

_PARTS = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "norm": "embeddings.LayerNorm",
}
_LAYER = {
    "query": "transformer.layer.{}.attention.q_lin",
    "key": "transformer.layer.{}.attention.k_lin",
    "value": "transformer.layer.{}.attention.v_lin",
    "output": "transformer.layer.{}.attention.out_lin",
    "attention_norm": "transformer.layer.{}.sa_layer_norm",
    "expand": "transformer.layer.{}.ffn.lin1",
    "contract": "transformer.layer.{}.ffn.lin2",
    "output_norm": "transformer.layer.{}.output_layer_norm",
}


def read(config: Mapping[str, Any]) -> Shape:
    """The shape of a DistilBertConfig; the norms' epsilon is fixed."""
    return Shape(
        config["n_layers"],
        config["n_heads"],
        config["dim"],
        config["hidden_dim"],
        config["activation"],
        1e-12,
        config["max_position_embeddings"],
    )


def family() -> Family:
    """DistilBERT."""
    return Family(
        read=read,
        plan=Plan.of,
        parts=_PARTS,
        layer=_LAYER,
        used_prefixes=("embeddings.", "transformer."),
        prefix="distilbert.",
        numbers_padding=True,
    )
