"""Reads pooling, dense layers, normalization and prompts of sentence-transformers folders, without running code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from loid_infer.errors import BadArtifact
from loid_infer.records import decode
from loid_infer.types import Array

if TYPE_CHECKING:
    from torch import Tensor

MODULES_FILE = "modules.json"
POOLINGS = ("cls", "mean", "last")
_LIBRARY = "sentence_transformers."  # prefix of the types of library modules
_AFTER_POOLING = ("Dense", "Normalize")  # modules after pooling, in this order
_POOLINGS = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_ACTIVATIONS = {
    "Identity": "identity",
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
}
_TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}
# Fields of the transformer that are read or do not affect vectors, and supported values of other fields.
_IGNORED = ("max_seq_length", "do_lower_case", "unpad_inputs")
_SUPPORTED = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "modality_config": _TEXT,
}
_UNLIMITED = 10**9  # tokens; transformers writes 10^30 if there is no limit
_UNCHANGED = "Give --base a folder as transformers or sentence-transformers saved it."
_FIX = "Give --base a folder of transformer, pooling, dense layers and normalization, in this order."


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer after pooling."""

    weight: Array  # [d_out, d_in] float32
    bias: Array | None  # [d_out]
    activation: str


@dataclass(frozen=True, slots=True)
class Reading:
    """How vectors are computed from the last layer, and how texts are preprocessed."""

    pooling: str  # one of POOLINGS, or an unsupported one of a folder
    normalize: bool = False
    dense: tuple[Dense, ...] = ()
    prompt: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)  # of the folder, by name
    max_tokens: int | None = None
    lower: bool = False  # lowercase texts first
    pools_prompt: bool = True  # the tokens of the prompt are pooled too

    def tensors(self) -> dict[str, Tensor]:
        """The dense layers as `dense.0.weight`, `dense.0.bias`, .."""
        import torch

        arrays: dict[str, Array] = {}
        for i, part in enumerate(self.dense):
            arrays |= {f"dense.{i}.weight": part.weight} | ({} if part.bias is None else {f"dense.{i}.bias": part.bias})
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def find_reading(folder: Path) -> tuple[Path, Reading] | None:
    """The folder of the transformer in a sentence-transformers folder, and its Reading; None if it is no such folder.

    Raises:
        BadArtifact: a module is not supported, or the folder has its own code.
    """
    path = folder / MODULES_FILE
    if not path.is_file():
        return None
    modules = read_json(path, list)
    if not all(isinstance(module, dict) for module in modules):
        raise _refused("the file is not a list of modules", path, "")
    kinds = [_kind(module, path) for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or sorted(kinds[2:], key=_AFTER_POOLING.index) != kinds[2:]:
        raise _refused("the order of the modules is not supported", path, ", ".join(kinds))
    paths = [folder / str(module.get("path", "")) for module in modules]
    if not all(part.resolve().is_relative_to(folder.resolve()) for part in paths):
        raise _refused("a module is outside the folder", path, ", ".join(map(str, paths)))
    inner: dict[str, Any] = next((read_json(file) for file in sorted(paths[0].glob("sentence_*_config.json"))), {})
    for name, value in inner.items():
        setting = value.get("text", _TEXT) if name == "modality_config" and isinstance(value, dict) else value
        if setting and name not in _IGNORED and setting != _SUPPORTED.get(name):
            raise _refused("a field of the transformer is not supported", paths[0], f"{name} {value}"[:120])
    config = read_json(folder / "config_sentence_transformers.json", absent={})
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        path = folder / "config_sentence_transformers.json"
        raise _refused("the prompts are not a mapping of names to texts", path, repr(prompts)[:80])
    pooled = read_json(paths[1] / "config.json")
    prompt = prompts.get(config.get("default_prompt_name") or "", "")
    _check_inputs(kinds, paths)
    if config.get("truncate_dim"):
        raise _refused("truncated vectors are not supported", folder, f"truncate_dim {config['truncate_dim']}")
    return paths[0], Reading(
        _pooling(pooled),
        "Normalize" in kinds,
        tuple(_dense(part) for kind, part in zip(kinds, paths, strict=True) if kind == "Dense"),
        prompt,
        prompts,
        _max_tokens(inner, paths[0]),
        bool(inner.get("do_lower_case")),
        pooled.get("include_prompt") is not False,
    )


def _kind(module: dict[str, Any], path: Path) -> str:
    named = str(module.get("type"))
    kind = named.rsplit(".", 1)[-1]
    if not named.startswith(_LIBRARY):
        raise _refused("the folder has its own code, which is never run", path, named)
    if kind not in ("Transformer", "Pooling", *_AFTER_POOLING):
        raise _refused("a module is not supported", path, named)
    return kind


def _check_inputs(kinds: Sequence[str], paths: Sequence[Path]) -> None:
    """Check that modules after pooling use the pooled vector."""
    for kind, path in zip(kinds, paths, strict=True):
        config = read_json(path / "config.json", absent={}) if kind in _AFTER_POOLING else {}
        names = {config.get("module_input_name"), config.get("module_output_name")} - {None, "sentence_embedding"}
        if names:
            raise _refused("a module after pooling does not use the pooled vector", path, ", ".join(map(str, names)))


def _pooling(config: dict[str, Any]) -> str:
    modes = config.get("pooling_mode") or [mode for name, mode in _LEGACY.items() if config.get(name)] or "mean"
    modes = [modes] if isinstance(modes, str) else list(modes)
    return " and ".join(_POOLINGS.get(mode, str(mode)) for mode in modes)


def _max_tokens(config: Mapping[str, Any], folder: Path) -> int | None:
    """Since release 6, the maximum length is in the tokenizer config only."""
    tokenizer = read_json(folder / "tokenizer_config.json", absent={})
    value = config.get("max_seq_length") or tokenizer.get("model_max_length")
    return int(value) if isinstance(value, int | float) and value < _UNLIMITED else None


def _dense(folder: Path) -> Dense:
    from safetensors.numpy import load_file

    config, file = read_json(folder / "config.json"), folder / "model.safetensors"
    named = str(config.get("activation_function") or "torch.nn.modules.activation.Tanh")
    activation = _ACTIVATIONS.get(named.rsplit(".", 1)[-1], "")
    if not named.startswith("torch.nn.") or not activation or config.get("use_residual"):
        raise _refused("a dense layer is not supported", folder, named)
    try:
        tensors: dict[str, Array] = load_file(file)
        weight, bias = tensors["linear.weight"].astype("<f4"), tensors.get("linear.bias")
    except (OSError, KeyError, SafetensorError) as error:
        pickled = "pytorch_model.bin" if (folder / "pytorch_model.bin").exists() else str(error)
        raise BadArtifact(
            "the weights of a dense layer cannot be read; pickled files are never opened",
            where=str(folder),
            expected="model.safetensors",
            got=pickled,
            fix="Save the model again with a current sentence-transformers.",
        ) from error
    return Dense(weight, None if bias is None else bias.astype("<f4"), activation)


def read_json(path: Path, kind: type = dict, *, absent: Any = None) -> Any:
    """The content of a JSON file; `absent`, if given, if the file does not exist.

    Raises:
        BadArtifact: the file cannot be read, or its content is not of type `kind`.
    """
    if absent is not None and not path.is_file():
        return absent
    return decode(path, kind, _UNCHANGED)


def _refused(what: str, where: Path, got: str) -> BadArtifact:
    return BadArtifact(what, where=str(where), got=got, fix=_FIX)
