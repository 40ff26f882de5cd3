"""RoBERTa (Liu et al. 2019), XLM-R and CamemBERT: BERT with positions that start after the padding id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loid_infer.architectures import bert
from loid_infer.architectures.family import Family, Shape
from loid_infer.architectures.layer import Plan
from loid_infer.types import Spec


def read(config: Mapping[str, Any]) -> Shape:
    """The shape of a RobertaConfig; 512 of 514 positions are for tokens."""
    shape, pad_id = bert.read(config), config.get("pad_token_id", 1)
    return replace(shape, max_tokens=shape.max_tokens - pad_id - 1, details={"pad_token_id": pad_id})


def plan(spec: Spec) -> Plan:
    """BERT's layers; the first token has position `pad_token_id + 1`."""
    return replace(Plan.of(spec), skip=spec.details["pad_token_id"], pad_id=spec.details["pad_token_id"])


def family() -> Family:
    """RoBERTa."""
    return Family(
        read=read,
        plan=plan,
        parts=bert.PARTS,
        layer=bert.LAYER,
        used_prefixes=("embeddings.", "encoder."),
        prefix="roberta.",
    )
