"""Plugins for tests: adapters written by peft, and plugin folders with any lineage."""

import json
import warnings
from pathlib import Path

import numpy as np

from loid_infer.artifact import new_folder, write_manifest
from loid_infer.plugins.delta import LowRank, delta_digest, read_delta, write_delta
from loid_infer.plugins.folder import PluginManifest, PluginMetrics
from loid_infer.settings import Workspace
from loid_infer.types import NamedDigest, TrainingRun

QUERY = "encoder.layer.0.attention.self.query.weight"
MODULES = ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")


def peft_model(base: Path, *, seed: int = 0, **config):
    """The base with a LoRA adapter of random factors, as a peft model."""
    import peft
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(base)
    config = {"r": 4, "lora_alpha": 6, "target_modules": ["query", "attention.output.dense"]} | config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tests use unusual settings such as fan_in_fan_out
        model = peft.get_peft_model(model, peft.LoraConfig(**config))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def merged_state(model) -> dict[str, np.ndarray]:
    """The base's tensors with the adapter merged by peft, to compare with our folding."""
    return {name: tensor.numpy() for name, tensor in model.merge_and_unload().state_dict().items()}


def random_delta(seed: int, *, modules=MODULES, rank: int = 4, scale: float = 1.5, dim: int = 32, hidden_dim: int = 64):
    """A low-rank delta of the toy base's first layer."""
    rng = np.random.default_rng(seed)
    delta = {}
    for module in modules:
        d_out, d_in = (
            (hidden_dim if "intermediate" in module else dim),
            (hidden_dim if module == "output.dense" else dim),
        )
        b, a = rng.normal(size=(d_out, rank)), rng.normal(size=(rank, d_in))
        delta[f"encoder.layer.0.{module}.weight"] = LowRank(b.astype("f4"), a.astype("f4"), scale)
    return delta


def write_plugin(workspace: Workspace, name: str, delta, **manifest) -> str:
    """Write a plugin with this delta and these (possibly invalid) manifest fields; return the digest."""
    with new_folder(workspace.plugin(name)) as folder:
        write_delta(folder, delta, "toy")
        digest = delta_digest(read_delta(folder))
        run = TrainingRun(domain=name, table_digest="d", split="random", split_seed=0, split_digest="s")
        write_manifest(
            folder,
            PluginManifest(
                name=name,
                digest=digest,
                method="train",
                base=NamedDigest("toy", "b" * 64),
                parent_digest="b" * 64,
                tokenizer="t" * 64,
                on=(),
                parents=(),
                holds=(),
                trained_on=(run,),
                settings={},
                metrics=PluginMetrics(),
                seed=0,
                versions={},
            ),
        )
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | manifest))
    return digest
