"""OPT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loid_infer.architectures.family import Family, Shape, check, shape_of
from loid_infer.architectures.layer import Plan
from loid_infer.architectures.positions import Relation


def family() -> Family:
    """OPT (Zhang et al. 2022): a decoder with learned positions, whose first two rows are unused.

    OPT-350m, with post-norm and narrower embeddings, is not supported.
    """
    return Family(
        read=_read,
        plan=lambda spec: replace(Plan.of(spec), pre_norm=True, skip=2, relations=(Relation(causal=True),)),
        parts={
            "words": "decoder.embed_tokens",
            "positions": "decoder.embed_positions",
            "final_norm": "decoder.final_layer_norm",
        },
        layer={
            "query": "decoder.layers.{}.self_attn.q_proj",
            "key": "decoder.layers.{}.self_attn.k_proj",
            "value": "decoder.layers.{}.self_attn.v_proj",
            "output": "decoder.layers.{}.self_attn.out_proj",
            "attention_norm": "decoder.layers.{}.self_attn_layer_norm",
            "expand": "decoder.layers.{}.fc1",
            "contract": "decoder.layers.{}.fc2",
            "output_norm": "decoder.layers.{}.final_layer_norm",
        },
        prefix="model.",
        pooling="last",
    )


def _read(config: Mapping[str, Any]) -> Shape:
    allowed = {
        "do_layer_norm_before": (True, None),
        "_remove_final_layer_norm": (False, None),
        "word_embed_proj_dim": (config["hidden_size"], None),
        "is_causal": (True, None),
        "layer_norm_elementwise_affine": (True, None),
    }
    check(config, allowed)
    sizes = ("num_hidden_layers", "num_attention_heads", "hidden_size", "ffn_dim", "max_position_embeddings")
    return shape_of(config, config.get("activation_function", "relu"), 1e-5, sizes=sizes)
