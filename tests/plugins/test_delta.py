"""Deltas of adapters written by peft, compared with merging by peft."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from loid_infer.errors import BadArtifact
from loid_infer.plugins.delta import LowRank, delta_digest, fold, read_delta, write_delta
from tests.plugins.toy_plugins import QUERY, merged_state, peft_model, random_delta


@pytest.fixture
def adapter(toy_base: Path, tmp_path: Path) -> Path:
    peft_model(toy_base).save_pretrained(tmp_path / "p")
    return tmp_path / "p"


def plain_state(base: Path) -> dict[str, np.ndarray]:
    import transformers

    return {name: tensor.numpy() for name, tensor in transformers.AutoModel.from_pretrained(base).state_dict().items()}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"use_rslora": True, "rank_pattern": {"query": 2}, "alpha_pattern": {"layer.1.attention.self.query": 9}},
        # The first that matches counts; and a pattern is anchored at a dot, so `uery` matches nothing.
        {"rank_pattern": {"uery": 7, r"layer\.[01].*\.query": 3, "query": 2}, "alpha_pattern": {"dense": 2}},
        {"target_modules": ["layer.1.output.dense", "query"], "alpha_pattern": {"encoder.layer.1.output.dense": 1}},
        {"target_modules": "all-linear", "lora_dropout": 0.3, "init_lora_weights": "gaussian"},
        {"fan_in_fan_out": True},
    ],
)
def test_folding_equals_merging_by_peft(toy_base: Path, tmp_path: Path, config: dict) -> None:
    model = peft_model(toy_base, **config)
    model.save_pretrained(tmp_path)
    if config.get("fan_in_fan_out"):  # peft sets it back while training; an older one may have written it
        _edit(tmp_path, fan_in_fan_out=True)
    delta, state = read_delta(tmp_path), plain_state(toy_base)
    folded, expected = fold(state, [delta]), merged_state(model)
    assert folded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (folded[name] is state[name]) == (name not in delta)
        np.testing.assert_allclose(folded[name], tensor, rtol=0, atol=4e-7)
        assert np.array_equal(tensor, state[name]) == (name not in delta)


def test_half_precision_factors_are_read_exactly(adapter: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    plain = read_delta(adapter)
    for dtype in (torch.bfloat16, torch.float16):
        tensors = load_file(adapter / "adapter_model.safetensors")
        factors = {key: torch.from_numpy(tensor).to(dtype) for key, tensor in tensors.items()}
        folder = adapter.parent / str(dtype)
        folder.mkdir()
        (folder / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
        save_torch(factors, folder / "adapter_model.safetensors")
        part = read_delta(folder)[QUERY]
        assert part.a.dtype == np.float32
        assert np.array_equal(part.a, torch.from_numpy(plain[QUERY].a).to(dtype).float().numpy())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("lora_bias", True),
        ("modules_to_save", ["pooler"]),
        ("peft_type", "IA3"),
        ("layer_replication", [[0, 1]]),
        ("trainable_token_indices", [1]),
        ("target_parameters", ["weight"]),
        ("alora_invocation_tokens", [1]),
        ("init_lora_weights", "pissa"),
        ("a_field_of_next_year", {"x": 1}),
    ],
)
def test_an_unsupported_config_field_is_named(adapter: Path, field: str, value: object) -> None:
    _edit(adapter, **{field: value})
    with pytest.raises(BadArtifact) as error:
        read_delta(adapter)
    assert str(adapter / "adapter_config.json") in str(error.value)
    assert field in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("r", 0, "must be positive"),
        ("lora_alpha", float("nan"), "must be positive"),
        ("alpha_pattern", {"query": float("inf")}, "must be positive"),
        ("rank_pattern", {"(": 3}, "config cannot be read"),
        ("rank_pattern", {"query": "four"}, "config cannot be read"),
    ],
)
def test_ranks_and_alphas_out_of_range_are_refused(adapter: Path, field: str, value: object, message: str) -> None:
    _edit(adapter, **{field: value})
    with pytest.raises(BadArtifact, match=message):
        read_delta(adapter)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("lora_magnitude_vector", np.ones(32, "f4"), "not a LoRA factor"),
        ("lora_B.bias", np.ones(32, "f4"), "not a LoRA factor"),
        ("lora_embedding_A", np.ones((4, 32), "f4"), "not a LoRA factor"),
        ("lora_B.weight", None, "a LoRA factor is missing"),
        ("lora_A.weight", np.full((4, 32), np.nan, "f4"), "NaN"),
        ("lora_A.weight", np.full((4, 32), np.inf, "f4"), "infinite"),
        ("lora_A.weight", np.ones((5, 32), "f4"), "lora_A [4, d_in]"),
        ("lora_A.weight", np.ones(32, "f4"), "do not match"),
    ],
)
def test_an_unsupported_tensor_is_named(adapter: Path, key: str, change, message: str) -> None:
    path, module = adapter / "adapter_model.safetensors", "base_model.model.encoder.layer.1.attention.self.query"
    factors = load_file(path) | {f"{module}.{key}": change}
    save_file({name: tensor for name, tensor in factors.items() if tensor is not None}, path)
    with pytest.raises(BadArtifact) as error:
        read_delta(adapter)
    assert message in str(error.value)
    assert "encoder.layer.1.attention.self.query" in str(error.value)


def test_folders_that_are_not_plugins_are_refused(adapter: Path, tmp_path: Path) -> None:
    for content in ("[]", "{", "{}"):
        (adapter / "adapter_config.json").write_text(content)
        with pytest.raises(BadArtifact, match="config"):
            read_delta(adapter)
    with pytest.raises(BadArtifact, match="cannot be read"):
        read_delta(tmp_path / "nowhere")
    (tmp_path / "delta.safetensors").write_bytes(b"not tensors")
    with pytest.raises(BadArtifact, match=r"delta\.safetensors"):
        read_delta(tmp_path)
    save_file({"x.weight": np.array([np.nan], "f4")}, tmp_path / "delta.safetensors")
    with pytest.raises(BadArtifact, match=r"x\.weight"):
        read_delta(tmp_path)


def test_a_base_without_the_tensor_or_with_another_shape_is_refused() -> None:
    delta = {"a.weight": LowRank(np.ones((3, 2), "f4"), np.ones((2, 5), "f4"), 1.0)}
    with pytest.raises(BadArtifact, match=r"no tensor a\.weight"):
        fold({"b.weight": np.ones((3, 5), "f4")}, [delta])
    with pytest.raises(BadArtifact, match=r"a\.weight.*\(5, 3\), got \(3, 5\)"):
        fold({"a.weight": np.ones((5, 3), "f4")}, [delta])


def test_folding_rounds_once() -> None:
    # In float32 1 + 2^-25 is 1, twice; their sum is not.
    small = {"w": np.array([2.0**-25], "f4")}
    assert fold({"w": np.ones(1, "f4")}, [small])["w"][0] == 1
    assert fold({"w": np.ones(1, "f4")}, [small, small, small])["w"][0] == np.float32(1 + 2.0**-23)


def test_the_digest_depends_only_on_content() -> None:
    delta = random_delta(0)
    digest = delta_digest(delta)
    assert digest == delta_digest(dict(reversed(delta.items()))) and len(digest) == 64
    part = delta[QUERY]
    others = [
        {QUERY: LowRank(part.b, part.a, part.scale * 2)},
        {QUERY: LowRank(part.b, -part.a, part.scale)},
        {QUERY: LowRank(-part.b, -part.a, part.scale)},  # the same product: factors count
        {QUERY: part.dense64().astype("f4")},
        {"another.weight": part},
    ]
    assert len({digest, *(delta_digest(delta | other) for other in others)}) == 1 + len(others)


def test_a_delta_survives_writing_and_reading(tmp_path: Path) -> None:
    delta = random_delta(1, rank=3, scale=1 / 3) | {QUERY: LowRank(np.ones((32, 7), "f4"), np.ones((7, 32), "f4"), 2.0)}
    write_delta(tmp_path, delta, "toy")
    assert delta_digest(read_delta(tmp_path)) == delta_digest(delta)
    full = {name: part.dense64().astype("f4") for name, part in delta.items()}
    folder = tmp_path / "full"
    folder.mkdir()
    write_delta(folder, full, "toy")
    assert delta_digest(read_delta(folder)) == delta_digest(full) != delta_digest(delta)


def test_peft_opens_written_adapters(toy_base: Path, tmp_path: Path) -> None:
    delta = random_delta(1, rank=3, scale=0.7) | {QUERY: random_delta(2, rank=5)[QUERY]}
    write_delta(tmp_path, delta, "toy")
    expected = merged_state(open_with_peft(toy_base, tmp_path))
    folded = fold(plain_state(toy_base), [delta])
    for name, tensor in expected.items():
        np.testing.assert_allclose(folded[name], tensor, rtol=0, atol=3e-6)


def open_with_peft(base: Path, folder: Path):
    """The base with the adapter in `folder`; every key of the file is used and none is left at its start."""
    import peft
    import transformers

    model = peft.PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(base), folder)
    ours = {key.replace(".weight", ".default.weight") for key in load_file(folder / "adapter_model.safetensors")}
    assert {name for name in model.state_dict() if "lora_" in name} == ours
    return model


def _edit(folder: Path, **fields) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
