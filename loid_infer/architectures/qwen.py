"""Qwen2, Qwen3 and Qwen3-Embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loid_infer.architectures.family import Family, Shape, check
from loid_infer.architectures.llama import family as llama


def family() -> Family:
    """Qwen2, Qwen3 and Qwen3-Embedding (Yang et al. 2024, 2025): Llama with biases, or with query and key norms."""
    norms = {"query_norm": "layers.{}.self_attn.q_norm", "key_norm": "layers.{}.self_attn.k_norm"}  # Qwen3 only
    return replace(llama(), read=_read, layer={**llama().layer, **norms})


def _read(config: Mapping[str, Any]) -> Shape:
    check(config, {"use_sliding_window": (False, None)})
    head_dim = config.get("head_dim") or (128 if config["model_type"] == "qwen3" else None)
    return llama().read({**config, "head_dim": head_dim})
