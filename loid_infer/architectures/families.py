"""All families: how a config is read, the structure of the layers, and the names of the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loid_infer.architectures.family import Family, Shape, Unsupported, check
from loid_infer.architectures.layer import Plan
from loid_infer.architectures.positions import Relation, frequencies, rotary
from loid_infer.types import Spec

_SIZES = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "max_position_embeddings")
_EMBEDDINGS = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "norm": "embeddings.LayerNorm",
}
_MPNET_PAD_ID = 1  # fixed in transformers, as are the buckets
_MPNET_BUCKETS = 32, 128  # number, maximum distance
_MODERNBERT_KINDS = {"full_attention": "global", "sliding_attention": "local"}
_MODERNBERT_THETA = {"global": 160_000.0, "local": 10_000.0}
_T5_MAX_TOKENS = 8192  # relative positions have no limit of their own
_T5_ACTIVATIONS = {"relu": "relu", "gated-gelu": "gelu_new", "gated-silu": "silu"}


def bert() -> Family:
    """BERT (Devlin et al. 2018), and with it MiniLM, E5, BGE and GTE: learned positions, post-LayerNorm."""
    return Family(
        read=_read_bert,
        plan=Plan.of,
        parts={
            **_EMBEDDINGS,
            "segments": "embeddings.token_type_embeddings",  # always token type 0, whose row is added to the positions
        },
        layer={
            "query": "encoder.layer.{}.attention.self.query",
            "key": "encoder.layer.{}.attention.self.key",
            "value": "encoder.layer.{}.attention.self.value",
            "output": "encoder.layer.{}.attention.output.dense",
            "attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
            "expand": "encoder.layer.{}.intermediate.dense",
            "contract": "encoder.layer.{}.output.dense",
            "output_norm": "encoder.layer.{}.output.LayerNorm",
        },
        prefix="bert.",
        numbers_padding=True,
    )


def _read_bert(config: Mapping[str, Any]) -> Shape:
    check(config, {"position_embedding_type": ("absolute", None), "is_decoder": (False, None)})
    return _shape(config, config["hidden_act"], config.get("layer_norm_eps", 1e-12))


def roberta() -> Family:
    """RoBERTa (Liu et al. 2019), XLM-R and CamemBERT: BERT with positions that start after the padding id."""
    return replace(bert(), read=_read_roberta, plan=_plan_roberta, prefix="roberta.", numbers_padding=False)


def _read_roberta(config: Mapping[str, Any]) -> Shape:
    shape, pad_id = _read_bert(config), config.get("pad_token_id", 1)
    return replace(shape, max_tokens=shape.max_tokens - pad_id - 1, details={"pad_token_id": pad_id})


def _plan_roberta(spec: Spec) -> Plan:
    pad_id = spec.details["pad_token_id"]  # the first token has the next position
    return replace(Plan.of(spec), skip=pad_id, pad_id=pad_id)


def distilbert() -> Family:
    """DistilBERT (Sanh et al. 2019): BERT's layers without token types."""
    return Family(
        read=_read_distilbert,
        plan=Plan.of,
        parts=_EMBEDDINGS,
        layer={
            "query": "transformer.layer.{}.attention.q_lin",
            "key": "transformer.layer.{}.attention.k_lin",
            "value": "transformer.layer.{}.attention.v_lin",
            "output": "transformer.layer.{}.attention.out_lin",
            "attention_norm": "transformer.layer.{}.sa_layer_norm",
            "expand": "transformer.layer.{}.ffn.lin1",
            "contract": "transformer.layer.{}.ffn.lin2",
            "output_norm": "transformer.layer.{}.output_layer_norm",
        },
        prefix="distilbert.",
        numbers_padding=True,
    )


def _read_distilbert(config: Mapping[str, Any]) -> Shape:
    sizes = ("n_layers", "n_heads", "dim", "hidden_dim", "max_position_embeddings")
    return _shape(config, config["activation"], 1e-12, sizes=sizes)


