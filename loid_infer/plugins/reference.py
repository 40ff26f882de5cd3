"""The only module that uses peft: initial LoRA factors, and models with unmerged plugins as reference for exports."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from loid_infer.plugins.delta import LowRank, dense
from loid_infer.plugins.folder import PluginFolder


def fresh_factors(model: Any, modules: Sequence[str], rank: int, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """peft's initial factors `(A [r, d_in], B [d_out, r])` float32 by module; changes `model` in place."""
    import peft

    # Full paths, since the suffix `dense` would match the pooler too.
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=[*modules], lora_dropout=0.0, bias="none")
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = peft.get_peft_model(model, config)
        state = peft.get_peft_model_state_dict(wrapped)
    key = "base_model.model.{}.lora_{}.weight"
    return {name: (state[key.format(name, "A")].float(), state[key.format(name, "B")].float()) for name in modules}


def unmerged(model: Any, chain: Sequence[PluginFolder]) -> Any:
    """`model` with all LoRA plugins of `chain` as unmerged peft adapters; changes `model` in place.

    Plugins that are not LoRA are added to the weights, since peft does not support them.
    """
    import peft

    lora = []
    for plugin in chain:
        delta = plugin.delta()
        if all(isinstance(part, LowRank) for part in delta.values()):
            lora.append(plugin)
            continue
        state: dict[str, Tensor] = model.state_dict()  # shares memory with the model
        for name, part in delta.items():
            state[name] += torch.from_numpy(dense(part))
    if not lora:
        return model
    with _quiet():
        wrapped: Any = peft.PeftModel.from_pretrained(model, lora[0].path, adapter_name=lora[0].digest)
        for plugin in lora[1:]:
            wrapped.load_adapter(plugin.path, adapter_name=plugin.digest)
        wrapped.base_model.set_adapter([plugin.digest for plugin in lora])
    return wrapped.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without two warnings of peft: of a model folder that it does not find, and of what it reads of transformers."""
    with warnings.catch_warnings():
        for message in ("Could not find a config file", ".*is_gradient_checkpointing"):
            warnings.filterwarnings("ignore", message=message)
        yield
