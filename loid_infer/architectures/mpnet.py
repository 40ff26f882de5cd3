"""MPNet (Song et al. 2020): RoBERTa's positions and one relative position bias for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loid_infer.architectures import bert
from loid_infer.architectures.family import Family, Shape
from loid_infer.architectures.layer import Plan
from loid_infer.architectures.positions import Relation
from loid_infer.types import Spec

_PAD_ID = 1  # fixed in transformers, as are the buckets
_BUCKETS = 32, 128  # number, maximum distance

_PARTS = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "norm": "embeddings.LayerNorm",
    "biases": "encoder.relative_attention_bias",
}
_LAYER = bert.LAYER | {
    "query": "encoder.layer.{}.attention.attn.q",
    "key": "encoder.layer.{}.attention.attn.k",
    "value": "encoder.layer.{}.attention.attn.v",
    "output": "encoder.layer.{}.attention.attn.o",
    "attention_norm": "encoder.layer.{}.attention.LayerNorm",
}


def read(config: Mapping[str, Any]) -> Shape:
    """The shape of an MPNetConfig; 512 of 514 positions are for tokens."""
    shape = bert.read(config)
    return replace(shape, max_tokens=shape.max_tokens - _PAD_ID - 1)


def plan(spec: Spec) -> Plan:
    """BERT's layers with the relative position bias."""
    return replace(Plan.of(spec), skip=_PAD_ID, pad_id=_PAD_ID, relations=(Relation(buckets=_BUCKETS),))


def family() -> Family:
    """MPNet."""
    return Family(
        read=read, plan=plan, parts=_PARTS, layer=_LAYER, used_prefixes=("embeddings.", "encoder."), prefix="mpnet."
    )