def mpnet() -> Family:
    """MPNet (Song et al. 2020): RoBERTa's positions and one relative position bias for all layers."""
    return Family(
        read=_read_mpnet,
        plan=_plan_mpnet,
        parts={**_EMBEDDINGS, "biases": "encoder.relative_attention_bias"},
        layer={
            **bert().layer,
            "query": "encoder.layer.{}.attention.attn.q",
            "key": "encoder.layer.{}.attention.attn.k",
            "value": "encoder.layer.{}.attention.attn.v",
            "output": "encoder.layer.{}.attention.attn.o",
            "attention_norm": "encoder.layer.{}.attention.LayerNorm",
        },
        prefix="mpnet.",
    )


def _read_mpnet(config: Mapping[str, Any]) -> Shape:
    shape = _read_bert(config)
    return replace(shape, max_tokens=shape.max_tokens - _MPNET_PAD_ID - 1)


def _plan_mpnet(spec: Spec) -> Plan:
    relations = (Relation(buckets=_MPNET_BUCKETS),)
    return replace(Plan.of(spec), skip=_MPNET_PAD_ID, pad_id=_MPNET_PAD_ID, relations=relations)


def modernbert() -> Family:
    """ModernBERT (Warner et al. 2024): rotary positions, gated feed-forward, global and local attention."""
    return Family(
        read=_read_modernbert,
        plan=_plan_modernbert,
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


def _read_modernbert(config: Mapping[str, Any]) -> Shape:
    n_layers, every = config["num_hidden_layers"], config.get("global_attn_every_n_layers") or 3
    kinds = config.get("layer_types") or [
        "sliding_attention" if i % every else "full_attention" for i in range(n_layers)
    ]
    for kind in kinds:
        check({"layer_types": kind}, {"layer_types": tuple(_MODERNBERT_KINDS)})
    details: dict[str, Any] = {"window": config.get("local_attention", 128) // 2}
    details["layers"] = " ".join(_MODERNBERT_KINDS[kind] for kind in kinds)
    for kind, name in _MODERNBERT_KINDS.items():
        scaling = dict((config.get("rope_parameters") or {}).get(kind) or {})
        theta = scaling.get("rope_theta") or config.get(f"{name}_rope_theta") or _MODERNBERT_THETA[name]
        rope = rotary({}, theta, scaling | {"rope_theta": theta})
        check(rope | {"rope_scaling": config.get("rope_scaling")}, {"rope_type": (None,), "rope_scaling": (None,)})
        details[f"{name}_theta"] = float(theta)
    activation, eps = config.get("hidden_activation", "gelu"), config.get("norm_eps", 1e-5)
    return _shape(config, activation, eps, "rotary", details)


def _plan_modernbert(spec: Spec) -> Plan:
    dim, kinds = spec.hidden_dim // spec.n_heads, tuple(_MODERNBERT_THETA)
    windows = {"global": 0, "local": spec.details["window"]}
    relations = tuple(
        Relation(window=windows[kind], frequencies=frequencies({"rope_theta": spec.details[f"{kind}_theta"]}, dim))
        for kind in kinds
    )
    order = tuple(kinds.index(kind) for kind in spec.details["layers"].split())
    return replace(Plan.of(spec), pre_norm=True, glu=True, relations=relations, relation_of=order)


def opt() -> Family:
    """OPT (Zhang et al. 2022): a decoder with learned positions, whose first two rows are unused.

    OPT-350m, with post-norm and narrower embeddings, is not supported.
    """
    return Family(
        read=_read_opt,
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


def _read_opt(config: Mapping[str, Any]) -> Shape:
    allowed = {
        "do_layer_norm_before": (True, None),
        "_remove_final_layer_norm": (False, None),
        "word_embed_proj_dim": (config["hidden_size"], None),
        "is_causal": (True, None),
        "layer_norm_elementwise_affine": (True, None),
    }
    check(config, allowed)
    sizes = ("num_hidden_layers", "num_attention_heads", "hidden_size", "ffn_dim", "max_position_embeddings")
    return _shape(config, config.get("activation_function", "relu"), 1e-5, sizes=sizes)


def llama() -> Family:
    """Llama (Touvron et al. 2023), also SmolLM2: a decoder with rotary positions and RMSNorm."""
    return Family(
        read=_read_llama,
        plan=_plan_llama,
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


def _read_llama(config: Mapping[str, Any]) -> Shape:
    check(config, {"is_causal": (True, None)})
    if kinds := {*(config.get("layer_types") or ())} - {"full_attention"}:
        raise Unsupported("layer_types", ", ".join(sorted(kinds)), "full_attention")
    n_heads, width = config["num_attention_heads"], config["hidden_size"]
    details = {
        "num_key_value_heads": config.get("num_key_value_heads") or n_heads,
        "head_dim": config.get("head_dim") or width // n_heads,
        **rotary(config, 10_000.0),
    }
    return _shape(config, config["hidden_act"], config["rms_norm_eps"], "rotary", details)


def _plan_llama(spec: Spec) -> Plan:
    relation = Relation(causal=True, frequencies=frequencies(spec.details, spec.details["head_dim"]))
    return replace(Plan.of(spec), pre_norm=True, rms=True, relations=(relation,))


def qwen() -> Family:
    """Qwen2, Qwen3 and Qwen3-Embedding (Yang et al. 2024, 2025): Llama with biases, or with query and key norms."""
    norms = {"query_norm": "layers.{}.self_attn.q_norm", "key_norm": "layers.{}.self_attn.k_norm"}  # Qwen3 only
    return replace(llama(), read=_read_qwen, layer={**llama().layer, **norms})


def _read_qwen(config: Mapping[str, Any]) -> Shape:
    check(config, {"use_sliding_window": (False, None)})
    head_dim = config.get("head_dim") or (128 if config["model_type"] == "qwen3" else None)
    return _read_llama({**config, "head_dim": head_dim})


def t5() -> Family:
    """The encoder of T5 (Raffel et al. 2020) and FLAN-T5: relative position biases, unscaled scores, RMSNorm."""
    return Family(
        read=_read_t5,
        plan=_plan_t5,
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


def _read_t5(config: Mapping[str, Any]) -> Shape:
    kind = config.get("feed_forward_proj", "relu")
    gated = kind.startswith("gated")
    check({"feed_forward_proj": kind}, {"feed_forward_proj": tuple(_T5_ACTIVATIONS)})
    check(config, {"is_gated_act": (gated, None), "dense_act_fn": (_T5_ACTIVATIONS[kind], None)})
    details = {
        "head_dim": config["d_kv"],
        "gated": gated,
        "n_buckets": config.get("relative_attention_num_buckets", 32),
        "max_distance": config.get("relative_attention_max_distance", 128),
    }
    unlimited = {**config, "max_tokens": _T5_MAX_TOKENS}
    activation, eps = _T5_ACTIVATIONS[kind], config.get("layer_norm_epsilon", 1e-6)
    sizes = ("num_layers", "num_heads", "d_model", "d_ff", "max_tokens")
    return _shape(unlimited, activation, eps, "relative", details, sizes)


def _plan_t5(spec: Spec) -> Plan:
    relation = Relation(buckets=(spec.details["n_buckets"], spec.details["max_distance"]))
    return replace(Plan.of(spec), pre_norm=True, rms=True, scale=1.0, relations=(relation,))


def _shape(
    config: Mapping[str, Any],
    activation: str,
    eps: float,
    position_type: str = "absolute",
    details: Mapping[str, Any] | None = None,
    sizes: tuple[str, ...] = _SIZES,
) -> Shape:
    """The shape of a config; `sizes` are its fields for layers, heads, width, inner width and maximum length."""
    n_layers, n_heads, width, inner, max_tokens = (config[name] for name in sizes)
    return Shape(n_layers, n_heads, width, inner, activation, float(eps), max_tokens, position_type, details or {})
