"""The interface of a model family and the list of families. Imports no torch.

To add a family, write a module with a function `family` and add a line to `FAMILIES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loid_infer.types import Spec

if TYPE_CHECKING:
    from loid_infer.architectures.layer import Plan

# `model_type` of config.json -> the module of its family.
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
# Option values for the linear maps of a layer -> their names in `layer.Layer`.
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


# Fields of a config: layers, heads, width, inner width, maximum length.
_SIZES = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "max_position_embeddings")


class Unsupported(ValueError):
    """A config that no family supports."""

    def __init__(self, field: str, got: object, expected: str) -> None:
        self.field, self.got, self.expected = field, got, expected
        super().__init__(field)


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields of a config that decide the computation, as the spec stores them, and the maximum length."""

    n_layers: int
    n_heads: int
    hidden_dim: int
    feed_forward_dim: int
    activation: str
    eps: float
    max_tokens: int
    position_type: str = "absolute"
    details: Mapping[str, Any] = field(default_factory=dict)  # family-specific fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family of models. Names are those of `AutoModel.state_dict()` without `.weight`; `{}` is the layer number."""

    read: Callable[[Mapping[str, Any]], Shape]  # raises Unsupported, KeyError
    plan: Callable[[Spec], Plan]
    parts: Mapping[str, str]  # parts of `transformer.Transformer` outside its layers
    layer: Mapping[str, str]  # parts of `layer.Layer`
    gated: Mapping[str, str] = field(default_factory=dict)  # overrides `layer` where the spec's details have `gated`
    prefix: str  # of the names in a model with a task head
    pooling: str = "cls"  # default of the family
    ends: str = ""  # the token that the family puts after every text
    loader: str = "AutoModel"  # class of transformers
    numbers_padding: bool = False  # transformers gives padding positions of its own, where none are passed
    tied: tuple[str, ...] = ()  # tensors that are stored under another name too

    def uses(self, tensor: str) -> bool:
        """Whether a vector depends on this tensor."""
        roots = {name.split(".")[0] + "." for name in (*self.parts.values(), *self.layer.values(), "dense")}
        is_buffer = tensor.endswith(("position_ids", "token_type_ids", "inv_freq", "decoder.version"))
        return tensor.startswith(tuple(roots)) and tensor not in self.tied and not is_buffer

    def contains(self, tensor: str) -> bool:
        """Whether a tensor of this name, also one that no base has, would be a part of the encoder."""
        return tensor in self.tied or (self.uses(tensor) and not tensor.startswith("dense."))

    def names(self, spec: Spec) -> dict[str, str]:
        """Parts of a layer of `spec` -> tensor names."""
        return {**self.layer, **(self.gated if spec.details.get("gated") else {})}

    def targets(self, spec: Spec) -> dict[str, str]:
        """The keys of TARGETS that the layers have -> tensor names."""
        names = self.names(spec)
        return {target: names[part] for target, part in TARGETS.items() if part in names}


def family_of(model_type: str) -> Family:
    """The family of a `model_type`.

    Raises:
        Unsupported: an unknown model type.
    """
    if model_type not in FAMILIES:
        raise Unsupported("model_type", model_type, ", ".join(FAMILIES))
    family: Family = importlib.import_module(f"loid_infer.architectures.{FAMILIES[model_type]}").family()
    return family


def check(config: Mapping[str, Any], allowed: Mapping[str, tuple[object, ...]]) -> None:
    """Check that each field of `config` has one of its `allowed` values.

    Raises:
        Unsupported: a field has another value.
    """
    for name, values in allowed.items():
        if config.get(name) not in values:
            raise Unsupported(name, config.get(name), " or ".join(str(value) for value in values if value is not None))


def shape_of(
    config: Mapping[str, Any],
    activation: str,
    eps: float,
    position_type: str = "absolute",
    details: Mapping[str, Any] | None = None,
    sizes: tuple[str, ...] = _SIZES,
) -> Shape:
    """The shape of a config; `sizes` are the names of its fields where they differ from BERT's."""
    n_layers, n_heads, width, inner, max_tokens = (config[name] for name in sizes)
    return Shape(n_layers, n_heads, width, inner, activation, float(eps), max_tokens, position_type, details or {})
