"""RoBERTa, XLM-R and CamemBERT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loid_infer.architectures.bert import family as bert
from loid_infer.architectures.family import Family, Shape
from loid_infer.architectures.layer import Plan
from loid_infer.types import Spec


def family() -> Family:
    """RoBERTa (Liu et al. 2019), XLM-R and CamemBERT: BERT with positions that start after the padding id."""
    return replace(bert(), read=_read, plan=_plan, prefix="roberta.", numbers_padding=False)


def _read(config: Mapping[str, Any]) -> Shape:
    shape, pad_id = bert().read(config), config.get("pad_token_id", 1)
    return replace(shape, max_tokens=shape.max_tokens - pad_id - 1, details={"pad_token_id": pad_id})


def _plan(spec: Spec) -> Plan:
    pad_id = spec.details["pad_token_id"]  # the first token has the next position
    return replace(Plan.of(spec), skip=pad_id, pad_id=pad_id)
