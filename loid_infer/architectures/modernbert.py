"""ModernBERT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loid_infer.architectures.family import Family, Shape, check, shape_of
from loid_infer.architectures.layer import Plan
from loid_infer.architectures.positions import Relation, frequencies, rotary
from loid_infer.types import Spec

_KINDS = {"full_attention": "global", "sliding_attention": "local"}
_THETA = {"global": 160_000.0, "local": 10_000.0}


def family() -> Family:
    """ModernBERT (Warner et al. 2024): rotary positions, gated feed-forward, global and local attention."""
    return Family(
        read=_read,
        plan=_plan,
        parts={"words": "embeddings.tok_embeddings", "norm": "embeddings.norm", "final_norm": "final_norm"},
        layer={
            "qkv": "layers.{}.attn.Wqkv",
            "output": "layers.{}.attn.Wo",
            "attention_norm": "layers.{}.attn_norm",  # the first layer has none
            "expand": "layers.{}.mlp.Wi",
            "contract": "layers.{}.mlp.Wo",
            "output_norm": "layers.{}.mlp_norm",
        },
        prefix="model.",
    )


def _read(config: Mapping[str, Any]) -> Shape:
    n_layers, every = config["num_hidden_layers"], config.get("global_attn_every_n_layers") or 3
    kinds = config.get("layer_types") or [
        "sliding_attention" if i % every else "full_attention" for i in range(n_layers)
    ]
    for kind in kinds:
        check({"layer_types": kind}, {"layer_types": tuple(_KINDS)})
    details: dict[str, Any] = {"window": config.get("local_attention", 128) // 2}
    details["layers"] = " ".join(_KINDS[kind] for kind in kinds)
    for kind, name in _KINDS.items():
        scaling = dict((config.get("rope_parameters") or {}).get(kind) or {})
        theta = scaling.get("rope_theta") or config.get(f"{name}_rope_theta") or _THETA[name]
        rope = rotary({}, theta, scaling | {"rope_theta": theta})
        check(rope | {"rope_scaling": config.get("rope_scaling")}, {"rope_type": (None,), "rope_scaling": (None,)})
        details[f"{name}_theta"] = float(theta)
    activation, eps = config.get("hidden_activation", "gelu"), config.get("norm_eps", 1e-5)
    return shape_of(config, activation, eps, "rotary", details)


def _plan(spec: Spec) -> Plan:
    dim, kinds = spec.hidden_dim // spec.n_heads, tuple(_THETA)
    windows = {"global": 0, "local": spec.details["window"]}
    relations = tuple(
        Relation(window=windows[kind], frequencies=frequencies({"rope_theta": spec.details[f"{kind}_theta"]}, dim))
        for kind in kinds
    )
    order = tuple(kinds.index(kind) for kind in spec.details["layers"].split())
    return replace(Plan.of(spec), pre_norm=True, glu=True, relations=relations, relation_of=order)
