"""The delta of a plugin, i.e. what is added to tensors of the base: digest, folding, and files.

Low-rank deltas are stored as LoRA adapters in peft's format, without importing peft. An adapter that cannot be folded
exactly into weight matrices is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open

from loid_infer.errors import BadArtifact
from loid_infer.records import file_fault
from loid_infer.tensors import save_tensors
from loid_infer.types import Array, Floats

DELTA_FILE = "delta.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"
_PREFIX = "base_model.model."
_INNER = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\\?\.")  # torch puts them anywhere
_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])(?P<adapter>\.[^.]+)?\.weight")
# Fields of a peft config that are read here or have no effect after training. Any other field that is set may change
# the function: DoRA, biases, further modules, tokens, parameters.
_UNDERSTOOD = frozenset(
    {
        *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias", "init_lora_weights"),
        *("fan_in_fan_out",),  # peft itself sets it to false on torch.nn.Linear, and no family has another kind
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
        *("lora_dropout", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"),
        *("megatron_config", "megatron_core", "qalora_group_size", "ensure_weight_tying", "runtime_config"),
    }
)
# Initializations that leave the base unchanged; PiSSA, OLoRA and LoftQ change it.
_INITIALIZATIONS = (True, False, None, "gaussian", "orthogonal", "eva")
_WANTED = {"peft_type": ("LORA",), "bias": ("none", None), "init_lora_weights": _INITIALIZATIONS}
_FIX = "Give a plain LoRA adapter of an encoder's linear layers, saved with peft's save_pretrained."
_OTHER_BASE = "Use the plugin on the base it was trained on."


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """`scale * b @ a` (Hu et al. 2021, eq. 3)."""

    b: Floats  # [d_out, r] float32
    a: Floats  # [r, d_in] float32
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """`(d_out, d_in)`."""
        return self.b.shape[0], self.a.shape[1]

    def dense64(self) -> Floats:
        """The product `[d_out, d_in]` in float64; rounded to float32 it is equal on all machines."""
        product: Floats = self.scale * (self.b.astype(np.float64) @ self.a.astype(np.float64))
        return product


Part: TypeAlias = LowRank | Array  # an array is the full delta of a tensor, float32
Delta: TypeAlias = Mapping[str, Part]  # by tensor name in AutoModel.state_dict()


def dense(part: Part) -> Floats:
    """The dense delta, float64."""
    return part.dense64() if isinstance(part, LowRank) else part.astype(np.float64)


def delta_digest(delta: Delta) -> str:
    """sha256 over the tensors sorted by name, 64 hex digits: name, kind, shape, float32 content, scale.

    It covers the factors instead of their product, so it does not depend on a linear algebra library.
    """
    digest = hashlib.sha256()
    for name in sorted(delta):
        part = delta[name]
        if isinstance(part, LowRank):
            sizes, kind, scale = [*part.b.shape, part.a.shape[1]], "low-rank", repr(float(part.scale))
        else:
            sizes, kind, scale = [*part.shape], "full", ""
        digest.update(json.dumps([name, kind, sizes]).encode())
        for array in (part.b, part.a) if isinstance(part, LowRank) else (part,):
            digest.update(np.ascontiguousarray(array, "<f4").reshape(-1).data)
        digest.update(scale.encode())
    return digest.hexdigest()


def check_delta(delta: Delta, tensors: Mapping[str, Array], where: str) -> None:
    """Check that a base with these `tensors` has every tensor of `delta`, in the same shape.

    Raises:
        BadArtifact: a tensor is missing or has another shape.
    """
    for name, part in delta.items():
        if name not in tensors:
            raise BadArtifact(f"the base has no tensor {name}", where=where, fix=_OTHER_BASE)
        if part.shape != tensors[name].shape:
            shape, got = str(tensors[name].shape), str(part.shape)
            raise BadArtifact(f"{name} has another shape", where=where, expected=shape, got=got, fix=_OTHER_BASE)


def fold(tensors: Mapping[str, Array], deltas: Sequence[Delta]) -> dict[str, Array]:
    """Add `deltas` to the float32 `tensors` of a base, in float64, and round once. Other tensors stay the same objects.

    The deltas must be in digest order, so that equal chains give equal bytes.

    Raises:
        BadArtifact: see `check_delta`.
    """
    for number, delta in enumerate(deltas, 1):
        check_delta(delta, tensors, f"plugin {number} of {len(deltas)} in digest order")
    folded = dict(tensors)
    for name in {name for delta in deltas for name in delta}:
        total = tensors[name].astype(np.float64)
        for delta in deltas:
            if name in delta:
                total += dense(delta[name])
        folded[name] = total.astype(np.float32)
    return folded


def read_delta(folder: Path) -> dict[str, Part]:
    """The delta in `folder`: low-rank from a peft folder, else the tensors of `delta.safetensors`.

    Raises:
        BadArtifact: see `read_adapter` and `read_tensors`.
    """
    if (folder / DELTA_FILE).is_file():
        return {**read_tensors(folder / DELTA_FILE)}
    return {**read_adapter(folder)}


def write_delta(folder: Path, delta: Delta, base: str) -> None:
    """Write the delta of the base named `base`: as a peft adapter if it is low-rank, else as `delta.safetensors`."""
    low_rank = {name: part for name, part in delta.items() if isinstance(part, LowRank)}
    if len(low_rank) == len(delta):
        _write_adapter(folder, low_rank, base)
    else:
        full = {name: np.asarray(dense(part), np.float32) for name, part in sorted(delta.items())}
        save_tensors(folder / DELTA_FILE, full, copy=True)


def _write_adapter(folder: Path, delta: Mapping[str, LowRank], base: str) -> None:
    """Write `delta` as peft does, with full module paths: the suffix `dense` would match the pooler too."""
    modules = {name.removesuffix(".weight"): delta[name] for name in sorted(delta)}
    rank = max(part.a.shape[0] for part in modules.values())
    ranks = {module: part.a.shape[0] for module, part in modules.items()}
    alphas = {module: _rounded(part.scale * part.a.shape[0]) for module, part in modules.items()}
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "task_type": None,
        "inference_mode": True,
        "bias": "none",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": [*modules],
        "rank_pattern": {module: own for module, own in ranks.items() if own != rank},
        "alpha_pattern": {module: own for module, own in alphas.items() if own != rank},
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    factors = {f"{_PREFIX}{module}.lora_A.weight": part.a for module, part in modules.items()}
    factors |= {f"{_PREFIX}{module}.lora_B.weight": part.b for module, part in modules.items()}
    tensors = {key: np.asarray(factors[key], np.float32) for key in sorted(factors)}
    save_tensors(folder / ADAPTER_FILE, tensors, {"format": "pt"}, copy=True)


def _rounded(alpha: float) -> float:
    """An integer if `alpha` differs from one by a rounding error only."""
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-14) else alpha


def plain_name(key: str) -> str:
    """The name of a tensor in AutoModel.state_dict(), of its name in an adapter that `write_delta` writes."""
    return key.removeprefix(_PREFIX)


def read_adapter(
    folder: Path, name_of: Callable[[str], str] = plain_name, allowed: Sequence[str] = ()
) -> dict[str, LowRank]:
    """The delta in a peft folder, by tensor name in AutoModel.state_dict().

    Scales are as in peft: `alpha / r`, for rsLoRA `alpha / sqrt(r)` (Kalajdzievski 2023); `rank_pattern` and
    `alpha_pattern` override rank and alpha of modules.

    Args:
        name_of: the name of a tensor in the base, of its name in the adapter; empty to leave it out.
        allowed: further fields that the config may have.

    Raises:
        BadArtifact: the adapter cannot be read, or is not a plain LoRA; the field or tensor is named.
    """
    config = adapter_config(folder, allowed)
    path = folder / ADAPTER_FILE
    factors: dict[tuple[str, str], dict[str, Array]] = {}
    for key, tensor in read_tensors(path).items():
        match = _KEY.fullmatch(_INNER.sub("", key))
        if match is not None:
            factors.setdefault((match["module"], match["adapter"] or ""), {})[match["factor"]] = tensor
        elif name_of(_INNER.sub("", key)):
            expected = f"{_PREFIX}<module>.lora_A.weight or .lora_B.weight"
            raise _refused("a tensor is not a LoRA factor of a weight matrix", f"{path}: {key}", expected)
    delta: dict[str, LowRank] = {}
    for (module, _), pair in factors.items():
        name, where = name_of(f"{module}.weight"), f"{path}: {module}"
        if not name:
            continue
        names = plain_name(module), name.removesuffix(".weight")
        rank = _matching(config["rank_pattern"], names, config["r"])
        alpha = _matching(config["alpha_pattern"], names, config["lora_alpha"])
        if len(pair) != 2:
            raise _refused("a LoRA factor is missing", where, got=f"only lora_{next(iter(pair))}")
        b, a = pair["B"], pair["A"]
        if b.ndim != 2 or a.ndim != 2 or not b.shape[1] == a.shape[0] == rank:
            expected, got = f"lora_B [d_out, {rank}] and lora_A [{rank}, d_in]", f"{list(b.shape)} and {list(a.shape)}"
            raise _refused("the shapes of the factors do not match the rank", where, expected, got)
        if name in delta:
            raise _refused("there are two pairs of factors for one tensor", f"{path}: {name}")
        delta[name] = LowRank(b, a, float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)))
    if not delta:
        raise _refused("the adapter has no tensors", path)
    return delta


def _matching(patterns: Mapping[str, Any], names: Sequence[str], default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's path, as in peft's utils.get_pattern_key.

    `names` are its path with and without wrappers.
    """
    for key, value in patterns.items():
        if any(_ending(key).match(name) for name in names):
            return value
    return default


