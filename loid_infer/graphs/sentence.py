"""Reads pooling, dense layers, normalization and prompts of sentence-transformers folders, without running code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from loid_infer.errors import BadArtifact
from loid_infer.records import decode, file_fault, typed
from loid_infer.settings import DEFAULT_MAX_TOKENS

if TYPE_CHECKING:
    from torch import Tensor

POOLINGS = ("cls", "mean", "last")
_LIBRARY = "sentence_transformers."  # prefix of the types of library modules
_AFTER_POOLING = ("Dense", "Normalize")  # modules after pooling, in this order
_POOLINGS = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_LEGACY = "pooling_mode_"  # prefix of a field per pooling, true or false
_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")  # of torch.nn
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
class Reading:
    """How vectors are computed from the last layer, and how texts are preprocessed."""

    pooling: str  # one of POOLINGS, or an unsupported one of a folder
    normalize: bool = False
    dense: tuple[str, ...] = ()  # activations of the dense layers after pooling
    tensors: dict[str, Tensor] = field(default_factory=dict)  # `dense.0.weight` [d_out, d_in], `dense.0.bias`, ..
    prompt: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)  # of the folder, by name
    max_tokens: int = DEFAULT_MAX_TOKENS
    lower: bool = False  # lowercase texts first
    pools_prompt: bool = True  # the tokens of the prompt are pooled too


def find_reading(folder: Path) -> tuple[Path, Reading]:
    """The folder of the transformer in a sentence-transformers folder, and its Reading; any other folder itself, and a
    Reading without a pooling.

    Raises:
        BadArtifact: a module is not supported, or the folder has its own code.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return folder, Reading("")
    modules = read_json(path, list[dict[str, Any]])
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
    prompts = typed(config.get("prompts") or {}, dict[str, str], _UNCHANGED, where=f"the prompts of {folder}")
    pooled = read_json(paths[1] / "config.json")
    _check_inputs(kinds, paths)
    if config.get("truncate_dim"):
        raise _refused("truncated vectors are not supported", folder, f"truncate_dim {config['truncate_dim']}")
    dense = [_dense(part) for kind, part in zip(kinds, paths, strict=True) if kind == "Dense"]
    return paths[0], Reading(
        _pooling(pooled),
        "Normalize" in kinds,
        tuple(activation for activation, _ in dense),
        {f"dense.{i}.{name}": tensor for i, (_, layer) in enumerate(dense) for name, tensor in layer.items()},
        prompts.get(config.get("default_prompt_name") or "", ""),
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
    chosen = [name.removeprefix(_LEGACY) for name, value in config.items() if name.startswith(_LEGACY) and value]
    legacy = [name.removesuffix("s").removesuffix("_token") for name in chosen]
    modes = config.get("pooling_mode") or legacy or "mean"
    modes = [modes] if isinstance(modes, str) else list(modes)
    return " and ".join(_POOLINGS.get(mode, str(mode)) for mode in modes)


def _max_tokens(config: Mapping[str, Any], folder: Path) -> int:
    """Since release 6, the maximum length is in the tokenizer config only; without one it is that of the model."""
    tokenizer = read_json(folder / "tokenizer_config.json", absent={})
    value = config.get("max_seq_length") or tokenizer.get("model_max_length")
    return int(min(_UNLIMITED, value)) if isinstance(value, int | float) else _UNLIMITED


def _dense(folder: Path) -> tuple[str, dict[str, Tensor]]:
    """The activation, and `weight` and `bias` in float32."""
    from safetensors.torch import load_file

    config = read_json(folder / "config.json")
    named = str(config.get("activation_function") or "torch.nn.modules.activation.Tanh")
    activation = named.rsplit(".", 1)[-1]
    if not named.startswith("torch.nn.") or activation not in _ACTIVATIONS or config.get("use_residual"):
        raise _refused("a dense layer is not supported", folder, named)
    try:
        tensors = load_file(folder / "model.safetensors")
        layer = {"weight": tensors["linear.weight"].float()}
    except (OSError, KeyError, SafetensorError) as error:
        fault = file_fault(folder / "model.safetensors") or str(error)
        pickled = "pytorch_model.bin" if (folder / "pytorch_model.bin").exists() else fault
        raise BadArtifact(
            "the model.safetensors of a dense layer cannot be read; pickled files are never opened",
            where=str(folder),
            got=pickled,
            fix="Save the model again with a current sentence-transformers.",
        ) from error
    if "linear.bias" in tensors:
        layer["bias"] = tensors["linear.bias"].float()
    return activation.lower(), layer


def read_json(path: Path, kind: Any = dict, *, absent: Any = None) -> Any:
    """The content of a JSON file; `absent`, if given, if the file does not exist.

    Raises:
        BadArtifact: the file cannot be read, or its content is not of type `kind`.
    """
    if absent is not None and not path.is_file():
        return absent
    return decode(path, kind, _UNCHANGED)


def _refused(what: str, where: Path, got: str) -> BadArtifact:
    return BadArtifact(what, where=str(where), got=got, fix=_FIX)
