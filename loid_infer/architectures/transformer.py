"""The torch module of every family: token ids to one vector per text.

The torch runtime runs it on the CPU, the ONNX graph is recorded from it, and plugins are trained on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from loid_infer.architectures.family import family_of
from loid_infer.architectures.layer import ACTIVATIONS, NORMS, Attend, EveryToken, Layer, OneToken, Plan, RmsNorm
from loid_infer.architectures.positions import Positions, padding_bias, token_numbers
from loid_infer.types import Spec

DENSE_ACTIVATIONS = ACTIVATIONS | {"identity": lambda x: x, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


class Pool(nn.Module):
    """Pooling, then the dense layers and normalization of the spec, if any."""

    def __init__(self, spec: Spec, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.mean, self.normalize = spec.pooling == "mean", spec.normalize
        self.dense, width = nn.ModuleList(), spec.hidden_dim
        for i in range(len(spec.dense)):
            self.dense.append(linear(tensors, f"dense.{i}", d_in=width))
            width = len(tensors[f"dense.{i}.weight"])
        self.activations = [DENSE_ACTIVATIONS[name] for name in spec.dense]

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """`hidden [n, tokens or 1, width]` and `mask [n, tokens]` -> `[n, d]`."""
        if not self.mean:
            return self.finish(hidden[:, 0])
        weights = mask.to(hidden.dtype)[:, None, :]
        return self.finish((weights @ hidden)[:, 0] / weights.sum(2))

    def finish(self, pooled: Tensor) -> Tensor:
        """`[n, width]` -> `[n, d]`."""
        for dense, activation in zip(self.dense, self.activations, strict=True):
            pooled = activation(dense(pooled))
        return functional.normalize(pooled, dim=-1) if self.normalize else pooled


class Transformer(nn.Module):
    """Token ids -> vectors, in float32, without dropout or gradients."""

    positions: Tensor | None
    norm: Any
    final_norm: Any
    layers: Any  # a list of Layer
    relations: Any  # a list of Positions

    def __init__(self, spec: Spec, tensors: Mapping[str, Tensor]) -> None:
        """Build the module of `spec`.

        Args:
            tensors: the state dict of the family's transformers model, float32; dense layers as `dense.0.weight`.

        Raises:
            KeyError, ValueError, RuntimeError: a tensor is missing or of another shape.
        """
        super().__init__()
        family = family_of(spec.architecture)
        plan, names = family.plan(spec), family.parts
        self.plan, self.pooling = plan, spec.pooling
        self.selects_by_product = False  # see `OneToken`
        # Whether the last layer computes all tokens and not only the one that is pooled: needed where its linear maps
        # differ between texts.
        self.is_uniform = False
        self.words = nn.Embedding.from_pretrained(_tensor(tensors, f"{names['words']}.weight", -1, spec.hidden_dim))
        self.positions = _position_table(names, tensors, plan, spec)
        self.norm = norm(tensors, names.get("norm"), plan)
        self.layers = nn.ModuleList(_layer(family.names(spec), plan, tensors, spec, i) for i in range(spec.n_layers))
        self.final_norm = norm(tensors, names.get("final_norm"), plan)
        biases = tensors[f"{names['biases']}.weight"] if "biases" in names else None
        self.relations = nn.ModuleList(Positions(relation, spec.max_tokens, biases) for relation in plan.relations)
        self.relation_of = plan.relation_of or (0,) * spec.n_layers
        self.pool = Pool(spec, tensors)
        self.requires_grad_(False).eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`input_ids [n, tokens]`, `attention_mask [n, tokens]` (1: token, 0: right padding), int64 -> `[n, d]`."""
        numbers = token_numbers(attention_mask)
        hidden = self.embed(input_ids, numbers)
        padding = padding_bias(attention_mask, hidden.dtype)
        every = [EveryToken(relation, padding, numbers) for relation in self.relations]
        attends: list[Attend] = [every[i] for i in self.relation_of]
        if self.pooling != "mean" and not self.is_uniform:
            relation, last = self.relations[self.relation_of[-1]], self.pooling == "last"
            by_product = self.selects_by_product
            attends[-1] = OneToken(relation, padding, numbers, attention_mask, last=last, by_product=by_product)
        for layer, attend in zip(self.layers, attends, strict=True):
            hidden = layer(hidden, attend)
        if self.is_uniform and self.pooling == "last":
            hidden = torch.take_along_dim(hidden, (attention_mask.sum(1) - 1)[:, None, None], 1)
        hidden = hidden if self.final_norm is None else self.final_norm(hidden)
        vectors: Tensor = self.pool(hidden, attention_mask)
        return vectors

    def embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """The input `[.., width]` of the first layer.

        Args:
            input_ids: `[n, tokens]`, or `[tokens]` of packed texts.
            positions: `[tokens]`, the position of each token in its text.
        """
        hidden: Tensor = self.words(input_ids)
        if self.positions is not None:
            hidden = hidden + self._position_embeddings(self.positions, input_ids, positions)
        return hidden if self.norm is None else self.norm(hidden)

    def _position_embeddings(self, table: Tensor, ids: Tensor, positions: Tensor) -> Tensor:
        if self.plan.pad_id is None:
            return functional.embedding(positions, table)
        counted = ids != self.plan.pad_id  # padding tokens inside a text are not counted either
        numbers = counted.long().cumsum(-1)
        if ids.dim() == 1:  # packed: subtract the count before each text's first token
            first = torch.arange(len(ids), device=ids.device) - positions
            numbers = numbers - (numbers - counted.long())[first]
        return functional.embedding(numbers * counted, table)


