"""The only module that uses transformers and huggingface_hub: downloads, configs, models and tokenizers.

Code of a model folder is never run, and pickled files are never opened. What transformers ignores in a GGUF file is
corrected in its tokenizer, or the file is refused.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loid_infer.artifact import scratch_folder
from loid_infer.encoders.spec import CONFIG_FILE, TOKENIZER_FILE
from loid_infer.errors import BadArtifact, LoidError, RuntimeMissing
from loid_infer.graphs.sentence import read_json

_HUB_FILES = "*.json model*.safetensors 0_Transformer/*.safetensors *_Dense/*.safetensors vocab.txt merges.txt *.model"
_TOKENIZER_CONFIG, _ADAPTER = "tokenizer_config.json", "adapter_config.json"
_CODE = ("the folder has its own code, which is never run", "Give --base a model that is part of transformers.")
_REFUSED = (  # file, field, value or None for any, problem, fix
    (CONFIG_FILE, "auto_map", None, *_CODE),
    (_TOKENIZER_CONFIG, "auto_map", None, *_CODE),
    (_TOKENIZER_CONFIG, "truncation_side", "left", "texts are truncated on the left", "Change the field to `right`."),
    (_ADAPTER, "peft_type", None, "the folder has an adapter", "Move it, then run `loid-infer plugin import DIR`."),
)
_SAVE = "Save the model with `model.save_pretrained(folder)`."
_POOLINGS = {1: "mean", 2: "cls", 3: "last", 4: "rank"}  # 0: none
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
    configs = {file: read_json(path / file, absent={}) for file in (_TOKENIZER_CONFIG, _ADAPTER)}
    configs[CONFIG_FILE] = read_json(path / CONFIG_FILE)
    for file, field, value, what, fix in _REFUSED:
        if field in configs[file] and value in (None, configs[file][field]):
            raise BadArtifact(f"{what}: {field}", where=str(path / file), fix=fix)
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
    ignored += [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_freqs")]
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


def load_model(path: Path, loader: str) -> tuple[Any, set[str]]:
    """The module of a folder or GGUF file, of transformers' class `loader`, in float32; the names of missing tensors.

    Raises:
        BadArtifact: it cannot be read.
    """
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    expected = "model.safetensors; pickled weights (pytorch_model.bin) are never opened"
    with (
        as_bad_artifact("the weights", path, "a GGUF file" if path.is_file() else expected),
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
            **options,
        )
    return model.eval(), {*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])}


def tokenizer_json(path: Path, gguf: Metadata | None, *, lower: bool) -> str:
    """The tokenizer.json, without truncation and padding; if the file is missing, transformers makes it.

    `gguf` is None for a folder; `lower` adds a lowercase normalizer.

    Raises:
        BadArtifact: there is no tokenizer.json, and it cannot be made.
    """
    expected = "tokenizer.json, or files of a tokenizer that transformers supports"
    with as_bad_artifact("the tokenizer", path, expected), _load_options(path) as (folder, options):
        if (folder / TOKENIZER_FILE).is_file():
            parts = read_json(folder / TOKENIZER_FILE)
        else:
            import transformers

            made = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
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


def reference_ids(folder: Path, texts: list[str], max_tokens: int) -> list[list[int]]:
    """Token ids of transformers' tokenizer."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids: list[list[int]] = tokenizer(texts, truncation=True, max_length=max_tokens, padding=False)["input_ids"]
    return ids


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
def as_bad_artifact(what: str, path: Path, expected: str) -> Iterator[None]:
    """Convert all exceptions of a library that reads a file to BadArtifact."""
    try:
        yield
    except LoidError:
        raise
    except Exception as error:
        message = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise BadArtifact(f"{what} cannot be read: {message}", where=str(path), expected=expected, fix=_SAVE) from error
