"""Hugging Face's libraries' only home: what a hub has, and models and tokenizers as transformers reads them.

No code of a folder ever runs and no pickled file is opened. Knows no family of models.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loid_infer.encoders.spec import CONFIG_FILE, TOKENIZER_FILE
from loid_infer.errors import BadArtifact, RuntimeMissing

_HUB_FILES = ["*.json", "*/config.json", "*.safetensors", "*/model.safetensors", "vocab.txt", "merges.txt", "*.model"]
_GGUF_TOKENS = "tokenizer.ggml.tokens"
_GGUF_DIGITS = ("smollm", "starcoder", "refact", "codeshell")  # byte-level BPE in which every digit is a token
_SAVE = "Save the model with `model.save_pretrained(folder)`."


def from_hub(name: str) -> Path:
    """The folder of a hub's model: its files of data, never code.

    Raises:
        RuntimeMissing: the hub cannot be reached or does not know it.
    """
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES))
    except (OSError, ValueError) as error:  # every hub and network error is one of the two
        raise RuntimeMissing(
            "the base is neither a folder here nor to be had from the hub",
            where=name,
            got=str(error).splitlines()[0][:200],
            mend="Give --base a folder that holds config.json and model.safetensors, or leave it out for the bundled "
            "all-MiniLM-L6-v2.",
        ) from error


def read_config(place: Path) -> dict[str, Any]:
    """The fields of the config.json of a folder, or of a GGUF file.

    Raises:
        BadArtifact: it cannot be read, or the folder brings code of its own.
    """
    if place.is_file():
        import transformers

        with _reading("the GGUF file", place, "one of a model that transformers knows, and the package gguf"):
            found = transformers.AutoConfig.from_pretrained(place.parent, gguf_file=place.name)
            return dict(json.loads(found.to_json_string(use_diff=False)))
    with _reading("the config", place / CONFIG_FILE, "a Hugging Face config.json"):
        config: dict[str, Any] = json.loads((place / CONFIG_FILE).read_text(encoding="utf-8"))
        for file in (CONFIG_FILE, "tokenizer_config.json"):
            if (place / file).is_file() and "auto_map" in json.loads((place / file).read_text(encoding="utf-8")):
                raise BadArtifact(
                    "code of the folder's own, which never runs here: auto_map",
                    where=str(place / file),
                    expected="a model of transformers itself",
                    mend="Give --base a folder without it.",
                )
    return config


def load_model(place: Path, loader: str) -> tuple[Any, set[str]]:
    """The transformers module of a folder or GGUF file in float32, and the tensors that the checkpoint lacks.

    Args:
        loader: the class that reads it, e.g. `AutoModel`.

    Raises:
        BadArtifact: it cannot be read.
    """
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    gguf = place.is_file()
    options: dict[str, Any] = {"gguf_file": place.name} if gguf else {"use_safetensors": True}
    expected = "a GGUF file" if gguf else "model.safetensors; pickled weights (pytorch_model.bin) are never opened"
    with _reading("the weights", place, expected), contextlib.redirect_stderr(io.StringIO()):  # a bar of its own
        model, report = getattr(transformers, loader).from_pretrained(
            place.parent if gguf else place,
            attn_implementation="eager",
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
    return model.eval(), {*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])}


def tokenizer_json(place: Path, *, lower: bool) -> str:
    """The tokenizer.json beside the weights, without truncation and padding; where there is none, transformers makes it
    of what there is.

    Args:
        lower: whether texts are lowered before anything else.

    Raises:
        BadArtifact: there is none, and none can be made.
    """
    folder = place.parent if place.is_file() else place
    with _reading("the tokenizer", folder, "tokenizer.json, or what transformers makes it of"):
        if (folder / TOKENIZER_FILE).is_file():
            parts = json.loads((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
        else:
            import transformers

            options = {"gguf_file": place.name} if place.is_file() else {}
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
            parts = json.loads(tokenizer.backend_tokenizer.to_str())
            parts |= _told_by(place, tokenizer, parts) if place.is_file() else {}
    if lower and not (parts.get("normalizer") or {}).get("lowercase"):
        rest = [parts["normalizer"]] if parts.get("normalizer") else []
        parts["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *rest]}
    return json.dumps({**parts, "truncation": None, "padding": None}, ensure_ascii=False, indent=1)


def _told_by(place: Path, tokenizer: Any, parts: dict[str, Any]) -> dict[str, Any]:
    """What a GGUF file says of its tokenizer, and transformers may read otherwise: which tokens stand before and behind
    a text, where texts are split, and that there are no tokens but its own.

    Raises:
        ValueError: texts are split in a way that is not known.
    """
    import gguf

    fields = gguf.GGUFReader(str(place)).fields

    def said(name: str) -> Any:
        field = fields.get(f"tokenizer.ggml.{name}")
        return None if field is None else field.contents()

    used = {
        side: (getattr(tokenizer, f"{side}_token"), getattr(tokenizer, f"{side}_token_id"))
        for side in ("bos", "eos")
        if said(f"add_{side}_token")
    }
    before, behind = (
        [{"SpecialToken": {"id": used[side][0], "type_id": 0}}] if side in used else [] for side in ("bos", "eos")
    )
    one, two = ([{"Sequence": {"id": name, "type_id": 0}}] for name in "AB")
    found = {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*before, *one, *behind],
            "pair": [*before, *one, *behind, *before, *two, *behind],
            "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in used.values()},
        },
        "added_tokens": [token for token in parts["added_tokens"] if token["id"] < len(fields[_GGUF_TOKENS].data)],
    }
    split, splitter = said("pre"), parts["pre_tokenizer"]
    if said("model") == "gpt2" and split in _GGUF_DIGITS:
        found["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, splitter],
        }
    elif said("model") == "gpt2" and split not in (None, "gpt-2") and splitter["type"] != "Sequence":
        raise ValueError(f"texts are split in the way {split!r}, which this release of transformers does not know")
    if split == "qwen2":
        found["normalizer"] = {"type": "NFC"}
    return found


def reference_ids(folder: Path, texts: list[str], max_tokens: int) -> list[list[int]]:
    """The ids that transformers' own tokenizer gives, to compare ours with."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids: list[list[int]] = tokenizer(texts, truncation=True, max_length=max_tokens, padding=False)["input_ids"]
    return ids


@contextlib.contextmanager
def _reading(what: str, place: Path, expected: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise BadArtifact(f"{what} cannot be read: {said}", where=str(place), expected=expected, mend=_SAVE) from error
