"""peft's only home: fresh LoRA factors as peft starts them, and peft's own forward through plugins, unmerged.

The second is what exports are held against, so nothing of ours folds or adds anything there but a plugin that is no
LoRA. Knows a transformers module; not where it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loid_infer.plugins.adapter import LowRank
from loid_infer.plugins.delta import dense
from loid_infer.plugins.folder import PluginFolder


def fresh_factors(model: Any, modules: Sequence[str], rank: int, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """What peft starts LoRA with, `(A [r, d_in], B [d_out, r])` float32 by module: A uniform (Kaiming), B zero, for
    `modules` of `model`, which is changed in place."""
    import peft

    # Full paths: the suffix `dense` would match the pooler, which no vector needs.
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=[*modules], lora_dropout=0.0, bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = peft.get_peft_model(model, config)
    state = peft.get_peft_model_state_dict(wrapped)
    key = "base_model.model.{}.lora_{}.weight"
    return {name: (state[key.format(name, "A")].float(), state[key.format(name, "B")].float()) for name in modules}


def unmerged(model: Any, chain: Sequence[PluginFolder]) -> Any:
    """`model`, changed in place, with every LoRA of `chain` beside its weights, computed by peft.

    A merged plugin that is no LoRA is added to the weights it names: peft has no form for it.
    """
    import peft

    lora = []
    for plugin in chain:
        delta = plugin.delta()
        if all(isinstance(part, LowRank) for part in delta.values()):
            lora.append(plugin)
            continue
        state: dict[str, Tensor] = model.state_dict()  # the tensors themselves
        for name, part in delta.items():
            state[name] += torch.from_numpy(dense(part))
    if not lora:
        return model
    wrapped: Any = peft.PeftModel.from_pretrained(model, lora[0].path, adapter_name=lora[0].digest)
    for plugin in lora[1:]:
        wrapped.load_adapter(plugin.path, adapter_name=plugin.digest)
    wrapped.base_model.set_adapter([plugin.digest for plugin in lora])
    return wrapped.eval()
