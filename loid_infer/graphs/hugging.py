"""The only module that uses transformers and huggingface_hub: downloads, configs, models and tokenizers.

Code of a model folder is never run, and pickled files are never opened. What transformers ignores in a GGUF file is
corrected in its tokenizer, or the file is refused.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loid_infer.artifact import scratch_folder
from loid_infer.encoders.spec import CONFIG_FILE, TOKENIZER_FILE
from loid_infer.errors import BadArtifact, LoidError, RuntimeMissing
from loid_infer.graphs.sentence import read_json
from loid_infer.records import file_fault

_HUB_FILES = "*.json model*.safetensors 0_Transformer/*.safetensors *_Dense/*.safetensors vocab.txt merges.txt *.model"
_TOKENIZER_CONFIG, _ADAPTER = "tokenizer_config.json", "adapter_config.json"
_TOKENS = ("special_tokens_map.json", "added_tokens.json")
_CODE = ("the folder has its own code, which is never run", "Give --base a model that is part of transformers.")
_MECAB = ("words are split by MeCab or the like, outside of any tokenizer.json", "Give --base a model without that.")
_QUANTIZED = "Give --base the model before quantization; if its weights are not quantized, remove the field."
_REFUSED = (  # file, field, value or None for any, problem, fix
    (CONFIG_FILE, "auto_map", None, *_CODE),
    (_TOKENIZER_CONFIG, "auto_map", None, *_CODE),
    (_TOKENIZER_CONFIG, "truncation_side", "left", "texts are truncated on the left", "Change the field to `right`."),
    (_ADAPTER, "peft_type", None, "the folder has an adapter", "Move it, then run `loid-infer plugin import DIR`."),
    (CONFIG_FILE, "quantization_config", None, "the weights are quantized", _QUANTIZED),
    (CONFIG_FILE, "tokenizer_class", "BertJapaneseTokenizer", *_MECAB),
    (_TOKENIZER_CONFIG, "tokenizer_class", "BertJapaneseTokenizer", *_MECAB),
    (_TOKENIZER_CONFIG, "word_tokenizer_type", None, *_MECAB),
)
_WEIGHTS = "model.safetensors, or its parts and model.safetensors.index.json"
_SAVE = "Save the model with `model.save_pretrained(folder)`."
_TOKENIZERS = (TOKENIZER_FILE, "vocab.txt", "vocab.json", "*.model")
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MIXED = 0.05  # a smaller share of tokens with capital letters does not show that a vocabulary is cased
_POOLINGS = {1: "mean", 2: "cls", 3: "last", 4: "rank"}  # 0: none
_LAYERS = (("global", "full"), ("local", "sliding"))  # names of transformers 4 and 5
_DIGITS = ("smollm", "starcoder", "refact", "codeshell")  # byte-level BPE with one token per digit
_BOS_FIRST = ("llama3", "llama-v3", "llama-bpe")  # byte-level BPE with a leading BOS by default


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata of a GGUF file."""

    fields: Mapping[str, Any]  # numbers and strings, by key
    n_tokens: int  # size of the vocabulary

    @property
    def pooling(self) -> str:
        """The pooling; empty if not declared."""
        return _POOLINGS.get(self.fields.get(f"{self.fields.get('general.architecture')}.pooling_type") or 0, "")

    def tokenizer(self, used: Mapping[str, tuple[str, int]], parts: Mapping[str, Any]) -> dict[str, Any]:
        """Corrections of `parts`, the tokenizer.json that transformers makes of the file: special tokens around texts,
        pre-tokenizer, and no tokens that the file does not have. `used` are names and ids of `bos` and `eos`.

        Raises:
            ValueError: the pre-tokenizer is unknown.
        """
        kind, split = self.fields.get("tokenizer.ggml.model"), self.fields.get("tokenizer.ggml.pre")
        defaults = {"bos": kind == "llama" or split in _BOS_FIRST, "eos": False}
        added = {
            side: used[side] for side in defaults if self.fields.get(f"tokenizer.ggml.add_{side}_token", defaults[side])
        }
        before, after = (
            [{"SpecialToken": {"id": added[side][0], "type_id": 0}}] if side in added else [] for side in defaults
        )
        first, second = ([{"Sequence": {"id": name, "type_id": 0}}] for name in "AB")
        special = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in added.values()}
        corrections: dict[str, Any] = {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [*before, *first, *after],
                "pair": [*before, *first, *after, *before, *second, *after],
                "special_tokens": special,
            },
            "added_tokens": [token for token in parts["added_tokens"] if token["id"] < self.n_tokens],
        }
        splitter = parts["pre_tokenizer"]
        if kind == "gpt2" and split in _DIGITS:
            digits = {"type": "Digits", "individual_digits": True}
            corrections["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, splitter]}
        elif kind == "gpt2" and split != "gpt-2" and splitter["type"] != "Sequence":
            raise ValueError(f"this release of transformers does not support the pre-tokenizer {split!r}")
        if split == "qwen2":
            corrections["normalizer"] = {"type": "NFC"}
        return corrections


def from_hub(name: str) -> Path:
    """Download a model, without code and pickled files.

    Raises:
        RuntimeMissing: the hub cannot be reached or has no such model.
    """
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES.split()))
    except (OSError, ValueError) as error:  # every hub and network error is one of the two
        raise RuntimeMissing(
            "the base is neither a local folder nor available from the hub",
            where=name,
            got=str(error).splitlines()[0][:200],
            fix="Give --base a folder of a model, or leave it out for the bundled all-MiniLM-L6-v2.",
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """The fields of the config.json of a folder, or of a GGUF file.

    Raises:
        BadArtifact: the config cannot be read, or the folder has its own code.
    """
    if path.is_file():
        import transformers

        expected = "a model that transformers supports, and the package gguf"
        with as_bad_artifact("the GGUF file", path, expected), _load_options(path) as (folder, options):
            config = transformers.AutoConfig.from_pretrained(folder, **options)
            fields = dict(json.loads(config.to_json_string(use_diff=False)))
            fields.pop("_name_or_path", None)  # a temporary folder
            return fields
    configs = {file: read_json(path / file, absent={}) for file in (_TOKENIZER_CONFIG, _ADAPTER, *_TOKENS)}
    configs[CONFIG_FILE] = read_json(path / CONFIG_FILE, absent={} if configs[_ADAPTER] else None)
    for file, field, value, what, fix in _REFUSED:
        got = configs[file].get(field)
        if got and value in (None, got):
            raise BadArtifact(f"{what}: {field}", where=str(path / file), got=str(got)[:80], fix=fix)
    return dict(configs[CONFIG_FILE])


def read_metadata(path: Path) -> Metadata:
    """Read the metadata of a GGUF file.

    Raises:
        BadArtifact: the file cannot be read, or transformers would ignore metadata that change the vectors.
    """
    with as_bad_artifact("the GGUF file", path, "a GGUF file, and the package gguf"):
        import gguf

        reader = gguf.GGUFReader(str(path))
        lists = gguf.GGUFValueType.ARRAY
        fields = {key: field.contents() for key, field in reader.fields.items() if field.types[:1] != [lists]}
    kind = fields.get("general.architecture")
    supported = {f"{kind}.rope.scaling.type": "none", f"{kind}.attention.causal": True}
    ignored = [f"{key} {fields[key]}" for key, value in supported.items() if fields.get(key, value) != value]
    names, n_layers = [tensor.name for tensor in reader.tensors], fields.get(f"{kind}.block_count")
    layers = {name: int(name.split(".")[1]) for name in names if name.startswith("blk.")}
    ignored += [f"{name} beyond block_count {n_layers}" for name, layer in layers.items() if layer >= (n_layers or 0)]
    ignored += [name for name in names if name.startswith("rope_freqs")]
    ignored += [f"general.architecture {kind}"] if kind in ("t5", "t5encoder") else []  # its activation
    if ignored:
        raise BadArtifact(
            "transformers would ignore a part of the GGUF file",
            where=str(path),
            got=", ".join(ignored[:5]),
            fix="Give --base the Hugging Face folder.",
        )
    tokens = reader.fields.get("tokenizer.ggml.tokens")
    return Metadata(fields, 0 if tokens is None else len(tokens.data))


def load_model(path: Path, loader: str) -> tuple[Any, Mapping[str, Any]]:
    """The module of a folder or GGUF file, of transformers' class `loader`, in float32, and transformers' report on
    tensors that are missing, unexpected, or of another shape.

    Raises:
        BadArtifact: it cannot be read.
    """
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if path.is_dir() and not any(path.glob("*.safetensors")):
        kinds = (".bin", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".ckpt", ".gguf")
        found = sorted(file.name for file in path.iterdir() if file.suffix in kinds)
        is_torch = any(name.endswith(".bin") for name in found)
        convert = f"AutoModel.from_pretrained({str(path)!r}).save_pretrained({str(path)!r})"
        raise BadArtifact(
            "the weights cannot be read: there is no model.safetensors, and pickled files are never opened",
            where=str(path),
            got=", ".join(found) or "no weights",
            fix=f'Convert them: `python -c "from transformers import AutoModel; {convert}"`.' if is_torch else _SAVE,
        )
    with (
        as_bad_artifact("the weights", path, "a GGUF file" if path.is_file() else _WEIGHTS),
        contextlib.redirect_stderr(io.StringIO()),  # transformers' progress bar
        _load_options(path) as (folder, options),
    ):
        parts = read_json(folder / "model.safetensors.index.json", absent={}).get("weight_map", {}).values()
        if any(Path(part).name != part for part in parts):
            raise ValueError("the index names a file outside the folder")
        model, report = getattr(transformers, loader).from_pretrained(
            folder,
            attn_implementation="eager",
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are in the report
            **_rotary(folder),
            **options,
        )
    return model.eval(), report


def output_rows(path: Path, model: Any, tokens: Sequence[int]) -> Any:
    """The output embeddings `[n, width]` of `tokens [n]`, of the `model` loaded from `path`.

    A checkpoint that stores them apart from the input embeddings is loaded a second time, with its head.

    Raises:
        BadArtifact: it has none.
    """
    if not model.config.tie_word_embeddings:
        model, _ = load_model(path, "AutoModelForCausalLM")
        return model.get_output_embeddings().weight[list(tokens)].detach().clone()
    return model.get_input_embeddings().weight[list(tokens)].detach().clone()


def _rotary(folder: Path) -> dict[str, Any]:
    """The rotary positions that transformers 5 wrote, in the terms of transformers 4, which ignores them."""
    given = read_json(folder / CONFIG_FILE, absent={}).get("rope_parameters")
    if not given or _is_5():
        return {}
    if "full_attention" in given:  # ModernBERT
        return {f"{kind}_rope_theta": given[f"{key}_attention"]["rope_theta"] for kind, key in _LAYERS}
    theta = {field: value for field, value in given.items() if field == "rope_theta"}
    return theta | {"rope_scaling": {field: value for field, value in given.items() if field not in theta}}


def tokenizer_json(path: Path, gguf: Metadata | None, *, lower: bool) -> str:
    """The tokenizer.json, without truncation and padding; if the file is missing, transformers makes it.

    `gguf` is None for a folder; `lower` adds a lowercase normalizer.

    Raises:
        BadArtifact: there is no tokenizer.json, and it cannot be made.
    """
    expected = "tokenizer.json, or files of a tokenizer that transformers supports"
    if gguf is None and not any(file for kind in _TOKENIZERS for file in path.glob(kind)):
        fix = "Copy the tokenizer files of the model into the folder."
        raise BadArtifact("the folder has no tokenizer", where=str(path), expected=" or ".join(_TOKENIZERS), fix=fix)
    with as_bad_artifact("the tokenizer", path, expected), _load_options(path) as (folder, options):
        if (folder / TOKENIZER_FILE).is_file():
            parts = read_json(folder / TOKENIZER_FILE)
        else:
            made = _tokenizer(folder, **options, **_case(folder, lower=lower))
            if getattr(made, "backend_tokenizer", None) is None:
                raise ValueError(f"{type(made).__name__} has no fast version")
            parts = json.loads(made.backend_tokenizer.to_str())
            if gguf is not None:
                used = {"bos": (made.bos_token, made.bos_token_id), "eos": (made.eos_token, made.eos_token_id)}
                parts |= gguf.tokenizer(used, parts)
    if lower and not (parts.get("normalizer") or {}).get("lowercase"):
        rest = [parts["normalizer"]] if parts.get("normalizer") else []
        parts["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *rest]}
    return json.dumps({**parts, "truncation": None, "padding": None}, ensure_ascii=False, indent=1)


def _case(folder: Path, *, lower: bool) -> dict[str, bool]:
    """Whether to lower-case texts for a `vocab.txt`, where nothing says so: decided by the vocabulary. transformers
    would do it for all.
    """
    stated = read_json(folder / _TOKENIZER_CONFIG, absent={}).get("do_lower_case")
    if stated is not None or not (folder / "vocab.txt").is_file():
        return {}
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    words = [token for token in tokens if token.lower() != token.upper() and not token.startswith("[")]
    n_cased = sum(token != token.lower() for token in words)
    if lower or not 0 < n_cased < _MIXED * len(words):
        return {"do_lower_case": not n_cased}
    raise BadArtifact(
        "nothing states whether texts are lower-cased, and the vocabulary does not show it",
        where=str(folder / "vocab.txt"),
        got=f"capital letters in {n_cased:,} of {len(words):,} tokens with letters",
        fix=f'Write {{"do_lower_case": true}}, or false, to {_TOKENIZER_CONFIG}, as the model was trained.',
    )


def reference_ids(
    folder: Path, base: Path, texts: Sequence[str], max_tokens: int
) -> tuple[list[list[int]], dict[str, int]]:
    """Token ids of transformers' tokenizer, and its added tokens with their ids, without those for padding and such.

    `folder` has a copy of the tokenizer files of `base`, which errors name.
    """
    import transformers

    fix = f"Try another release of transformers than {transformers.__version__}, such as the one that wrote the folder."
    with as_bad_artifact("the tokenizer", base, "one that transformers supports", fix):
        tokenizer = _tokenizer(folder)
    ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=max_tokens, padding=False)["input_ids"]
    named = {getattr(tokenizer, name) for name in _NAMED}
    return ids, {name: number for name, number in tokenizer.get_added_vocab().items() if name not in named}


def _is_5() -> bool:
    import transformers

    return hasattr(transformers, "TokenizersBackend")


def _tokenizer(folder: Path, **options: Any) -> Any:
    """transformers' tokenizer of a folder; what transformers 5 wrote is put in the terms of transformers 4."""
    import transformers

    loader: Any = transformers.AutoTokenizer
    config = read_json(folder / _TOKENIZER_CONFIG, absent={})
    if not _is_5():
        if config.get("tokenizer_class") == "TokenizersBackend":
            loader = transformers.PreTrainedTokenizerFast
        if isinstance(tokens := config.get("extra_special_tokens"), list):
            options |= {"additional_special_tokens": tokens, "extra_special_tokens": {}}
    return loader.from_pretrained(folder, local_files_only=True, **options)


@contextlib.contextmanager
def _load_options(path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Folder and options for transformers; a GGUF file is linked to an empty folder, so that no other file is read."""
    with scratch_folder() as folder:  # transformers and torch need one in any case
        if not path.is_file():
            yield path, {}
            return
        (folder / path.name).symlink_to(path.resolve())
        yield folder, {"gguf_file": path.name}


@contextlib.contextmanager
def as_bad_artifact(what: str, path: Path, expected: str, fix: str = "") -> Iterator[None]:
    """Convert all exceptions of a library that reads a file to BadArtifact."""
    try:
        yield
    except LoidError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())[:200] or type(error).__name__
        fix = fix or (_SAVE.replace("model", "tokenizer") if "tokenizer" in what else _SAVE)
        fix = "Download it again: it may be cut short." if path.is_file() else fix
        kinds = (*_TOKENIZERS, "merges.txt") if "tokenizer" in what else ("*.safetensors",)
        for file in [path] if path.is_file() else [file for kind in kinds for file in sorted(path.glob(kind))]:
            if fault := file_fault(file):
                message, expected, fix = f"{file.name}: {fault}", "", "Download that file again."
        raise BadArtifact(f"{what} cannot be read: {message}", where=str(path), expected=expected, fix=fix) from error
