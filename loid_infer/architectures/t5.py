"""The encoder of T5 (Raffel et al. 2020) and FLAN-T5: relative position biases, unscaled scores, RMSNorm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loid_infer.architectures.family import Family, Shape, check
from loid_infer.architectures.layer import Plan
from loid_infer.architectures.positions import Relation
from loid_infer.types import Spec

_MAX_TOKENS = 8192  # relative positions have no limit of their own
_ACTIVATIONS = {"relu": "relu", "gated-gelu": "gelu_new", "gated-silu": "silu"}

_PARTS = {
    "words": "shared",
    "biases": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "final_norm": "encoder.final_layer_norm",
}
_LAYER = {
    "query": "encoder.block.{}.layer.0.SelfAttention.q",
    "key": "encoder.block.{}.layer.0.SelfAttention.k",
    "value": "encoder.block.{}.layer.0.SelfAttention.v",
    "output": "encoder.block.{}.layer.0.SelfAttention.o",
    "attention_norm": "encoder.block.{}.layer.0.layer_norm",
    "expand": "encoder.block.{}.layer.1.DenseReluDense.wi",
    "contract": "encoder.block.{}.layer.1.DenseReluDense.wo",
    "output_norm": "encoder.block.{}.layer.1.layer_norm",
}
_GATED = {
    "gate": "encoder.block.{}.layer.1.DenseReluDense.wi_0",
    "expand": "encoder.block.{}.layer.1.DenseReluDense.wi_1",
}


def read(config: Mapping[str, Any]) -> Shape:
    """The shape of a T5Config's encoder."""
    kind = config.get("feed_forward_proj", "relu")
    gated = kind.startswith("gated")
    check({"feed_forward_proj": kind}, {"feed_forward_proj": tuple(_ACTIVATIONS)})
    check(config, {"is_gated_act": (gated, None), "dense_act_fn": (_ACTIVATIONS[kind], None)})
    details = {
        "head_dim": config["d_kv"],
        "gated": gated,
        "n_buckets": config.get("relative_attention_num_buckets", 32),
        "max_distance": config.get("relative_attention_max_distance", 128),
    }
    return Shape(
        config["num_layers"],
        config["num_heads"],
        config["d_model"],
        config["d_ff"],
        _ACTIVATIONS[kind],
        float(config.get("layer_norm_epsilon", 1e-6)),
        _MAX_TOKENS,
        "relative",
        details,
    )


def plan(spec: Spec) -> Plan:
    """Pre-norm layers with RMSNorm, relative position biases and unscaled scores."""
    relation = Relation(buckets=(spec.details["n_buckets"], spec.details["max_distance"]))
    return replace(Plan.of(spec), pre_norm=True, rms=True, scale=1.0, relations=(relation,))


def family() -> Family:
    """T5."""
    return Family(
        read=read,
        plan=plan,
        parts=_PARTS,
        layer=_LAYER,
        gated=_GATED,
        prefix="transformer.",
        pooling="last",
        ends="</s>",
        used_prefixes=("shared.", "encoder.block.", "encoder.final_layer_norm."),
        loader="T5EncoderModel",
        tied=("encoder.embed_tokens.weight",),
    )
