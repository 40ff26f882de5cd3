"""Hugging Face's libraries' only home: what a hub has, and models and tokenizers as transformers reads them.

No code of a folder ever runs and no pickled file is opened. Knows no family of models.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loid_infer.encoders.spec import CONFIG_FILE, TOKENIZER_FILE
from loid_infer.errors import BadArtifact, LoidError, RuntimeMissing
from loid_infer.graphs.gguf import Told
from loid_infer.graphs.sentence import read_json

_HUB_FILES = "*.json model*.safetensors 0_Transformer/*.safetensors *_Dense/*.safetensors vocab.txt merges.txt *.model"
_TOKENIZER_CONFIG, _ADAPTER = "tokenizer_config.json", "adapter_config.json"
_CODE = ("code of the folder's own, which never runs here", "Give --base a model of transformers itself.")
_REFUSED = (  # file, field, its value or None for any, what is wrong with it, what mends it
    (CONFIG_FILE, "auto_map", None, *_CODE),
    (_TOKENIZER_CONFIG, "auto_map", None, *_CODE),
    (_TOKENIZER_CONFIG, "truncation_side", "left", "texts are cut on the left", "Change it to `right` there."),
    (_ADAPTER, "peft_type", None, "an adapter lies beside the base", "Move it, and `loid-infer plugin import FOLDER`."),
)
_SAVE = "Save the model with `model.save_pretrained(folder)`."


def from_hub(name: str) -> Path:
    """The folder of a hub's model: its files of data, never code.

    Raises:
        RuntimeMissing: the hub cannot be reached or does not know it.
    """
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES.split()))
    except (OSError, ValueError) as error:  # every hub and network error is one of the two
        raise RuntimeMissing(
            "the base is neither a folder here nor to be had from the hub",
            where=name,
            got=str(error).splitlines()[0][:200],
            fix="Give --base a folder that holds config.json and model.safetensors, or leave it out for the bundled "
            "all-MiniLM-L6-v2.",
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """The fields of the config.json of a folder, or of a GGUF file.

    Raises:
        BadArtifact: it cannot be read, or the folder brings code of its own.
    """
    if path.is_file():
        import transformers

        expected = "one of a model that transformers knows, and the package gguf"
        with refusing("the GGUF file", path, expected), _alone(path) as (folder, options):
            found = transformers.AutoConfig.from_pretrained(folder, **options)
            return dict(json.loads(found.to_json_string(use_diff=False)))
    told = {file: read_json(path / file, absent={}) for file in (_TOKENIZER_CONFIG, _ADAPTER)}
    told[CONFIG_FILE] = read_json(path / CONFIG_FILE)
    for file, field, value, what, fix in _REFUSED:
        if field in told[file] and value in (None, told[file][field]):
            raise BadArtifact(f"{what}: {field}", where=str(path / file), fix=fix)
    return dict(told[CONFIG_FILE])


def load_model(path: Path, loader: str) -> tuple[Any, set[str]]:
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
    expected = "model.safetensors; pickled weights (pytorch_model.bin) are never opened"
    with (
        refusing("the weights", path, "a GGUF file" if path.is_file() else expected),
        contextlib.redirect_stderr(io.StringIO()),  # a bar of its own
        _alone(path) as (folder, options),
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


def tokenizer_json(path: Path, told: Told | None, *, lower: bool) -> str:
    """The tokenizer.json beside the weights, without truncation and padding; where there is none, transformers makes it
    of what there is.

    Args:
        told: what a GGUF file says; None for a folder.
        lower: whether texts are lowered before anything else.

    Raises:
        BadArtifact: there is none, and none can be made.
    """
    expected = "tokenizer.json, or what transformers makes it of"
    with refusing("the tokenizer", path, expected), _alone(path) as (folder, options):
        if (folder / TOKENIZER_FILE).is_file():
            parts = read_json(folder / TOKENIZER_FILE)
        else:
            import transformers

            made = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
            if getattr(made, "backend_tokenizer", None) is None:
                raise ValueError(f"{type(made).__name__} has no fast form")
            parts = json.loads(made.backend_tokenizer.to_str())
            if told is not None:
                used = {"bos": (made.bos_token, made.bos_token_id), "eos": (made.eos_token, made.eos_token_id)}
                parts |= told.tokenizer(used, parts)
    if lower and not (parts.get("normalizer") or {}).get("lowercase"):
        rest = [parts["normalizer"]] if parts.get("normalizer") else []
        parts["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *rest]}
    return json.dumps({**parts, "truncation": None, "padding": None}, ensure_ascii=False, indent=1)


def reference_ids(folder: Path, texts: list[str], max_tokens: int) -> list[list[int]]:
    """The ids that transformers' own tokenizer gives, to compare ours with."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids: list[list[int]] = tokenizer(texts, truncation=True, max_length=max_tokens, padding=False)["input_ids"]
    return ids


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The folder and the options by which transformers reads `place`: of a GGUF file, without what lies beside it."""
    if not path.is_file():
        yield path, {}
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / path.name).symlink_to(path.resolve())
        yield Path(folder), {"gguf_file": path.name}


@contextlib.contextmanager
def refusing(what: str, path: Path, expected: str) -> Iterator[None]:
    """Whatever a library raises on a file that it cannot read, as BadArtifact."""
    try:
        yield
    except LoidError:
        raise
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise BadArtifact(f"{what} cannot be read: {said}", where=str(path), expected=expected, fix=_SAVE) from error
