"""Llama (Touvron et al. 2023), also SmolLM2: a decoder with rotary positions and RMSNorm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loid_infer.architectures.family import Family, Shape, Unsupported, check
from loid_infer.architectures.layer import Plan
from loid_infer.architectures.positions import Relation, frequencies, rotary
from loid_infer.types import Spec

PARTS = {"words": "embed_tokens", "final_norm": "norm"}
LAYER = {
    "query": "layers.{}.self_attn.q_proj",
    "key": "layers.{}.self_attn.k_proj",
    "value": "layers.{}.self_attn.v_proj",
    "output": "layers.{}.self_attn.o_proj",
    "attention_norm": "layers.{}.input_layernorm",
    "gate": "layers.{}.mlp.gate_proj",
    "expand": "layers.{}.mlp.up_proj",
    "contract": "layers.{}.mlp.down_proj",
    "output_norm": "layers.{}.post_attention_layernorm",
}
USED_PREFIXES = ("embed_tokens.", "layers.", "norm.")


def read(config: Mapping[str, Any]) -> Shape:
    """The shape of a LlamaConfig or a config with the same fields."""
    check(config, {"is_causal": (True, None)})
    if kinds := {*(config.get("layer_types") or ())} - {"full_attention"}:
        raise Unsupported("layer_types", ", ".join(sorted(kinds)), "full_attention")
    n_heads, width = config["num_attention_heads"], config["hidden_size"]
    details = {
        "num_key_value_heads": config.get("num_key_value_heads") or n_heads,
        "head_dim": config.get("head_dim") or width // n_heads,
        **rotary(config, 10_000.0),
    }
    return Shape(
        config["num_hidden_layers"],
        n_heads,
        width,
        config["intermediate_size"],
        config["hidden_act"],
        float(config["rms_norm_eps"]),
        config["max_position_embeddings"],
        "rotary",
        details,
    )


def plan(spec: Spec) -> Plan:
    """Causal pre-norm layers with RMSNorm and rotary positions."""
    relation = Relation(causal=True, frequencies=frequencies(spec.details, spec.details["head_dim"]))
    return replace(Plan.of(spec), pre_norm=True, rms=True, relations=(relation,))


def family() -> Family:
    """Llama."""
    return Family(
        read=read, plan=plan, parts=PARTS, layer=LAYER, used_prefixes=USED_PREFIXES, prefix="model.", pooling="last"
    )