def _tensor(tensors: Mapping[str, Tensor], name: str, *shape: int) -> Tensor:
    """The tensor `name`, checked to have this shape; -1 allows any size.

    Raises:
        KeyError, ValueError: it is missing or of another shape.
    """
    tensor = tensors[name]
    if tensor.dim() != len(shape) or any(want not in (-1, got) for want, got in zip(shape, tensor.shape, strict=True)):
        raise ValueError(f"{name} has the shape {list(tensor.shape)}, not {list(shape)}")
    return tensor


def _position_table(
    names: Mapping[str, str], tensors: Mapping[str, Tensor], plan: Plan, spec: Spec
) -> nn.Parameter | None:
    if "positions" not in names:
        return None
    table = _tensor(tensors, f"{names['positions']}.weight", -1, spec.hidden_dim)[plan.skip :]
    if len(table) < spec.max_tokens:
        raise ValueError(f"{names['positions']} has {len(table)} positions for {spec.max_tokens} tokens")
    if "segments" in names:
        table = table + tensors[f"{names['segments']}.weight"][0]
    return nn.Parameter(table, requires_grad=False)


def _layer(names: Mapping[str, str], plan: Plan, tensors: Mapping[str, Tensor], spec: Spec, i: int) -> Layer:
    width, inner = spec.hidden_dim, spec.feed_forward_dim
    query, key = plan.n_heads * plan.head_dim, plan.n_kv_heads * plan.head_dim
    sizes = {
        "qkv": (query + 2 * key, width),
        "query": (query, width),
        "key": (key, width),
        "value": (key, width),
        "output": (width, query),
        "gate": (inner, width),
        "expand": ((1 + plan.glu) * inner, width),
        "contract": (width, inner),
    }
    parts: dict[str, nn.Module] = {}
    for part, template in names.items():
        name = template.format(i)
        module = norm(tensors, name, plan) if part in NORMS else linear(tensors, name, *sizes[part])
        if module is not None:
            parts[part] = module
    return Layer(plan, parts)


def linear(tensors: Mapping[str, Tensor], name: str, d_out: int = -1, d_in: int = -1) -> nn.Linear:
    """The linear map `name`, with a bias if the checkpoint has one."""
    weight, bias = _tensor(tensors, f"{name}.weight", d_out, d_in), tensors.get(f"{name}.bias")
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    _set_parameters(module, weight, bias)
    return module


def norm(tensors: Mapping[str, Tensor], name: str | None, plan: Plan) -> nn.Module | None:
    """The norm `name`, with a bias if the checkpoint has one; None if the checkpoint has no such norm."""
    weight = None if name is None else tensors.get(f"{name}.weight")
    if weight is None:
        return None
    if plan.rms:
        return RmsNorm(weight, plan.eps)
    bias = tensors.get(f"{name}.bias")
    module = nn.LayerNorm(weight.shape[0], eps=plan.eps, bias=bias is not None, device="meta")
    _set_parameters(module, weight, bias)
    return module


def _set_parameters(module: nn.Linear | nn.LayerNorm, weight: Tensor, bias: Tensor | None) -> None:
    module.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        module.bias = nn.Parameter(bias, requires_grad=False)
