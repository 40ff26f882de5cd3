"""BERT (Devlin et al. 2018), and with it MiniLM, E5, BGE and GTE: learned positions, post-LayerNorm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loid_infer.architectures.family import Family, Shape, check
from loid_infer.architectures.layer import Plan

PARTS = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings",  # always token type 0, whose row is added to the positions
    "norm": "embeddings.LayerNorm",
}
LAYER = {
    "query": "encoder.layer.{}.attention.self.query",
    "key": "encoder.layer.{}.attention.self.key",
    "value": "encoder.layer.{}.attention.self.value",
    "output": "encoder.layer.{}.attention.output.dense",
    "attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "expand": "encoder.layer.{}.intermediate.dense",
    "contract": "encoder.layer.{}.output.dense",
    "output_norm": "encoder.layer.{}.output.LayerNorm",
}


def read(config: Mapping[str, Any]) -> Shape:
    """The shape of a BertConfig or a config with the same fields."""
    check(config, {"position_embedding_type": ("absolute", None), "is_decoder": (False, None)})
    return Shape(
        config["num_hidden_layers"],
        config["num_attention_heads"],
        config["hidden_size"],
        config["intermediate_size"],
        config["hidden_act"],
        float(config.get("layer_norm_eps", 1e-12)),
        config["max_position_embeddings"],
    )


def family() -> Family:
    """BERT."""
    return Family(
        read=read,
        plan=Plan.of,
        parts=PARTS,
        layer=LAYER,
        used_prefixes=("embeddings.", "encoder."),
        prefix="bert.",
        numbers_padding=True,
    )
