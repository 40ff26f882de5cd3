"""A LoRA adapter as peft keeps it: its file, field and key names, read and written without importing peft.

Knows no other kind of plugin, no workspace and no model. An adapter that does more than add to weight matrices is
refused: what cannot be folded exactly is not folded at all.
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
# Fields of a peft config that are read here, or that change nothing once an adapter is trained. Any other that is set
# changes the function in a way we do not know: DoRA, biases, further modules, tokens, parameters, whatever comes next.
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
# Starts that leave the base as it was; PiSSA, OLoRA, LoftQ and their kin subtract the start from it.
_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
_WANTED = {"peft_type": ("LORA",), "bias": ("none", None), "init_lora_weights": _STARTS}
_MEND = "Give a plain LoRA adapter of an encoder's linear maps, saved with peft's save_pretrained."


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """`scale * b @ a`, the form in which LoRA trains (Hu et al. 2021, eq. 3)."""

    b: Floats  # [d_out, r] float32
    a: Floats  # [r, d_in] float32
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor that it is added to, `(d_out, d_in)`."""
        return self.b.shape[0], self.a.shape[1]

    def dense64(self) -> Floats:
        """The product `[d_out, d_in]` in float64: rounded once to float32 it is the same on every machine."""
        product: Floats = self.scale * (self.b.astype(np.float64) @ self.a.astype(np.float64))
        return product


def write_adapter(folder: Path, delta: Mapping[str, LowRank], base: str) -> None:
    """Write `delta` into `folder` as peft does, modules by full path: the suffix `dense` would match the pooler too.

    Args:
        base: the base's name, never a path.
    """
    modules = {name.removesuffix(".weight"): delta[name] for name in sorted(delta)}
    rank = max(part.a.shape[0] for part in modules.values())
    ranks = {module: part.a.shape[0] for module, part in modules.items()}
    alphas = {module: _tidy(part.scale * part.a.shape[0]) for module, part in modules.items()}
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


def _tidy(alpha: float) -> float:
    """A whole number where the product of scale and rank missed it by rounding."""
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-14) else alpha


def read_adapter(folder: Path, prefix: str = "") -> dict[str, LowRank]:
    """The delta of a peft folder, by the tensor's name in AutoModel.state_dict().

    Args:
        prefix: what modules begin with where the adapter was trained on a model with a task head, e.g. `bert.`.

    Scales follow peft: `alpha / r`, for rsLoRA `alpha / sqrt(r)` (Kalajdzievski 2023), each module with its own rank
    and alpha where `rank_pattern` or `alpha_pattern` match it.

    Raises:
        BadArtifact: it cannot be read, or does more than add to weight matrices; the field or tensor is named.
    """
    config = _config(folder / ADAPTER_CONFIG)
    path = folder / ADAPTER_FILE
    factors: dict[str, dict[str, Array]] = {}
    for key, tensor in read_tensors(path).items():
        found = _KEY.fullmatch(key)
        if found is None:
            raise BadArtifact(
                "a tensor that is no factor of a weight matrix",
                where=f"{path}: {key}",
                expected=f"{_PREFIX}<module>.lora_A.weight or .lora_B.weight",
                fix=_MEND,
            )
        factors.setdefault(found["module"], {})[found["factor"]] = tensor
    delta: dict[str, LowRank] = {}
    for module, pair in factors.items():
        name = f"{module.removeprefix(prefix)}.weight"
        rank = _matching(config["rank_pattern"], module, config["r"])
        alpha = _matching(config["alpha_pattern"], module, config["lora_alpha"])
        b, a = pair.get("B"), pair.get("A")
        if b is None or a is None:
            raise BadArtifact(
                "one factor without the other",
                where=f"{path}: {module}",
                expected="lora_A and lora_B",
                got=f"lora_{next(iter(pair))}",
                fix=_MEND,
            )
        if b.ndim != 2 or a.ndim != 2 or not b.shape[1] == a.shape[0] == rank:
            raise BadArtifact(
                "factors that do not fit each other and their rank",
                where=f"{path}: {module}",
                expected=f"lora_B [d_out, {rank}] and lora_A [{rank}, d_in]",
                got=f"{list(b.shape)} and {list(a.shape)}",
                fix=_MEND,
            )
        if name in delta:
            raise BadArtifact("two factor pairs for one tensor", where=f"{path}: {name}", fix=_MEND)
        delta[name] = LowRank(b, a, float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)))
    if not delta:
        raise BadArtifact("an adapter without a tensor", where=str(path), fix=_MEND)
    return delta


def _matching(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """What the first of `patterns` says that matches the end of a module's path, as in peft's utils.get_pattern_key."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _config(path: Path) -> dict[str, Any]:
    """A peft config of which every field that is set is understood."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= {field: config.get(field) or {} for field in ("rank_pattern", "alpha_pattern")}
        patterns = (config["rank_pattern"], config["alpha_pattern"])
        numbers = [float(n) for n in (config["r"], config["lora_alpha"], *patterns[0].values(), *patterns[1].values())]
        for pattern in (*patterns[0], *patterns[1]):
            re.compile(pattern)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, re.error) as error:
        raise BadArtifact(f"the adapter's config cannot be read: {error!r}", where=str(path), fix=_MEND) from error
    for field, allowed in _WANTED.items():
        if config.get(field) not in allowed:
            raise BadArtifact(
                f"an adapter we do not fold: {field}",
                where=str(path),
                expected=" or ".join(str(value) for value in allowed if value is not None),
                got=repr(config.get(field)),
                fix=_MEND,
            )
    for field in sorted(config):
        if config[field] and field not in _UNDERSTOOD:
            raise BadArtifact(
                f"an adapter we do not fold: {field}",
                where=str(path),
                expected="not set",
                got=repr(config[field])[:80],
                fix=_MEND,
            )
    if not all(0 < number < math.inf for number in numbers):
        raise BadArtifact("ranks and alphas must be positive", where=str(path), got=str(numbers), fix=_MEND)
    return dict(config)


def read_tensors(path: Path) -> dict[str, Array]:
    """Every tensor of a safetensors file as float32, all of them finite.

    Raises:
        BadArtifact: it cannot be read, or a tensor holds NaN or infinity.
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
            fix=_MEND,
        ) from error
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise BadArtifact("a tensor with NaN or infinite entries", where=f"{path}: {name}", fix=_MEND)
    return tensors
