"""MPNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loid_infer.architectures.bert import EMBEDDINGS
from loid_infer.architectures.bert import family as bert
from loid_infer.architectures.family import Family, Shape
from loid_infer.architectures.layer import Plan
from loid_infer.architectures.positions import Relation
from loid_infer.types import Spec

_PAD_ID = 1  # fixed in transformers, as are the buckets
_BUCKETS = 32, 128  # number, maximum distance


def family() -> Family:
    """MPNet (Song et al. 2020): RoBERTa's positions and one relative position bias for all layers."""
    return Family(
        read=_read,
        plan=_plan,
        parts={**EMBEDDINGS, "biases": "encoder.relative_attention_bias"},
        layer={
            **bert().layer,
            "query": "encoder.layer.{}.attention.attn.q",
            "key": "encoder.layer.{}.attention.attn.k",
            "value": "encoder.layer.{}.attention.attn.v",
            "output": "encoder.layer.{}.attention.attn.o",
            "attention_norm": "encoder.layer.{}.attention.LayerNorm",
        },
        prefix="mpnet.",
    )


def _read(config: Mapping[str, Any]) -> Shape:
    shape = bert().read(config)
    return replace(shape, max_tokens=shape.max_tokens - _PAD_ID - 1)


def _plan(spec: Spec) -> Plan:
    relations = (Relation(buckets=_BUCKETS),)
    return replace(Plan.of(spec), skip=_PAD_ID, pad_id=_PAD_ID, relations=relations)
