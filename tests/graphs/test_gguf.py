"""GGUF files: weights are dequantized, and the tokenizer follows the metadata."""

import json
from pathlib import Path

import numpy as np
import pytest
import transformers
from safetensors.torch import load_file

from loid_infer import Encoder, export
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.graphs.bases import load_base
from loid_infer.graphs.hugging import Metadata
from loid_infer.graphs.parity import reference_vectors
from loid_infer.kernels.cosine import row_cosines
from tests.families import make_family

TEXTS = ["great", "the sound of my guitar was not very good", "naïve 👍 2024", "it broke. " * 20]
_BLOCKS = b"llama.block_count\4\0\0\0"  # the key, and the type of its number
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with plain rotary positions."""
    folder = make_family(tmp_path_factory.mktemp("llama") / "llama", "llama")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name in ("rope_scaling", "rope_parameters"):
        config.pop(name, None)
    path.write_text(json.dumps(config | {"rope_theta": 5000.0, "rope_parameters": None}))
    return folder


def interleaved(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of a query or key in the order of llama.cpp: the two elements of a rotation are adjacent."""
    return weight.reshape(n_heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    folder: Path, path: Path, *, bos: bool | None, kind: str = "F32", split: str = "", **metadata: object
) -> Path:
    import gguf

    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    merges = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    if split:  # replace the last token by one of two digits
        vocabulary[-1], merges[-1] = "20", "2 0"
    special = {token["content"] for token in tokenizer["added_tokens"]}
    out = gguf.GGUFWriter(path, "llama")
    out.add_context_length(256)
    out.add_embedding_length(config["hidden_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(config["num_attention_heads"])
    out.add_head_count_kv(config["num_key_value_heads"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_rope_freq_base(config["rope_theta"])
    out.add_vocab_size(len(vocabulary))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(split or "gpt-2")
    out.add_token_list(vocabulary)
    out.add_token_types([3 if token in special else 1 for token in vocabulary])
    out.add_token_merges(merges)
    out.add_bos_token_id(0)
    out.add_eos_token_id(2)
    if bos is not None:
        out.add_add_bos_token(bos)
    for key, value in metadata.items():
        add = {bool: out.add_bool, int: out.add_uint32, str: out.add_string}[type(value)]
        add(f"llama.{key.replace('__', '.')}", value)
    for name, tensor in load_file(folder / "model.safetensors").items():
        weight, parts = tensor.numpy(), name.removesuffix(".weight").split(".", 2)
        if parts[0] == "layers":
            gguf_name = f"blk.{parts[1]}.{_LAYER[parts[2]]}.weight"
            heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
            weight = interleaved(weight, heads[_LAYER[parts[2]]]) if _LAYER[parts[2]] in heads else weight
        else:
            gguf_name = {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[parts[0]]
        sort = gguf.GGMLQuantizationType[kind if weight.ndim > 1 and weight.shape[1] % 32 == 0 else "F32"]
        out.add_tensor(gguf_name, gguf.quantize(weight, sort), raw_dtype=sort)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[: len(content) // 2], "Download it again: it may be cut short"),
        (lambda content: content[:50], "Download it again: it may be cut short"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "it is a git-lfs pointer"),
        (lambda content: content.replace(_BLOCKS + b"\3", _BLOCKS + b"\2"), r"ignore.*blk\.2\..* beyond block_count 2"),
        (lambda content: content.replace(_BLOCKS + b"\3", _BLOCKS + b"\4"), r"expected 3, as in the checkpoint, got 4"),
    ],
)
def test_damaged_files_are_refused(llama: Path, tmp_path: Path, damage, message: str) -> None:
    path = write_gguf(llama, tmp_path / "it.gguf", bos=True)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadArtifact, match=message):
        load_base(str(path))


@pytest.mark.parametrize("bos", [True, False, None])
def test_vectors_equal_those_of_the_folder(llama: Path, tmp_path: Path, bos: bool | None) -> None:
    expected, base = load_base(str(llama)), load_base(str(write_gguf(llama, tmp_path / "it.gguf", bos=bos)))
    assert (base.name, base.reading.pooling, base.config["model_type"]) == ("it", "last", "llama")
    assert base.tokenizer(64).frame == (([0] if bos else []), [])
    plain, ours = expected.tokenizer(64)(TEXTS), base.tokenizer(64 + bool(bos))(TEXTS)
    assert (ours.lengths - bool(bos)).tolist() == plain.lengths.tolist()
    ids = [row[bool(bos) :] for row in np.split(ours.flat_ids, np.cumsum(ours.lengths)[:-1])]
    assert np.concatenate(ids).tolist() == plain.flat_ids.tolist()
    for text_ids in ids:
        np.testing.assert_allclose(
            reference_vectors(base, [text_ids]), reference_vectors(expected, [text_ids]), atol=1e-5
        )


def test_quantized_weights_are_dequantized_once_and_exported(llama: Path, tmp_path: Path) -> None:
    path = write_gguf(llama, tmp_path / "it.gguf", bos=False, kind="Q8_0")
    made = export("it", base=str(path), precision="fp32", max_tokens=64, workspace=tmp_path)
    assert (made.architecture, made.pooling) == ("llama", "last")
    assert str(tmp_path.parent) not in (Path(made.path) / "config.json").read_text()
    assert "_name_or_path" not in json.loads((Path(made.path) / "config.json").read_text())
    path.unlink()  # the export does not need it
    with Encoder.open("it", workspace=tmp_path) as encoder:
        vectors = encoder.encode(TEXTS)
    expected = load_base(str(llama))
    tokens = expected.tokenizer(64)(TEXTS)
    ids = np.split(tokens.flat_ids, np.cumsum(tokens.lengths)[:-1])
    tokenizer = transformers.AutoTokenizer.from_pretrained(made.path)
    assert tokenizer(TEXTS)["input_ids"] == [text_ids.tolist() for text_ids in ids]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 2)
    exact = np.concatenate([reference_vectors(expected, [text_ids]) for text_ids in ids])
    assert 0.99 < row_cosines(vectors, exact).min() < 0.99999


def test_pre_tokenizer_follows_the_file(llama: Path, tmp_path: Path) -> None:
    def lengths(split: str) -> list[int]:
        base = load_base(str(write_gguf(llama, tmp_path / f"{split}.gguf", bos=False, split=split)))
        texts = ["2024", "e\u0301", "\u00e9"]
        return base.tokenizer(64)(texts).lengths.tolist()

    plain, digits = lengths("gpt-2"), lengths("smollm")
    assert (plain[0], digits[0]) == (3, 4)
    assert plain[1] > plain[2]
    if transformers.__version__ >= "5":  # 4.57 chooses the pre-tokenizer by architecture only
        normalized = lengths("qwen2")
        assert normalized == [4, plain[2], plain[2]]  # NFC composes both characters
    with pytest.raises(BadArtifact, match="'no-such-split'"):
        lengths("no-such-split")


def test_other_files_in_the_folder_are_ignored(llama: Path, tmp_path: Path) -> None:
    path = write_gguf(llama, tmp_path / "it.gguf", bos=False)
    expected = load_base(str(path)).tokenizer_json
    other = json.loads((llama / "tokenizer.json").read_text())
    other["pre_tokenizer"] = {"type": "Whitespace"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "great", "eos_token": "good"}))
    (tmp_path / "config.json").write_text("{}")
    assert load_base(str(path)).tokenizer_json == expected


