"""The encoders of T5 and FLAN-T5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loid_infer.architectures.family import Family, Shape, check, shape_of
from loid_infer.architectures.layer import Plan
from loid_infer.architectures.positions import Relation
from loid_infer.types import Spec

_MAX_TOKENS = 8192  # relative positions have no limit of their own
_ACTIVATIONS = {"relu": "relu", "gated-gelu": "gelu_new", "gated-silu": "silu"}


def family() -> Family:
    """The encoder of T5 (Raffel et al. 2020) and FLAN-T5: relative position biases, unscaled scores, RMSNorm."""
    return Family(
        read=_read,
        plan=_plan,
        parts={
            "words": "shared",
            "biases": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
            "final_norm": "encoder.final_layer_norm",
        },
        layer={
            "query": "encoder.block.{}.layer.0.SelfAttention.q",
            "key": "encoder.block.{}.layer.0.SelfAttention.k",
            "value": "encoder.block.{}.layer.0.SelfAttention.v",
            "output": "encoder.block.{}.layer.0.SelfAttention.o",
            "attention_norm": "encoder.block.{}.layer.0.layer_norm",
            "expand": "encoder.block.{}.layer.1.DenseReluDense.wi",
            "contract": "encoder.block.{}.layer.1.DenseReluDense.wo",
            "output_norm": "encoder.block.{}.layer.1.layer_norm",
        },
        gated={
            "gate": "encoder.block.{}.layer.1.DenseReluDense.wi_0",
            "expand": "encoder.block.{}.layer.1.DenseReluDense.wi_1",
        },
        prefix="transformer.",
        pooling="last",
        ends="</s>",
        loader="T5EncoderModel",
        tied=("encoder.embed_tokens.weight",),
    )


def _read(config: Mapping[str, Any]) -> Shape:
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
    unlimited = {**config, "max_tokens": _MAX_TOKENS}
    activation, eps = _ACTIVATIONS[kind], config.get("layer_norm_epsilon", 1e-6)
    sizes = ("num_layers", "num_heads", "d_model", "d_ff", "max_tokens")
    return shape_of(unlimited, activation, eps, "relative", details, sizes)


def _plan(spec: Spec) -> Plan:
    relation = Relation(buckets=(spec.details["n_buckets"], spec.details["max_distance"]))
    return replace(Plan.of(spec), pre_norm=True, rms=True, scale=1.0, relations=(relation,))
