"""Reads and writes LoRA adapters in peft's format, without importing peft.

An adapter that cannot be folded exactly into weight matrices is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from loid_infer.errors import BadArtifact
from loid_infer.tensors import save_tensors
from loid_infer.types import Array, Floats

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
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


def write_adapter(folder: Path, delta: Mapping[str, LowRank], base: str) -> None:
    """Write `delta` to `folder` as peft does, with full module paths: the suffix `dense` would match the pooler too.

    Args:
        base: name of the base, not a path.
    """
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
    save_tensors(folder / ADAPTER_FILE, tensors, {"format": "pt"})


def _rounded(alpha: float) -> float:
    """An integer if `alpha` differs from one by a rounding error only."""
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-14) else alpha


def read_adapter(folder: Path, prefix: str = "") -> dict[str, LowRank]:
    """The delta in a peft folder, by tensor name in AutoModel.state_dict().

    Scales are as in peft: `alpha / r`, for rsLoRA `alpha / sqrt(r)` (Kalajdzievski 2023); `rank_pattern` and
    `alpha_pattern` override rank and alpha of modules.

    Args:
        prefix: of module names if the adapter was trained on a model with a task head, e.g. `bert.`.

    Raises:
        BadArtifact: the adapter cannot be read, or is not a plain LoRA; the field or tensor is named.
    """
    config = _config(folder / ADAPTER_CONFIG)
    path = folder / ADAPTER_FILE
    factors: dict[str, dict[str, Array]] = {}
    for key, tensor in read_tensors(path).items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise BadArtifact(
                "a tensor is not a LoRA factor of a weight matrix",
                where=f"{path}: {key}",
                expected=f"{_PREFIX}<module>.lora_A.weight or .lora_B.weight",
                fix=_FIX,
            )
        factors.setdefault(match["module"], {})[match["factor"]] = tensor
    delta: dict[str, LowRank] = {}
    for module, pair in factors.items():
        name = f"{module.removeprefix(prefix)}.weight"
        rank = _matching(config["rank_pattern"], module, config["r"])
        alpha = _matching(config["alpha_pattern"], module, config["lora_alpha"])
        b, a = pair.get("B"), pair.get("A")
        if b is None or a is None:
            raise BadArtifact(
                "a LoRA factor is missing",
                where=f"{path}: {module}",
                expected="lora_A and lora_B",
                got=f"lora_{next(iter(pair))}",
                fix=_FIX,
            )
        if b.ndim != 2 or a.ndim != 2 or not b.shape[1] == a.shape[0] == rank:
            raise BadArtifact(
                "the shapes of the factors do not match the rank",
                where=f"{path}: {module}",
                expected=f"lora_B [d_out, {rank}] and lora_A [{rank}, d_in]",
                got=f"{list(b.shape)} and {list(a.shape)}",
                fix=_FIX,
            )
        if name in delta:
            raise BadArtifact("there are two pairs of factors for one tensor", where=f"{path}: {name}", fix=_FIX)
        delta[name] = LowRank(b, a, float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)))
    if not delta:
        raise BadArtifact("the adapter has no tensors", where=str(path), fix=_FIX)
    return delta


def _matching(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's path, as in peft's utils.get_pattern_key."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _config(path: Path) -> dict[str, Any]:
    """The config, without fields that are set but unknown."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= {field: config.get(field) or {} for field in ("rank_pattern", "alpha_pattern")}
        patterns = (config["rank_pattern"], config["alpha_pattern"])
        numbers = [float(n) for n in (config["r"], config["lora_alpha"], *patterns[0].values(), *patterns[1].values())]
        for pattern in (*patterns[0], *patterns[1]):
            re.compile(pattern)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, re.error) as error:
        raise BadArtifact(f"the adapter's config cannot be read: {error!r}", where=str(path), fix=_FIX) from error
    for field, allowed in _WANTED.items():
        if config.get(field) not in allowed:
            raise BadArtifact(
                f"the adapter cannot be folded because of {field}",
                where=str(path),
                expected=" or ".join(str(value) for value in allowed if value is not None),
                got=repr(config.get(field)),
                fix=_FIX,
            )
    for field in sorted(config):
        if config[field] and field not in _UNDERSTOOD:
            raise BadArtifact(
                f"the adapter cannot be folded because of {field}",
                where=str(path),
                expected="not set",
                got=repr(config[field])[:80],
                fix=_FIX,
            )
    if not all(0 < number < math.inf for number in numbers):
        raise BadArtifact("ranks and alphas must be positive", where=str(path), got=str(numbers), fix=_FIX)
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
        raise BadArtifact(
            f"the tensors cannot be read: {str(error).splitlines()[0][:200]}",
            where=str(path),
            expected=f"{ADAPTER_CONFIG} and {ADAPTER_FILE}",
            fix=_FIX,
        ) from error
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise BadArtifact("a tensor has NaN or infinite entries", where=f"{path}: {name}", fix=_FIX)
    return tensors
