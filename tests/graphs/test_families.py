"""Every family equals transformers: padded, packed, with every pooling, as an ONNX graph, and with LoRA."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.numpy_helper import to_array

from loid_infer import Encoder, export
from loid_infer.architectures.family import FAMILIES as KNOWN
from loid_infer.architectures.folding import with_folded_norms
from loid_infer.architectures.packed import Pack, PackedTransformer
from loid_infer.architectures.transformer import Transformer
from loid_infer.encoders import manifest
from loid_infer.encoders.folder import open_folder
from loid_infer.encoders.torch import TorchRuntime
from loid_infer.errors import LoidError
from loid_infer.graphs import quantize as quantizing
from loid_infer.graphs.bases import Base, load_base
from loid_infer.graphs.graph import write_graph
from loid_infer.graphs.making import make_encoder
from loid_infer.graphs.parity import reference_vectors
from loid_infer.graphs.quantize import quantize
from loid_infer.graphs.sentence import POOLINGS
from loid_infer.kernels.cosine import row_cosines
from loid_infer.plugins.adapter import AdaptedEncoder, module_names
from loid_infer.plugins.train import RatingModel
from loid_infer.types import SILENT
from tests.conftest import toy_texts
from tests.families import FAMILIES, TEXTS, make_family

MAX_TOKENS = 64


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(tmp_path_factory.mktemp("family") / request.param, request.param)


def tokens_of(base: Base) -> list[np.ndarray]:
    tokens = base.tokenizer(MAX_TOKENS)(TEXTS)
    return np.split(tokens.flat_ids.astype(np.int64), np.cumsum(tokens.lengths)[:-1])


def padded(texts: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(text) for text in texts], batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(text) for text in texts])[:, None]
    return ids, mask.long()


def packed(texts: list[np.ndarray]) -> Pack:
    lengths = torch.tensor([len(text) for text in texts])
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).int()
    return Pack(torch.from_numpy(np.concatenate(texts)), positions, starts, int(lengths.max()))


def test_all_families_are_tested() -> None:
    assert {name.removeprefix("flan-") for name in FAMILIES} == KNOWN.keys()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padded_and_packed_vectors_equal_transformers(folder: Path, pooling: str) -> None:
    base = load_base(str(folder), pooling)
    texts = tokens_of(base)
    assert [len(text) for text in texts][-1] == MAX_TOKENS
    expected = np.concatenate([reference_vectors(base, [text]) for text in texts])
    module = Transformer(base.spec("", MAX_TOKENS), base.tensors)
    with torch.inference_mode():
        np.testing.assert_allclose(module(*padded(texts)), expected, atol=2e-5)
        module.selects_by_product = True
        np.testing.assert_allclose(module(*padded(texts)), expected, atol=2e-5)
        packed_module = PackedTransformer(module, torch.device("cpu"), torch.float32)
        np.testing.assert_allclose(packed_module(packed(texts)), expected, atol=2e-5)
    if not (folder.name == "opt" and pooling == "cls"):  # its first token attends to itself only
        assert row_cosines(expected[1:2], expected[2:3]).max() < 0.999, "different texts must have different vectors"


@pytest.mark.parametrize("pooling", POOLINGS)
def test_norms_are_folded_and_words_in_bf16_with_the_same_vectors(folder: Path, pooling: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    base = load_base(str(folder), pooling)
    spec, rng, batch = base.spec("", MAX_TOKENS), torch.Generator().manual_seed(0), padded(tokens_of(base))
    changed = {  # no norm has the scale 1 or the bias 0
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=rng) if tensor.dim() == 1 else tensor
        for name, tensor in base.tensors.items()
    }
    with torch.inference_mode():
        np.testing.assert_allclose(
            with_folded_norms(spec, changed)(*batch), Transformer(spec, changed)(*batch), atol=2e-5
        )
        words = f"{base.family.parts['words']}.weight"
        rounded = changed | {words: changed[words].bfloat16().float()}
        expected = Transformer(spec, rounded)(*batch)
    write_graph(spec, changed, tmp_path / "graph.onnx", reduced=True)
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    ids, mask = (part.numpy() for part in batch)
    [vectors] = session.run(None, {"input_ids": ids, "attention_mask": mask})
    np.testing.assert_allclose(vectors, expected, atol=5e-5)


def test_folded_norms_only_normalize(folder: Path) -> None:
    base = load_base(str(folder), "mean")
    module = with_folded_norms(base.spec("", MAX_TOKENS), base.tensors)
    norms = [x for layer in module.layers for x in (layer.attention_norm, layer.output_norm)]
    norms = [module.norm, *norms[:-1]] if not module.plan.pre_norm else norms
    for norm in (x for x in norms if isinstance(x, torch.nn.LayerNorm)):
        assert (norm.weight == 1).all() and norm.bias is None
    assert all((layer.scales[0] is None) == module.plan.pre_norm for layer in module.layers)


def test_exports_are_computed_by_all_runtimes(folder: Path, tmp_path: Path) -> None:
    result = export("it", base=str(folder), precision="fp32", max_tokens=MAX_TOKENS, workspace=tmp_path)
    base = load_base(str(folder))
    assert (result.architecture, result.pooling, result.normalize) == (
        base.config["model_type"],
        base.family.pooling,
        False,
    )
    assert result.pooling == ("cls" if FAMILIES[folder.name][2] == ("<s>", "</s>") else "last")
    encoder = open_folder(Path(result.path), "it")
    assert encoder.manifest.parity.runtimes.keys() >= {"torch"}
    assert min(p.cos_min for p in encoder.manifest.parity.runtimes.values()) >= 0.99999
    expected = np.concatenate([reference_vectors(base, [text]) for text in tokens_of(base)])
    with Encoder.open(encoder) as opened:
        assert row_cosines(opened.encode(TEXTS), expected).min() >= 0.99999


def test_lora_equals_peft_on_every_linear_layer(folder: Path) -> None:
    import peft

    base = load_base(str(folder))
    spec, rng = base.spec("", MAX_TOKENS), torch.Generator().manual_seed(0)
    modules = [name for i in range(spec.n_layers) for name in module_names(spec, i).values()]
    factors = {}
    for name in modules:
        tall, wide = base.tensors[f"{name}.weight"].shape
        factors[name] = (torch.randn(2, wide, generator=rng) * 0.2, torch.randn(tall, 2, generator=rng) * 0.2)
    ours = RatingModel(AdaptedEncoder(spec, base.tensors, factors, 1.5, torch.float32), spec.dim, (3.0, 1.0))
    theirs = peft.get_peft_model(base.model, peft.LoraConfig(r=2, lora_alpha=3, target_modules=modules)).eval()
    parameters = dict(theirs.named_parameters())
    for name, pair in factors.items():
        for factor, tensor in zip("AB", pair, strict=True):
            parameters[f"base_model.model.{name}.lora_{factor}.default.weight"].data.copy_(tensor)
    ids, mask = padded(tokens_of(base)[2:4])
    hidden = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
    at = mask.sum(1) - 1 if base.reading.pooling == "last" else torch.zeros(2, dtype=torch.int64)
    expected = 3.0 + ours.rating(torch.nn.functional.gelu(ours.hidden(hidden[torch.arange(2), at])))[:, 0]
    output = ours(ids, mask)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    output.square().sum().backward()
    expected.square().sum().backward()
    for name in modules:
        for factor in "ab":
            expected_gradient = parameters[f"base_model.model.{name}.lora_{factor.upper()}.default.weight"].grad
            torch.testing.assert_close(
                ours.trained()[f"{name}.{factor}"].grad, expected_gradient, rtol=1e-2, atol=2e-3, msg=name
            )


def changes(config: dict) -> Iterator[tuple[str, object]]:
    """A field and another value for it."""
    yield from (("is_causal", False), ("use_sliding_window", True), ("is_gated_act", True), ("attention_bias", True))
    for name, value in config.items():
        if isinstance(value, bool):
            yield name, not value
        elif isinstance(value, int | float) and name != "vocab_size":
            yield name, value * 2 or 1
        elif isinstance(value, dict):
            yield from ((name, value | {inner: inner_value}) for inner, inner_value in changes(value) if inner in value)
        elif isinstance(value, str) and name.endswith(("act", "activation", "act_fn", "proj")):
            yield name, "silu" if value != "silu" else "relu"


def test_config_changes_change_the_spec_or_are_refused(folder: Path) -> None:
    base, path = load_base(str(folder)), folder / "config.json"
    spec, config = base.spec("", MAX_TOKENS), json.loads(path.read_text())
    text = [tokens_of(base)[2]]
    before = reference_vectors(base, text)
    changed = 0
    try:
        for name, value in changes(config):
            path.write_text(json.dumps(config | {name: value}))
            try:
                other = load_base(str(folder))
            except LoidError:
                continue
            try:
                after = reference_vectors(other, text)
            except Exception:  # noqa: BLE001 - raised by transformers, and so by `export` before it writes anything
                continue
            if not np.allclose(after, before, atol=1e-6):
                changed += 1
                assert other.spec("", MAX_TOKENS) != spec, (name, value)
    finally:
        path.write_text(json.dumps(config))
    assert changed or folder.name in ("distilbert", "mpnet")


@pytest.mark.parametrize(
    ("name", "pooling", "signed", "zeros"),  # in t5 the input of `contract` comes from ReLU
    [
        ("llama", "mean", False, {"uint8"}),
        ("modernbert", "mean", True, {"int8"}),
        ("flan-t5", "mean", False, {"uint8"}),
        ("t5", "mean", True, {"int8", "uint8"}),
        ("qwen2", "last", True, {"int8"}),
    ],
)
def test_int8_quantizes_every_matrix_product_of_a_family(
    name: str, pooling: str, signed: bool, zeros: set[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(quantizing, "has_amx", lambda: signed)
    monkeypatch.setattr(quantizing, "installed", lambda _: True)
    monkeypatch.setattr(manifest, "GATES", manifest.GATES | {"int8": ("cos_mean", 0.9)})
    base = load_base(str(make_family(tmp_path / name, name)), pooling)
    make_encoder(tmp_path / "it", base, precision="fp32", max_tokens=MAX_TOKENS, progress=SILENT)
    fp32 = open_folder(tmp_path / "it", "it")
    module = Transformer(fp32.spec, base.tensors)
    exact = Encoder(fp32.spec, lambda: (fp32.tokenizer(), TorchRuntime(module, "fp32", 1)))
    int8, choice = quantize(fp32, module, exact.encode, toy_texts(60))
    n_layers = fp32.spec.n_layers - (pooling != "mean")  # the last layer of one token stays in floating point
    assert choice.n_products == n_layers * len(base.family.targets(fp32.spec))
    assert choice.cos_mean >= 0.98
    assert int8.spec.quantized_graph
    found = [to_array(x) for x in onnx.load(int8.graph).graph.initializer if x.name.endswith(".zero")]
    assert {x.dtype.name for x in found} == zeros
    assert any(x != 0 for x in found) != signed
