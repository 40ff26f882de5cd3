"""BERT, MiniLM, E5, BGE and GTE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loid_infer.architectures.family import Family, Shape, check, shape_of
from loid_infer.architectures.layer import Plan

# Names that RoBERTa, DistilBERT and MPNet share.
EMBEDDINGS = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "norm": "embeddings.LayerNorm",
}


def family() -> Family:
    """BERT (Devlin et al. 2018), and with it MiniLM, E5, BGE and GTE: learned positions, post-LayerNorm."""
    return Family(
        read=_read,
        plan=Plan.of,
        parts={
            **EMBEDDINGS,
            "segments": "embeddings.token_type_embeddings",  # always token type 0, whose row is added to the positions
        },
        layer={
            "query": "encoder.layer.{}.attention.self.query",
            "key": "encoder.layer.{}.attention.self.key",
            "value": "encoder.layer.{}.attention.self.value",
            "output": "encoder.layer.{}.attention.output.dense",
            "attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
            "expand": "encoder.layer.{}.intermediate.dense",
            "contract": "encoder.layer.{}.output.dense",
            "output_norm": "encoder.layer.{}.output.LayerNorm",
        },
        prefix="bert.",
        numbers_padding=True,
    )


def _read(config: Mapping[str, Any]) -> Shape:
    check(config, {"position_embedding_type": ("absolute", None), "is_decoder": (False, None)})
    return shape_of(config, config["hidden_act"], config.get("layer_norm_eps", 1e-12))
