"""What encoders have in common, and torch's way of computing it once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from loid_infer.encoders.folder import EncoderFolder, open_folder
from loid_infer.encoders.joint import n_bytes, n_shared_layers, shape, steps
from loid_infer.encoders.torch import ClsBert, JointBert
from tests.conftest import FAMILY


@pytest.fixture(scope="module")
def encoders(family: Path) -> dict[str, EncoderFolder]:
    return {name: open_folder(family / "exports" / "encoders" / name, name) for name in FAMILY}


@pytest.mark.parametrize(
    ("names", "shared"),
    [
        (("plain", "top"), [2, 2]),
        (("plain", "upper"), [1, 1]),
        (("plain", "whole"), [0, 0]),
        (("plain", "top", "upper"), [2, 2, 1]),
        (("top", "upper", "whole"), [1, 1, 0]),
        (("plain", "plain"), [3, 3]),
    ],
)
def test_layers_are_shared_up_to_the_first_that_differs(
    encoders: dict[str, EncoderFolder], names: tuple[str, ...], shared: list[int]
) -> None:
    known = [steps(encoders[name]) for name in names]
    assert [n_shared_layers(mine, known[:i] + known[i + 1 :]) for i, mine in enumerate(known)] == shared
    sizes = [step.n_bytes for step in known[0]]
    assert n_bytes(known[:1]) == sum(sizes) > 0
    if len(names) == 2:
        assert n_bytes(known) == sum(sizes) + sum(sizes[1 + shared[0] :])


def test_a_layer_on_another_one_below_is_another_step(encoders: dict[str, EncoderFolder], tmp_path: Path) -> None:
    mixed = load_file(encoders["plain"].path / "model.safetensors")
    upper = load_file(encoders["upper"].path / "model.safetensors")
    mixed |= {name: tensor for name, tensor in upper.items() if name.startswith("encoder.layer.1.")}
    from safetensors.torch import save_file

    save_file(mixed, tmp_path / "model.safetensors")
    plain, other = steps(encoders["plain"]), steps(replace(encoders["plain"], path=tmp_path))
    assert [a.key == b.key for a, b in zip(plain, other, strict=True)] == [True, True, False, False]


def test_what_must_be_equal_is_all_but_weights_and_stored_dtype(encoders: dict[str, EncoderFolder]) -> None:
    card = encoders["plain"].card
    assert shape(card) == shape(encoders["whole"].card) == shape(replace(card, store_dtype="fp32"))
    for other in (
        {"max_tokens": 16},
        {"tokenizer": "x"},
        {"precision": "bf16"},
        {"quantized_graph": "x"},
        {"n_heads": 2},
    ):
        assert shape(card) != shape(replace(card, **other))


def test_torch_computes_shared_layers_once_and_the_same(encoders: dict[str, EncoderFolder]) -> None:
    names = ("upper", "plain", "top")
    folders = [encoders[name] for name in names]
    berts = [ClsBert(folder.card, load_file(folder.path / "model.safetensors")) for folder in folders]
    ids, mask = torch.randint(5, 80, (3, 9)), torch.ones(3, 9, dtype=torch.int64)
    mask[1, 4:] = 0
    expected = torch.cat([bert(ids, mask) for bert in berts], dim=1)
    joint, calls = JointBert(berts, [[step.key for step in steps(folder)] for folder in folders]), []
    for layer in {layer for bert in joint.berts for layer in bert.layers}:
        layer.register_forward_hook(lambda *_: calls.append(1))
    np.testing.assert_array_equal(joint(ids, mask).numpy(), expected.numpy())
    assert len(calls) == 1 + 2 + 3, "one lowest layer, two of the middle, three of the top"
