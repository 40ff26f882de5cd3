"""Qwen2, Qwen3 and Qwen3-Embedding (Yang et al. 2024, 2025): Llama with biases, or with query and key norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loid_infer.architectures import llama
from loid_infer.architectures.family import Family, Shape, check

_LAYER = llama.LAYER | {
    "query_norm": "layers.{}.self_attn.q_norm",  # Qwen3 only
    "key_norm": "layers.{}.self_attn.k_norm",
}


def read(config: Mapping[str, Any]) -> Shape:
    """The shape of a Qwen2Config or Qwen3Config."""
    check(config, {"use_sliding_window": (False, None)})
    head_dim = config.get("head_dim") or (128 if config["model_type"] == "qwen3" else None)
    return llama.read({**config, "head_dim": head_dim})


def family() -> Family:
    """Qwen."""
    return Family(
        read=read,
        plan=llama.plan,
        parts=llama.PARTS,
        layer=_LAYER,
        used_prefixes=llama.USED_PREFIXES,
        prefix="model.",
        pooling="last",
    )
