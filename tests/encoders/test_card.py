"""Whatever changes a vector changes the fingerprint; whatever does not, does not."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from loid_infer.encoders.card import fingerprint, make_card, tokenizer_digest, weights_digest
from loid_infer.types import Card

CONFIG = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
TENSORS = {
    "embeddings.a": np.ones((2, 3), np.float32),
    "encoder.b": np.zeros(4, np.float32),
    "pooler.dense.weight": np.ones(2),
}


def card(**changes: object) -> Card:
    made = make_card(
        CONFIG,
        weights=weights_digest(TENSORS),
        tokenizer="t",
        max_tokens=256,
        precision="fp32",
        store_dtype="fp16",
        store_format=1,
    )
    return replace(made, **changes)


@pytest.mark.parametrize("field", [field.name for field in fields(Card)])
def test_every_field_of_the_card_counts(field: str) -> None:
    value = getattr(card(), field)
    other = value + 1 if isinstance(value, int | float) else value + "x"
    assert fingerprint(card(**{field: other})) != fingerprint(card())


def test_fingerprint_is_the_same_on_every_machine() -> None:
    # A changed value here orphans every store in the world: only with a new store format.
    assert fingerprint(card(weights="0")) == "b41f411cc9ce65afdeac1583d3fc1e2f"


@pytest.mark.parametrize(
    "change",
    [
        {"embeddings.a": np.array([[1, 1, 1], [1, 1, 1.0000001]], np.float32)},
        {"embeddings.a": np.ones((3, 2), np.float32)},
        {"encoder.c": np.zeros(1, np.float32)},
    ],
)
def test_one_weight_one_shape_or_one_name_changes_the_digest(change: dict) -> None:
    assert weights_digest({**TENSORS, **change}) != weights_digest(TENSORS)


def test_what_cls_never_sees_does_not_count() -> None:
    more = {**TENSORS, "pooler.dense.weight": np.zeros(2), "embeddings.position_ids": np.arange(3)}
    assert weights_digest(dict(reversed(more.items()))) == weights_digest(TENSORS)
    assert weights_digest({k: v.astype(np.float64) for k, v in TENSORS.items()}) == weights_digest(TENSORS)


def test_tokenizer_digest_ignores_truncation_padding_and_layout(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in "abc")
    first.write_text(json.dumps({"model": {"vocab": {"a": 1}}, "truncation": None, "padding": None}))
    second.write_text(
        json.dumps(
            {"padding": {"length": 128}, "truncation": {"max_length": 8}, "model": {"vocab": {"a": 1}}}, indent=3
        )
    )
    third.write_text(json.dumps({"model": {"vocab": {"a": 2}}, "truncation": None, "padding": None}))
    assert tokenizer_digest(first) == tokenizer_digest(second) != tokenizer_digest(third)
