"""Model folders that people have and that are incomplete, damaged, or contradict themselves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from loid_infer import export
from loid_infer.encoders.folder import Probes
from loid_infer.errors import BadArtifact, BadSetting, ParityError
from loid_infer.graphs.bases import _not_merged, copy_tokenizer, load_base
from loid_infer.graphs.parity import make_probes, probe_texts
from tests.families import make_family

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 90868376\n"
IS_5 = hasattr(transformers, "TokenizersBackend")
Change = Callable[[Path], object]


@pytest.fixture
def folder(toy_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_base, tmp_path / "it"))


def edit(name: str, **fields: object) -> Change:
    """Set fields of a JSON file; None removes one."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        content = {field: value for field, value in {**content, **fields}.items() if value is not None}
        (folder / name).write_text(json.dumps(content))

    return change


def write(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content)


def cut(name: str, n_bytes: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:n_bytes])


def remove(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def rename(old: str, new: str) -> Change:
    return lambda folder: (folder / old).rename(folder / new)


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def apply(folder: Path) -> None:
        content = load_file(folder / "model.safetensors")
        change(content)
        save_file(content, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return apply


def special_beyond(parts: dict[str, Any]) -> None:
    single = [{"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]")]
    single.insert(1, {"Sequence": {"id": "A", "type_id": 0}})
    special = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in (("[CLS]", 2), ("[SEP]", 5000))}
    parts["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special}


def shuffle(parts: dict[str, Any]) -> None:
    vocab = parts["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]


QUERY = "encoder.layer.0.attention.self.query"
NO_JSON = remove("tokenizer.json")
FAULTS: dict[str, tuple[Change, str]] = {
    # config and checkpoint
    "fewer layers": (
        edit("config.json", num_hidden_layers=1),
        r"layers \(expected 2, as in the .*, got 1 in the config",
    ),
    "more layers": (
        edit("config.json", num_hidden_layers=3),
        r"layers \(expected 2, as in the .*, got 3 in the config",
    ),
    "width": (edit("config.json", hidden_size=16), r"LayerNorm\.bias \[32\] instead of \[16\]"),
    "inner width": (edit("config.json", intermediate_size=128), r"dense\.weight \[64, 32\] instead of \[128, 32\]"),
    "vocabulary": (edit("config.json", vocab_size=500), r"word_embeddings\.weight \[108, 32\] instead of \[500, 32\]"),
    "positions": (
        edit("config.json", max_position_embeddings=32),
        r"position_embeddings\.weight \[64, 32\] instead of \[32, 32\]",
    ),
    "heads": (edit("config.json", num_attention_heads=5), r"not a multiple of the number of attention heads \(5\)"),
    "an adapter in the weights": (
        tensors(lambda content: content.update({f"{QUERY}.lora_A.weight": torch.ones(2, 32)})),
        r"does not provide for \(got .*query\.lora_A\.weight",
    ),
    "relative positions": (
        tensors(lambda content: content.update({f"{QUERY}.distance_embedding.weight": torch.ones(2, 32)})),
        r"does not provide for \(got .*distance_embedding",
    ),
    "saved by DDP": (
        tensors(lambda content: [content.update({f"module.{name}": content.pop(name)}) for name in [*content]]),
        r"missing.*the checkpoint has module\.embeddings",
    ),
    "diverged": (tensors(lambda content: content[f"{QUERY}.bias"].fill_(np.nan)), rf"{QUERY}\.bias has NaN"),
    "quantized": (
        edit("config.json", quantization_config={"quant_method": "fp8"}),
        r"quantized: quantization_config \(got .*fp8.*before quantization",
    ),
    "no model_type": (edit("config.json", model_type=None), r'"model_type": "bert"'),
    "no positions": (edit("config.json", max_position_embeddings=None), r"'max_position_embeddings'\. Write it"),
    "padding": (edit("config.json", pad_token_id=108), r"pad_token_id 108, where vocab_size is 108\. Write it"),
    "special tokens": (write("special_tokens_map.json", "{"), r"special_tokens_map\.json cannot be read"),
    "an adapter": (
        both(remove("config.json"), edit("adapter_config.json", peft_type="LORA")),
        "has an adapter.*plugin import",
    ),
    # files
    "pointer, weights": (write("model.safetensors", POINTER), r"model\.safetensors: it is a git-lfs pointer.*`git lfs"),
    "pointer, tokenizer": (write("tokenizer.json", POINTER), r"git-lfs pointer.*`git lfs pull`"),
    "pointer, config": (write("config.json", POINTER), r"git-lfs pointer.*`git lfs pull`"),
    "pointer, vocabulary": (both(NO_JSON, write("vocab.txt", POINTER)), r"vocab\.txt: it is a git-lfs pointer"),
    "cut weights": (
        cut("model.safetensors", 6_000),
        r"model\.safetensors: it is cut short, 6,000 bytes of at least \d",
    ),
    "cut header": (cut("model.safetensors", 100), r"model\.safetensors: it is cut short, 100 bytes of at least \d"),
    "empty weights": (cut("model.safetensors", 0), r"model\.safetensors: it is empty"),
    "pickled": (rename("model.safetensors", "pytorch_model.bin"), r"got pytorch_model\.bin\).*save_pretrained\('"),
    "TensorFlow": (rename("model.safetensors", "tf_model.h5"), r"no model\.safetensors.*got tf_model\.h5"),
    # tokenizers
    "cut tokenizer": (cut("tokenizer.json", 500), r"tokenizer\.json cannot be read"),
    "empty tokenizer": (cut("tokenizer.json", 0), r"tokenizer\.json cannot be read: it is empty"),
    "foreign tokenizer": (write("tokenizer.json", "{}"), r"it/tokenizer\.json: the tokenizer cannot be read"),
    "no words": (tokenizer(lambda parts: parts["model"].update(vocab={})), "Missing .UNK. token"),
    "no tokenizer": (both(NO_JSON, remove("vocab.txt")), "the folder has no tokenizer"),
    "half a vocabulary": (both(NO_JSON, cut("vocab.txt", 200)), r"too few tokens.*expected about 108, got 69"),
    "a vocabulary that is not text": (
        lambda it: (it / "vocab.txt").write_bytes(b"\xff\xfe"),
        "the tokenizer cannot be",
    ),
    "longer vocabulary": (
        both(NO_JSON, lambda it: (it / "vocab.txt").write_text((it / "vocab.txt").read_text() + "\nfiddle\noboe")),
        r"without an embedding.*below 108, got fiddle 108, oboe 109",
    ),
    "added tokens": (both(NO_JSON, write("added_tokens.json", '{"[PRICE]": 108}')), r"below 108, got \[PRICE\] 108"),
    "special token": (tokenizer(special_beyond), r"below 108, got token 5000 around texts 5000"),
    "another vocabulary": (tokenizer(shuffle), r"contradict each other \(got a \d+ and \d+\)"),
    "MeCab": (edit("tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer"), "MeCab.*BertJapaneseTokenizer"),
    "MeCab, old": (both(NO_JSON, edit("tokenizer_config.json", word_tokenizer_type="mecab")), "MeCab.*word_tokenizer"),
}


def probes(folder: Path) -> Probes:
    """The part of an export that compares with transformers."""
    base, made = load_base(str(folder)), folder.parent / "made"
    made.mkdir()
    copy_tokenizer(base, made)
    return make_probes(base, base.tokenizer(32), made, 32)


@pytest.mark.parametrize("what", FAULTS)
def test_faulty_folders_are_refused_by_name(folder: Path, what: str) -> None:
    change, message = FAULTS[what]
    if not IS_5:  # transformers 4 does not say the shapes
        message = message.split(r" \[", 1)[0]
    change(folder)
    with pytest.raises(BadArtifact, match=message) as caught:
        load_base(str(folder))
    assert str(folder) in caught.value.where and caught.value.fix


def test_faulty_parts_of_a_checkpoint_are_refused_by_name(toy_base: Path, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    transformers.AutoModel.from_pretrained(toy_base).save_pretrained(folder, max_shard_size="30KB")
    load_base(str(folder))
    part = sorted(folder.glob("model-*.safetensors"))[1]
    for change, message in (
        (write(part.name, POINTER), f"{part.name}: it is a git-lfs pointer"),
        (remove(part.name), f"No such file.*{part.name}"),
        (remove("model.safetensors.index.json"), r"parts and model\.safetensors\.index\.json"),
    ):
        change(folder)
        with pytest.raises(BadArtifact, match=message):
            load_base(str(folder))


@pytest.mark.parametrize("base", ["model.safetensors", "tokenizer.json"])
def test_a_file_of_a_model_is_not_looked_for_on_the_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(BadSetting, match="expected a folder"):
        load_base(base)


@pytest.mark.parametrize("name", ["llama", "t5", "modernbert", "distilbert"])
def test_a_config_with_fewer_layers_is_refused_in_every_family(tmp_path: Path, name: str) -> None:
    folder = make_family(tmp_path / name, name)
    config = json.loads((folder / "config.json").read_text())
    field = next(field for field in ("num_hidden_layers", "n_layers", "num_layers") if field in config)
    kinds = {"layer_types": config["layer_types"][:-1]} if config.get("layer_types") else {}
    edit("config.json", **{field: config[field] - 1}, **kinds)(folder)
    with pytest.raises(
        BadArtifact, match=f"expected {config[field]}, as in the checkpoint, got {config[field] - 1} in"
    ):
        load_base(str(folder))


def test_the_embedding_of_a_text_without_tokens_must_exist(tmp_path: Path) -> None:
    folder = make_family(tmp_path / "llama", "llama")
    edit("config.json", eos_token_id=5000)(folder)
    with pytest.raises(BadArtifact, match="got eos_token_id of the config 5000"):
        load_base(str(folder))


def test_half_of_the_merges_are_refused(tmp_path: Path) -> None:
    folder = make_family(tmp_path / "llama", "llama")
    tokenizer(lambda parts: parts["model"].update(merges=parts["model"]["merges"][:20]))(folder)
    with pytest.raises(BadArtifact, match="too few merges"):
        load_base(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        write("added_tokens.json", '{"[PRICE]": 108}'),
        edit("tokenizer_config.json", extra_special_tokens=["[PRICE]"]),
        edit("tokenizer_config.json", added_tokens_decoder={"108": {"content": "[PRICE]", "special": False}}),
    ],
)
def test_tokens_that_only_transformers_adds_are_refused(folder: Path, change: Change) -> None:
    """They occur in no probe text."""
    change(folder)
    with pytest.raises(ParityError, match=r"adds tokens that tokenizer\.json lacks \(got .*\[PRICE\].*108"):
        probes(folder)


@pytest.mark.parametrize(("stated", "cased"), [(None, True), (None, False), (True, True), (False, False)])
def test_the_vocabulary_decides_the_case_where_nothing_states_it(
    folder: Path, stated: bool | None, cased: bool
) -> None:
    both(NO_JSON, edit("tokenizer_config.json", do_lower_case=stated))(folder)
    if cased:
        words = (folder / "vocab.txt").read_text().replace("\nguitar\n", "\nGuitar\n").replace("\ng\n", "\nG\n")
        (folder / "vocab.txt").write_text(words.replace("\ncase\n", "\nCase\n").replace("\ncable\n", "\nCable\n"))
    lower = not cased if stated is None else stated
    parts = json.loads(load_base(str(folder)).tokenizer_json)
    assert parts["normalizer"]["lowercase"] is lower
    probes(folder)  # transformers reads the export in the same way


def test_an_unclear_case_is_refused(folder: Path) -> None:
    both(NO_JSON, remove("tokenizer_config.json"))(folder)
    path = folder / "vocab.txt"
    path.write_text(path.read_text().replace("guitar", "Guitar"))
    with pytest.raises(BadArtifact, match=r"capital letters in 1 of \d+ tokens.*do_lower_case"):
        load_base(str(folder))
    edit("tokenizer_config.json", do_lower_case=False)(folder)
    load_base(str(folder))


def test_the_command_for_pickled_weights_converts_them(folder: Path) -> None:
    exact = load_base(str(folder)).tensors
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadArtifact) as caught:
        load_base(str(folder))
    exec(caught.value.fix.split('"')[1])  # what the command runs
    converted = load_base(str(folder)).tensors
    assert all(bool((converted[name] == tensor).all()) for name, tensor in exact.items())


def test_a_folder_written_by_the_installed_transformers_is_read(toy_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    model = transformers.AutoModel.from_pretrained(toy_base)
    made = transformers.AutoTokenizer.from_pretrained(toy_base, do_lower_case=False)
    for part in (model, made):
        part.save_pretrained(folder)
    read = probes(folder)
    texts = probe_texts()[:8]
    with torch.no_grad():
        expected = [model(**made(text, return_tensors="pt")).last_hidden_state[0, 0].numpy() for text in texts]
    np.testing.assert_allclose(read.cls[:8], expected, atol=1e-5)


# What transformers 5 writes; under transformers 4.57 (`make test-4.57`) this is another release than the installed one.


@pytest.mark.parametrize(("kind", "extra"), [("BertTokenizer", ["[MASK]"]), ("TokenizersBackend", None)])
def test_a_tokenizer_as_transformers_5_writes_it_is_read(
    folder: Path, tmp_path: Path, kind: str, extra: list[str] | None
) -> None:
    (folder / "vocab.txt").unlink()
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    fields = {"tokenizer_class": kind, "backend": "tokenizers", "extra_special_tokens": extra, **special}
    edit("tokenizer_config.json", **fields)(folder)
    result = export(base=str(folder), precision="fp32", max_tokens=32, workspace=tmp_path / "ws")
    assert result.parity.cos_min > 0.99999


@pytest.mark.parametrize("name", ["llama", "modernbert"])
def test_rotary_positions_as_transformers_5_writes_them_are_read(tmp_path: Path, name: str) -> None:
    folder = make_family(tmp_path / name, name)
    rope = {"rope_type": "default", "rope_theta": 50.0}
    if name == "modernbert":
        rope = {"full_attention": rope, "sliding_attention": rope | {"rope_theta": 20.0}}
    old = dict.fromkeys(("rope_theta", "rope_scaling", "global_rope_theta", "local_rope_theta"))
    edit("config.json", rope_parameters=rope, **old)(folder)
    result = export(base=str(folder), precision="fp32", max_tokens=32, workspace=tmp_path / "ws")
    assert result.parity.cos_min > 0.99999


def test_a_tokenizer_that_this_release_cannot_read_is_refused_by_the_name_of_its_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("Tokenizer class FromTheFuture does not exist")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(BadArtifact, match=f"FromTheFuture.*than {transformers.__version__}, such as") as caught:
        export(base=str(folder), precision="fp32", max_tokens=32, workspace=tmp_path / "ws")
    assert caught.value.where == str(folder)


def test_an_old_pad_id_of_minus_one_is_no_token(tmp_path: Path) -> None:
    folder = make_family(tmp_path / "llama", "llama")
    edit("config.json", pad_token_id=-1)(folder)
    probes(folder)


def test_bytes_of_a_fallback_need_no_merges() -> None:
    names = [f"<0x{number:02X}>" for number in range(256)] + ["a", "b", "ab", "abab"]
    assert _not_merged({"type": "BPE", "vocab": dict.fromkeys(names, 0), "merges": ["a b"]}) == ["abab"]
