"""The fingerprint changes with everything that changes a vector, and with nothing else."""

import json

import numpy as np
import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from loid_infer.architectures.bert import family as bert
from loid_infer.encoders.spec import fingerprint, tokenizer_content_digest, weights_digest
from loid_infer.errors import BadArtifact
from loid_infer.records import decode, to_json, typed
from loid_infer.types import Spec
from tests.conftest import make_spec

TENSORS = {
    "embeddings.a": np.ones((2, 3), np.float32),
    "encoder.b": np.zeros(4, np.float32),
    "pooler.dense.weight": np.ones(2),
}
OTHERS = {
    "details": {"pad_token_id": 1},
    "normalize": True,
    "dense": ("tanh",),
    "dense_dim": 8,
    "prompt": "query: ",
    "empty_id": 0,
}


def digest(tensors: dict) -> str:
    return weights_digest(tensors, bert().uses)


def spec(**changes: object) -> Spec:
    sizes = {"n_heads": 4, "hidden_dim": 32, "feed_forward_dim": 64, "max_tokens": 256}
    made = make_spec(weights=digest(TENSORS), **sizes)
    return replace(made, **changes)


@pytest.mark.parametrize("field", Spec.__struct_fields__)
def test_every_field_of_the_spec_changes_the_fingerprint(field: str) -> None:
    value = getattr(spec(), field)
    other = OTHERS[field] if field in OTHERS else value + 1 if isinstance(value, int | float) else value + "x"
    changed = spec(**{field: other})
    assert fingerprint(changed) != fingerprint(spec())
    assert decode(to_json(changed), Spec, "") == changed


def test_default_fields_are_not_written() -> None:
    # Computed, so that they are equal to the defaults but not the same objects.
    plain = {
        "details": {},
        "normalize": 1 > 2,
        "dense": OTHERS["dense"][1:],
        "dense_dim": int("0"),
        "prompt": "ab"[2:],
        "empty_id": int("-1"),
    }
    written = to_builtins(spec())
    assert not OTHERS.keys() & written.keys()
    assert to_builtins(spec(**plain)) == written and fingerprint(spec(**plain)) == fingerprint(spec())
    assert OTHERS.keys() <= to_builtins(spec(**OTHERS)).keys()


@pytest.mark.parametrize(
    "change",
    [{"of_tomorrow": 1}, {"normalize": 1}, {"n_layers": 0}, {"n_layers": True}, {"dense": [1]}, {"weights": None}],
)
def test_an_invalid_spec_is_refused_and_the_field_is_named(change: dict) -> None:
    with pytest.raises(BadArtifact, match=next(iter(change))):
        typed(to_builtins(spec()) | change, Spec, "fix", where="here")


def test_fingerprint_is_the_same_on_every_machine() -> None:
    # Changing this value invalidates every existing store: only with a new store format.
    assert fingerprint(spec(weights="0")) == "b41f411cc9ce65afdeac1583d3fc1e2f"


@pytest.mark.parametrize(
    "change",
    [
        {"embeddings.a": np.array([[1, 1, 1], [1, 1, 1.0000001]], np.float32)},
        {"embeddings.a": np.ones((3, 2), np.float32)},
        {"encoder.c": np.zeros(1, np.float32)},
    ],
)
def test_any_weight_shape_or_name_changes_the_digest(change: dict) -> None:
    assert digest({**TENSORS, **change}) != digest(TENSORS)


def test_unused_tensors_do_not_change_the_digest() -> None:
    more = {**TENSORS, "pooler.dense.weight": np.zeros(2), "embeddings.position_ids": np.arange(3)}
    assert digest(dict(reversed(more.items()))) == digest(TENSORS)
    assert digest({k: v.astype(np.float64) for k, v in TENSORS.items()}) == digest(TENSORS)


def test_tokenizer_digest_ignores_truncation_padding_and_layout() -> None:
    first = json.dumps({"model": {"vocab": {"a": 1}}, "truncation": None, "padding": None})
    second = json.dumps(
        {"padding": {"length": 128}, "truncation": {"max_length": 8}, "model": {"vocab": {"a": 1}}}, indent=3
    )
    third = json.dumps({"model": {"vocab": {"a": 2}}, "truncation": None, "padding": None})
    digests = [tokenizer_content_digest(content) for content in (first, second, third)]
    assert digests[0] == digests[1] != digests[2]
