"""OPT (Zhang et al. 2022): a decoder with learned positions, whose first two rows are unused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loid_infer.architectures.family import Family, Shape, check
from loid_infer.architectures.layer import Plan
from loid_infer.architectures.positions import Relation
from loid_infer.types import Spec

_PARTS = {
    "words": "decoder.embed_tokens",
    "positions": "decoder.embed_positions",
    "final_norm": "decoder.final_layer_norm",
}
_LAYER = {
    "query": "decoder.layers.{}.self_attn.q_proj",
    "key": "decoder.layers.{}.self_attn.k_proj",
    "value": "decoder.layers.{}.self_attn.v_proj",
    "output": "decoder.layers.{}.self_attn.out_proj",
    "attention_norm": "decoder.layers.{}.self_attn_layer_norm",
    "expand": "decoder.layers.{}.fc1",
    "contract": "decoder.layers.{}.fc2",
    "output_norm": "decoder.layers.{}.final_layer_norm",
}


def read(config: Mapping[str, Any]) -> Shape:
    """The shape of an OPTConfig; OPT-350m, with post-norm and narrower embeddings, is not supported."""
    width = config["hidden_size"]
    check(
        config,
        {
            "do_layer_norm_before": (True, None),
            "_remove_final_layer_norm": (False, None),
            "word_embed_proj_dim": (width, None),
            "is_causal": (True, None),
            "layer_norm_elementwise_affine": (True, None),
        },
    )
    return Shape(
        config["num_hidden_layers"],
        config["num_attention_heads"],
        width,
        config["ffn_dim"],
        config.get("activation_function", "relu"),
        1e-5,
        config["max_position_embeddings"],
    )


def plan(spec: Spec) -> Plan:
    """Causal pre-norm layers."""
    return replace(Plan.of(spec), pre_norm=True, skip=2, relations=(Relation(causal=True),))


def family() -> Family:
    """OPT."""
    return Family(
        read=read, plan=plan, parts=_PARTS, layer=_LAYER, used_prefixes=("decoder.",), prefix="model.", pooling="last"
    )
