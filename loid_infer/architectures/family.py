"""What a family file says of its models, the list of families, and how a config is read. Imports no torch.

A family is one file with a function `family`, and one line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loid_infer.types import Spec

if TYPE_CHECKING:
    from loid_infer.architectures.layer import Plan

# `model_type` of config.json -> the file of its family.
FAMILIES = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "distilbert": "distilbert",
    "mpnet": "mpnet",
    "modernbert": "modernbert",
    "opt": "opt",
    "llama": "llama",
    "qwen2": "qwen",
    "qwen3": "qwen",
    "t5": "t5",
}
# What users call the linear maps of a layer -> what `layer.Layer` calls them.
TARGETS = {
    "query": "query",
    "key": "key",
    "value": "value",
    "qkv": "qkv",
    "attention_output": "output",
    "gate": "gate",
    "intermediate": "expand",
    "output": "contract",
}


class Unsupported(ValueError):
    """A config whose function no family computes."""

    def __init__(self, field: str, got: object, expected: str) -> None:
        self.field, self.got, self.expected = field, got, expected
        super().__init__(field)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a config says of the function, as the spec keeps it, and the longest input it allows."""

    n_layers: int
    n_heads: int
    hidden_dim: int
    feed_forward_dim: int
    activation: str
    eps: float
    max_tokens: int
    position_type: str = "absolute"
    details: Mapping[str, Any] = field(default_factory=dict)  # what else of the config decides the function


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family of models. Names are those of `AutoModel.state_dict()` without `.weight`, `{}` is a layer's number."""

    read: Callable[[Mapping[str, Any]], Shape]  # raises Unsupported, KeyError
    plan: Callable[[Spec], Plan]
    parts: Mapping[str, str]  # parts of `transformer.Transformer` outside its layers
    layer: Mapping[str, str]  # parts of `layer.Layer`
    gated: Mapping[str, str] = field(default_factory=dict)  # instead of those, where the spec's details say so
    reaches: tuple[str, ...]  # beginnings of the tensors that the vector depends on
    prefix: str  # of the same tensors in a model with a task head
    pooling: str = "cls"  # where a folder does not say
    ends: str = ""  # the token that stands behind every text, if the family always has one
    loader: str = "AutoModel"  # of transformers
    numbers_padding: bool = False  # transformers' positions do, where none are given
    tied: tuple[str, ...] = ()  # tensors that are others by another name

    def uses(self, tensor: str) -> bool:
        """Whether a vector depends on the tensor of this name."""
        return tensor.startswith((*self.reaches, "dense.")) and not tensor.endswith(("position_ids", "token_type_ids"))

    def names(self, spec: Spec) -> dict[str, str]:
        """The parts of a layer of `spec`."""
        return {**self.layer, **(self.gated if spec.details.get("gated") else {})}

    def targets(self, spec: Spec) -> dict[str, str]:
        """TARGETS that its layers have, and the names of the linear maps."""
        names = self.names(spec)
        return {target: names[part] for target, part in TARGETS.items() if part in names}


def family_of(model_type: str) -> Family:
    """The family of a `model_type`.

    Raises:
        Unsupported: there is none.
    """
    if model_type not in FAMILIES:
        raise Unsupported("model_type", model_type, ", ".join(FAMILIES))
    found: Family = importlib.import_module(f"loid_infer.architectures.{FAMILIES[model_type]}").family()
    return found


def check(config: Mapping[str, Any], allowed: Mapping[str, tuple[object, ...]]) -> None:
    """See that each field of `config` has one of the values `allowed`.

    Raises:
        Unsupported: one has not.
    """
    for name, values in allowed.items():
        if config.get(name) not in values:
            raise Unsupported(name, config.get(name), " or ".join(str(value) for value in values if value is not None))
