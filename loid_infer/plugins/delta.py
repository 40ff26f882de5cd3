"""The delta of a plugin, i.e. what is added to tensors of the base: digest, files, folding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from loid_infer.errors import BadArtifact
from loid_infer.plugins.adapter import LowRank, read_adapter, read_tensors, write_adapter
from loid_infer.tensors import save_tensors
from loid_infer.types import Array, Floats

DELTA_FILE = "delta.safetensors"
_FIX = "Use the plugin on the base it was trained on."
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
    """Check that a base has every tensor of `delta`, in the same shape.

    Args:
        tensors: of the base.
        where: names the delta in the message.

    Raises:
        BadArtifact: a tensor is missing or has another shape.
    """
    for name, part in delta.items():
        if name not in tensors:
            raise BadArtifact(f"the base has no tensor {name}", where=where, fix=_FIX)
        if part.shape != tensors[name].shape:
            raise BadArtifact(
                f"{name} has another shape in the base",
                where=where,
                expected=str(tensors[name].shape),
                got=str(part.shape),
                fix=_FIX,
            )


def fold(tensors: Mapping[str, Array], deltas: Sequence[Delta]) -> dict[str, Array]:
    """Add `deltas` to `tensors` in float64, in the given order, and round to float32 once.

    Tensors without a delta are returned as the same objects.

    Args:
        tensors: of the base, float32.
        deltas: in digest order, so that equal chains give equal bytes.

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
    """Write `delta` to `folder`: as a peft adapter if all of it is low-rank, else in full as `delta.safetensors`.

    Args:
        base: name of the base, not a path.
    """
    low_rank = {name: part for name, part in delta.items() if isinstance(part, LowRank)}
    if len(low_rank) == len(delta):
        write_adapter(folder, low_rank, base)
    else:
        full = {name: np.asarray(dense(part), np.float32) for name, part in sorted(delta.items())}
        save_tensors(folder / DELTA_FILE, full)
