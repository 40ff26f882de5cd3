"""A sentence-transformers folder gives the vectors that sentence-transformers gives, or is refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from loid_infer import Encoder, export
from loid_infer.architectures.transformer import Transformer
from loid_infer.encoders.torch import TorchRuntime
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.graphs.bases import Base, load_base
from loid_infer.kernels.cosine import row_cosines
from loid_infer.types import SILENT
from tests.families import make_family

TEXTS = ["", "great", "The Sound was NOT very good  ", "it broke. " * 40, "naïve 👍"]


def make_sentence(folder: Path, base: Path, pooling: str, *, dense: bool = False, **options: object) -> Path:
    """What sentence-transformers saves of `base` with this pooling and Normalize."""
    import sentence_transformers
    from sentence_transformers.sentence_transformer import modules as models

    transformer = models.Transformer(str(base), max_seq_length=48)
    parts = [transformer, models.Pooling(32, pooling_mode=pooling)]
    if dense:
        torch.manual_seed(1)
        parts += [models.Dense(32, 24, activation_function=torch.nn.Tanh()), models.Dense(24, 20, bias=False)]
    model = sentence_transformers.SentenceTransformer(modules=[*parts, models.Normalize()], device="cpu", **options)
    model.save(str(folder))
    return folder


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return lambda name: make_family(tmp_path_factory.mktemp("family") / name, name)


@pytest.fixture(scope="module")
def complete_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentence")
    return make_sentence(folder / "it", make_family(folder / "bert", "bert"), "mean", dense=True)


def opened(base: Base) -> Encoder:
    """The base as it is, without an export."""
    spec = base.spec("", 48)
    runtime = TorchRuntime(Transformer(spec, base.tensors), "fp32", 1)
    return Encoder(spec, lambda: (base.tokenizer(48), runtime))


@pytest.mark.parametrize(
    ("name", "pooling", "dense"),
    [("bert", "mean", False), ("roberta", "cls", True), ("mpnet", "mean", True), ("qwen3", "lasttoken", False)],
)
def test_vectors_equal_sentence_transformers(
    family: Callable[[str], Path], tmp_path: Path, name: str, pooling: str, dense: bool
) -> None:
    import sentence_transformers

    folder = make_sentence(tmp_path / "it", family(name), pooling, dense=dense)
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(TEXTS[name == "qwen3" :])
    encoder = opened(load_base(str(folder)))
    assert (encoder.spec.pooling, encoder.spec.normalize) == (pooling.removesuffix("token"), True)
    ours = encoder.encode(TEXTS[name == "qwen3" :])  # whose tokenizer gives "" no token, which theirs cannot pool
    assert ours.shape == theirs.shape == (len(theirs), 20 if dense else 32)
    assert row_cosines(ours, theirs).min() >= 0.99999
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


def test_exports_match_and_another_pooling_is_reported(complete_folder: Path, tmp_path: Path) -> None:
    import sentence_transformers

    messages = []

    class Recorder(type(SILENT)):
        def say(self, line: str) -> None:
            messages.append(line)

    for pooling in ("auto", "cls"):
        messages.clear()
        made = export(
            base=str(complete_folder), pooling=pooling, precision="fp32", workspace=tmp_path, progress=Recorder()
        )
        assert (made.pooling, made.normalize, made.max_tokens) == ("cls" if pooling == "cls" else "mean", True, 48)
        notes = [line for line in messages if "made for mean pooling and is exported with cls; --pooling mean" in line]
        assert len(notes) == (pooling == "cls")
        theirs = sentence_transformers.SentenceTransformer(str(complete_folder), device="cpu")
        with Encoder.open(workspace=tmp_path) as encoder:
            same = row_cosines(encoder.encode(TEXTS), theirs.encode(TEXTS)).min() >= 0.99999
        assert same == (pooling == "auto")


def test_prompts_are_prepended_to_texts(family: Callable[[str], Path], tmp_path: Path) -> None:
    import sentence_transformers

    prompts = {"query": "the plot: ", "document": "it is: "}
    folder = make_sentence(tmp_path / "it", family("bert"), "mean", prompts=prompts, default_prompt_name="document")
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    for options, name in (({}, "document"), ({"prompt_name": "query"}, "query"), ({"prompt": "a b "}, None)):
        expected = theirs.encode(TEXTS, prompt=options.get("prompt"), prompt_name=name)
        encoder = opened(load_base(str(folder), **options))
        assert encoder.spec.prompt == options.get("prompt", prompts.get(name))
        assert row_cosines(encoder.encode(TEXTS), expected).min() >= 0.99999
    with pytest.raises(BadSetting, match=r"document \| query, got passage"):
        load_base(str(folder), prompt_name="passage")
    with pytest.raises(BadSetting, match="both given"):
        load_base(str(folder), prompt="x", prompt_name="query")


def test_lowercasing_is_part_of_the_tokenizer(family: Callable[[str], Path], tmp_path: Path) -> None:
    folder = make_sentence(tmp_path / "it", family("roberta"), "mean")
    path = folder / "sentence_bert_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_lower_case": True}))
    lowered = load_base(str(folder)).tokenizer(48)(TEXTS)
    plain = load_base(str(family("roberta"))).tokenizer(48)([text.lower() for text in TEXTS])
    assert lowered.flat_ids.tolist() == plain.flat_ids.tolist()


def test_options_override_the_folder(family: Callable[[str], Path], tmp_path: Path) -> None:
    folder = make_sentence(tmp_path / "it", family("bert"), "mean")
    base = load_base(str(folder), "cls", normalize=False)
    assert (base.reading.pooling, base.reading.normalize, base.made_for) == ("cls", False, "mean")
    assert base.max_tokens(None) == 48
    assert base.max_tokens(64) == 64


def test_the_bundled_model_uses_cls_by_default() -> None:
    base = load_base("default")
    assert (base.reading.pooling, base.reading.normalize, base.made_for) == ("cls", False, "mean")
    assert base.max_tokens(None) == 256
    read = load_base("default", "mean").reading
    assert (read.pooling, read.normalize) == ("mean", True)


def edit(path: Path, change: Callable[[object], object]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def other_type(kind: str, at: int = 1) -> Callable[[Path], None]:
    def change(modules: list[dict]) -> list[dict]:
        modules[at]["type"] = kind
        return modules

    return lambda folder: edit(folder / "modules.json", change)


BROKEN = {
    "custom code": (other_type("my_code.Pooling"), "my_code.Pooling"),
    "another module": (other_type("sentence_transformers.models.CNN"), "CNN"),
    "order": (lambda folder: edit(folder / "modules.json", lambda modules: modules[::-1]), "Normalize, "),
    "no list": (lambda folder: edit(folder / "modules.json", lambda _: {"a": 1}), "expected array, got object"),
    "no object": (lambda folder: edit(folder / "config_sentence_transformers.json", lambda _: []), "expected object"),
    "two transformers": (
        lambda folder: edit(folder / "modules.json", lambda m: [m[0], *m]),
        "Transformer, Transformer",
    ),
    "prompts": (
        lambda folder: edit(folder / "config_sentence_transformers.json", lambda c: c | {"prompts": ["a"]}),
        "expected object, got array",
    ),
    "another length": (
        lambda folder: edit(folder / "sentence_bert_config.json", lambda c: c | {"processor_kwargs": {"a": 1}}),
        "processor_kwargs",
    ),
    "another output": (
        lambda folder: edit(folder / "sentence_bert_config.json", lambda c: c | {"module_output_name": "other"}),
        "module_output_name other",
    ),
    "normalized tokens": (
        lambda folder: edit(folder / "2_Dense/config.json", lambda c: c | {"module_input_name": "token_embeddings"}),
        "token_embeddings",
    ),
    "left": (lambda folder: edit(folder / "tokenizer_config.json", lambda c: c | {"truncation_side": "left"}), "left"),
    "an adapter": (
        lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}'),
        "plugin import",
    ),
    "an index that leaves": (
        lambda folder: (folder / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "../a.safetensors"}}'
        ),
        "outside the folder",
    ),
    "half a file": (lambda folder: (folder / "model.safetensors").write_bytes(b"version https://git"), "safetensors"),
    "no length": (lambda folder: edit(folder / "config.json", lambda _: []), "expected object, got array"),
    "outside": (
        lambda folder: edit(folder / "modules.json", lambda m: [m[0] | {"path": "../elsewhere"}, *m[1:]]),
        "outside the folder",
    ),
    "max pooling": (
        lambda folder: edit(folder / "1_Pooling/config.json", lambda c: c | {"pooling_mode": "max"}),
        "max",
    ),
    "cut": (
        lambda folder: edit(folder / "config_sentence_transformers.json", lambda c: c | {"truncate_dim": 8}),
        "truncate_dim 8",
    ),
    "auto_map": (
        lambda folder: edit(folder / "config.json", lambda c: c | {"auto_map": {"AutoModel": "m.M"}}),
        "auto_map",
    ),
    "tokenizer code": (
        lambda folder: edit(folder / "tokenizer_config.json", lambda c: c | {"auto_map": {"AutoTokenizer": "t.T"}}),
        "auto_map",
    ),
    "pickled": (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "never opened"),
    "pickled dense": (
        lambda folder: (folder / "2_Dense/model.safetensors").rename(folder / "2_Dense/pytorch_model.bin"),
        "pytorch_model.bin",
    ),
    "dense width": (
        lambda folder: save_file({"linear.weight": torch.ones(24, 16)}, folder / "2_Dense/model.safetensors"),
        "dense.0.weight has the shape [24, 16], not [-1, 32]",
    ),
    "cut dense": (
        lambda folder: (folder / "2_Dense/model.safetensors").write_bytes(b"version https://git-lfs"),
        "git-lfs pointer",
    ),
    "dense activation": (
        lambda folder: edit(folder / "2_Dense/config.json", lambda c: c | {"activation_function": "os.system"}),
        "os.system",
    ),
    "no pooling config": (lambda folder: (folder / "1_Pooling/config.json").unlink(), "1_Pooling"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_unsupported_folders_are_refused(complete_folder: Path, tmp_path: Path, what: str) -> None:
    folder, (breaking, messages) = Path(shutil.copytree(complete_folder, tmp_path / "it")), BROKEN[what]
    load_base(str(folder))
    breaking(folder)
    with pytest.raises((BadArtifact, BadSetting)) as caught:
        load_base(str(folder))
    assert messages in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.fix


def test_a_prompt_that_is_not_pooled_is_refused(complete_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(complete_folder, tmp_path / "it"))
    edit(
        folder / "config_sentence_transformers.json",
        lambda c: c | {"prompts": {"q": "ask: "}, "default_prompt_name": "q"},
    )
    load_base(str(folder))
    edit(folder / "1_Pooling/config.json", lambda c: c | {"include_prompt": False})
    for options in ({}, {"prompt_name": "q"}, {"prompt": "x"}):
        with pytest.raises(BadArtifact, match="excludes the prompt"):
            load_base(str(folder), **options)
    assert load_base(str(folder), prompt="").reading.prompt == ""


def test_a_dense_layer_without_an_activation_uses_the_sentence_transformers_default(
    complete_folder: Path, tmp_path: Path
) -> None:
    import sentence_transformers

    folder = Path(shutil.copytree(complete_folder, tmp_path / "it"))
    edit(
        folder / "3_Dense/config.json", lambda c: {name: value for name, value in c.items() if "activation" not in name}
    )
    expected = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert row_cosines(opened(load_base(str(folder))).encode(TEXTS), expected).min() >= 0.99999


def test_an_invalid_max_length_is_refused_and_a_missing_one_is_taken_from_the_model(
    complete_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(complete_folder, tmp_path / "it"))
    edit(folder / "sentence_bert_config.json", lambda c: c | {"max_seq_length": -1})
    with pytest.raises(BadSetting, match="max tokens out of range"):
        load_base(str(folder)).max_tokens(None)
    edit(folder / "sentence_bert_config.json", lambda c: c | {"max_seq_length": None})
    edit(folder / "tokenizer_config.json", lambda c: {n: value for n, value in c.items() if n != "model_max_length"})
    assert load_base(str(folder)).max_tokens(None) == load_base(str(folder)).shape.max_tokens == 82