def _ending(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({_INNER.sub('', pattern)})$")


def adapter_config(folder: Path, allowed: Sequence[str] = ()) -> dict[str, Any]:
    """The config of an adapter, which has no fields set but known ones and those `allowed`.

    Raises:
        BadArtifact: it cannot be read, or a field is set that changes the adapter.
    """
    path = folder / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= {field: config.get(field) or {} for field in ("rank_pattern", "alpha_pattern")}
        patterns = (config["rank_pattern"], config["alpha_pattern"])
        numbers = [float(n) for n in (config["r"], config["lora_alpha"], *patterns[0].values(), *patterns[1].values())]
        config |= {"r": config["r"], "lora_alpha": float(config["lora_alpha"])}
        for pattern in (*patterns[0], *patterns[1]):
            _ending(pattern)
        if not all(isinstance(name, str) for name in list(config.get("modules_to_save") or ())):
            raise TypeError("modules_to_save is not a list of names")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, re.error) as error:
        raise _refused(f"the adapter's config cannot be read: {file_fault(path) or repr(error)}", path) from error
    unsupported = [field for field, allowed in _WANTED.items() if config.get(field) not in allowed]
    unsupported += [field for field in sorted(config) if config[field] and field not in {*_UNDERSTOOD, *allowed}]
    if unsupported:
        field = unsupported[0]
        expected = " or ".join(str(value) for value in _WANTED.get(field, ("not set",)) if value is not None)
        what, got = f"the adapter cannot be folded because of {field}", repr(config.get(field))[:80]
        raise _refused(what, path, expected, got)
    if not all(0 < number < math.inf for number in numbers):
        raise _refused("ranks and alphas must be positive", path, got=str(numbers))
    return dict(config)


