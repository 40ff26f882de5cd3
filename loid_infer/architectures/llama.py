"""Llama and SmolLM2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loid_infer.architectures.family import Family, Shape, Unsupported, check, shape_of
from loid_infer.architectures.layer import Plan
from loid_infer.architectures.positions import Relation, frequencies, rotary
from loid_infer.types import Spec


def family() -> Family:
    """Llama (Touvron et al. 2023), also SmolLM2: a decoder with rotary positions and RMSNorm."""
    return Family(
        read=_read,
        plan=_plan,
        parts={"words": "embed_tokens", "final_norm": "norm"},
        layer={
            "query": "layers.{}.self_attn.q_proj",
            "key": "layers.{}.self_attn.k_proj",
            "value": "layers.{}.self_attn.v_proj",
            "output": "layers.{}.self_attn.o_proj",
            "attention_norm": "layers.{}.input_layernorm",
            "gate": "layers.{}.mlp.gate_proj",
            "expand": "layers.{}.mlp.up_proj",
            "contract": "layers.{}.mlp.down_proj",
            "output_norm": "layers.{}.post_attention_layernorm",
        },
        prefix="model.",
        pooling="last",
    )


def _read(config: Mapping[str, Any]) -> Shape:
    check(config, {"is_causal": (True, None)})
    if kinds := {*(config.get("layer_types") or ())} - {"full_attention"}:
        raise Unsupported("layer_types", ", ".join(sorted(kinds)), "full_attention")
    n_heads, width = config["num_attention_heads"], config["hidden_size"]
    details = {
        "num_key_value_heads": config.get("num_key_value_heads") or n_heads,
        "head_dim": config.get("head_dim") or width // n_heads,
        **rotary(config, 10_000.0),
    }
    return shape_of(config, config["hidden_act"], config["rms_norm_eps"], "rotary", details)


def _plan(spec: Spec) -> Plan:
    relation = Relation(causal=True, frequencies=frequencies(spec.details, spec.details["head_dim"]))
    return replace(Plan.of(spec), pre_norm=True, rms=True, relations=(relation,))
