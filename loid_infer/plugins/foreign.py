"""LoRA adapters from elsewhere: tensor names under any wrapper, task heads, and the base that an adapter names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from loid_infer.errors import BadArtifact
from loid_infer.plugins.delta import ADAPTER_CONFIG, LowRank, adapter_config, read_adapter

_HEADS = ("modules_to_save",)
_CACHED = re.compile(r".*models--(.+)[/\\]snapshots[/\\](\w+).*")  # a path in the cache of the hub
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def read_foreign(
    folder: Path, tensors: Collection[str], inside: Callable[[str], bool]
) -> tuple[dict[str, LowRank], list[str]]:
    """The delta in a peft folder, and the names of tensors that are left out because no vector depends on them.

    A name may have any wrappers before that of the base: `base_model.model.`, `module.`, `0.auto_model.`, `bert.`, ...

    Args:
        tensors: names of the base's tensors, as in AutoModel.state_dict().
        inside: whether a vector depends on a tensor of this name.

    Raises:
        BadArtifact: see `read_adapter`; or a module of the encoder was trained in full.
    """
    left_out: list[str] = []

    def name_of(key: str) -> str:
        parts = key.split(".")
        names = [name for i in range(len(parts)) if inside(name := ".".join(parts[i:]))]
        left_out.extend([] if names else [key])
        return next((name for name in names if name in tensors), names[0] if names else "")

    for module in adapter_config(folder, _HEADS).get("modules_to_save") or ():
        trained = sorted(name for name in tensors if f".{module}." in f".{name}." and inside(name))
        if trained:
            what, where = "modules_to_save has a module of the encoder, trained in full", str(folder / ADAPTER_CONFIG)
            fix = "Give an adapter that trains LoRA in the encoder, and in full its task head only."
            raise BadArtifact(what, where=where, got=f"{module} ({trained[0]})", fix=fix)
    return read_adapter(folder, name_of, _HEADS), sorted({*left_out})


def named_base(folder: Path) -> tuple[str, str]:
    """Name or path of the base that an adapter was trained on, and its revision; empty if the adapter does not say."""
    config: Mapping[str, Any] = adapter_config(folder, _HEADS)
    return str(config.get("base_model_name_or_path") or ""), str(config.get("revision") or "")


def is_same_base(named: str, revision: str, base: str, name: str, path: Path) -> bool:
    """Whether an adapter's base is, by its name, the base that was given.

    Two hub names must be equal. A path on another machine and a folder here have only their last parts to compare.

    Args:
        base, name, path: the base as it was given, its name, and its folder or file.
    """
    if os.path.exists(named) and Path(named).resolve() == path.resolve():  # noqa: PTH110 - false for any name
        return True
    cached = _CACHED.fullmatch(str(path.resolve()))
    if revision not in ("", "main", cached[2] if cached else ""):
        return False
    if _HUB_NAME.fullmatch(named) and _HUB_NAME.fullmatch(base) and not os.path.exists(base):  # noqa: PTH110
        return named.casefold() == base.casefold()
    return _last(named) in {_last(base), _last(name), _last(str(path.resolve()))}


def _last(name: str) -> str:
    """The last part of a path or of a hub name."""
    cached = _CACHED.fullmatch(name)
    return re.split(r"[/\\]|--", (cached[1] if cached else name).rstrip("/\\"))[-1].casefold()