def read_tensors(path: Path) -> dict[str, Array]:
    """All tensors of a safetensors file as float32.

    Raises:
        BadArtifact: the file cannot be read, or a tensor contains NaN or infinity.
    """
    try:
        with safe_open(path, framework="np") as file:
            names = [*file.keys()]
            if all(file.get_slice(name).get_dtype() in ("F32", "F64", "F16") for name in names):
                tensors = {name: file.get_tensor(name).astype(np.float32, copy=False) for name in names}
            else:
                from safetensors.torch import load_file  # numpy has no bfloat16

                tensors = {name: tensor.float().numpy() for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        message = file_fault(path) or str(error).splitlines()[0][:200]
        if not path.exists() and (path.parent / PICKLED_FILE).exists():
            read = f"d = {str(path.parent)!r}; t = load(d + '/{PICKLED_FILE}', weights_only=True)"
            save = f"save_file({{k: v.contiguous() for k, v in t.items()}}, d + '/{ADAPTER_FILE}')"
            code = f"from torch import load; from safetensors.torch import save_file; {read}; {save}"
            what, fix = f"the adapter is pickled ({PICKLED_FILE}), which is never opened", f'Run `python -c "{code}"`.'
            raise BadArtifact(what, where=str(path.parent), expected=ADAPTER_FILE, fix=fix) from error
        raise _refused(f"the tensors cannot be read: {message}", path) from error
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise _refused("a tensor has NaN or infinite entries", f"{path}: {name}")
    return tensors


def _refused(what: str, where: Path | str, expected: str = "", got: str = "") -> BadArtifact:
    return BadArtifact(what, where=str(where), expected=expected, got=got, fix=_FIX)
