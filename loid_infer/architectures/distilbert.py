"""DistilBERT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loid_infer.architectures.bert import EMBEDDINGS
from loid_infer.architectures.family import Family, Shape, shape_of
from loid_infer.architectures.layer import Plan


def family() -> Family:
    """DistilBERT (Sanh et al. 2019): BERT's layers without token types."""
    return Family(
        read=_read,
        plan=Plan.of,
        parts=EMBEDDINGS,
        layer={
            "query": "transformer.layer.{}.attention.q_lin",
            "key": "transformer.layer.{}.attention.k_lin",
            "value": "transformer.layer.{}.attention.v_lin",
            "output": "transformer.layer.{}.attention.out_lin",
            "attention_norm": "transformer.layer.{}.sa_layer_norm",
            "expand": "transformer.layer.{}.ffn.lin1",
            "contract": "transformer.layer.{}.ffn.lin2",
            "output_norm": "transformer.layer.{}.output_layer_norm",
        },
        prefix="distilbert.",
        numbers_padding=True,
    )


def _read(config: Mapping[str, Any]) -> Shape:
    sizes = ("n_layers", "n_heads", "dim", "hidden_dim", "max_position_embeddings")
    return shape_of(config, config["activation"], 1e-12, sizes=sizes)