@pytest.mark.parametrize(("number", "pooling"), [(1, "mean"), (3, "last"), (0, "last")])
def test_pooling_follows_the_file(llama: Path, tmp_path: Path, number: int, pooling: str) -> None:
    base = load_base(str(write_gguf(llama, tmp_path / "it.gguf", bos=False, pooling_type=number)))
    assert base.reading.pooling == pooling


def test_metadata_that_transformers_ignores_is_refused(llama: Path, tmp_path: Path) -> None:
    for metadata in ({"rope__scaling__type": "yarn"}, {"attention__causal": False}):
        with pytest.raises(BadArtifact, match="yarn" if "rope__scaling__type" in metadata else "causal False"):
            load_base(str(write_gguf(llama, tmp_path / "it.gguf", bos=False, **metadata)))
    load_base(
        str(write_gguf(llama, tmp_path / "it.gguf", bos=False, rope__scaling__type="none", attention__causal=True))
    )


@pytest.mark.parametrize(
    ("kind", "split", "bos"),
    [("llama", None, True), ("gpt2", "llama-bpe", True), ("gpt2", "gpt-2", False), ("gpt2", "smollm", False)],
)
def test_the_default_bos_token_is_that_of_llama_cpp(kind: str, split: str | None, bos: bool) -> None:
    fields = {"tokenizer.ggml.model": kind} | ({"tokenizer.ggml.pre": split} if split else {})
    parts = {"added_tokens": [{"id": 1}, {"id": 9}], "pre_tokenizer": {"type": "Sequence"}}
    for fields_given, first in ((fields, bos), (fields | {"tokenizer.ggml.add_bos_token": not bos}, not bos)):
        corrections = Metadata(fields_given, 9).tokenizer({"bos": ("<s>", 1), "eos": ("</s>", 2)}, parts)
        assert len(corrections["post_processor"]["single"]) == 1 + first
        assert corrections["added_tokens"] == [{"id": 1}]


def test_invalid_files_are_refused(llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "it.gguf"
    path.write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(BadArtifact, match=r"it\.gguf"):
        load_base(str(path))
    path.write_bytes(b"no")
    with pytest.raises(BadArtifact, match=r"it\.gguf"):
        load_base(str(path))
    with pytest.raises(BadSetting, match="no such base"):
        load_base(str(tmp_path / "none.gguf"))
