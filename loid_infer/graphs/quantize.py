"""Static int8 quantization of graphs, calibrated on some texts and measured on others.

Activations have one scale and zero point per product (uint8, or int8 without a zero point), weights one scale per
output channel (int8). SmoothQuant (Xiao et al. 2023, arXiv 2211.10438, eq. 4) first moves part of the difference
between channels from activations to weights. All scales are static, so a vector does not depend on its batch.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from msgspec import structs

from loid_infer.artifact import digest_file
from loid_infer.encoders.folder import EncoderFolder, Probes
from loid_infer.encoders.manifest import Parity, Quantization, gate
from loid_infer.encoders.opening import measure_runtimes
from loid_infer.encoders.processor import has_amx, installed, saturates_int8
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import ParityError
from loid_infer.graphs.graph import save_graph
from loid_infer.types import Array, Floats

if TYPE_CHECKING:
    from loid_infer.architectures.transformer import Transformer

Vectors: TypeAlias = Callable[[Sequence[str]], Floats]  # texts -> [n, d]

ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9)  # 0: nothing is moved to the weights, 1: everything
_HELD_OUT = 4  # every fourth text is measured on, not calibrated on
_KEPT_TOKENS = 32  # of each batch, to measure the error of each product
_TINY = 1e-5


@dataclass(frozen=True, slots=True)
class _Group:
    """Products with the same input, and statistics of this input on the calibration texts."""

    names: tuple[str, ...]
    weights: tuple[Floats, ...]  # each [in, out]
    low: Floats  # [in], minimum over all tokens
    high: Floats
    sample: Floats  # [m, in]


def quantize(
    encoder: EncoderFolder, module: Transformer, exact: Vectors, texts: Sequence[str]
) -> tuple[EncoderFolder, Quantization]:
    """Replace the graph of `encoder`, an unfinished export, by an int8 one.

    All alphas are measured with the fastest runtime, on held-out ones of `texts` (of the calibration domain). If the
    best alpha misses the gate there or on the probes, inputs without zero points get them, then the products with the
    largest errors are kept in floating point.

    Args:
        module: that the graph was recorded from; the inputs of its products are recorded.
        exact: computes float32 reference vectors with `module`.

    Raises:
        ParityError: the int8 gate is missed; the float graph is restored.
        RuntimeMissing: no installed runtime computes int8.
    """
    import onnx

    is_held_out = np.arange(len(texts)) % _HELD_OUT == 0
    inputs = _observe(module, exact, [text for text, out in zip(texts, is_held_out, strict=True) if not out])
    held_out = [text for text, out in zip(texts, is_held_out, strict=True) if out]
    tokens = encoder.tokenizer()(held_out)
    probes, floats = Probes(tokens.flat_ids, tokens.lengths, exact(held_out)), onnx.load(encoder.graph)

    def measure(alpha: float, kept: frozenset[str], signed: bool) -> tuple[EncoderFolder, Parity]:
        quantized = [x for x in inputs if x.names[0] not in kept]
        save_graph(_quantized(floats, quantized, alpha, signed), encoder.graph)
        spec = structs.replace(encoder.spec, precision="int8", quantized_graph=digest_file(encoder.graph))
        int8 = replace(encoder, spec=spec, fingerprint=fingerprint(spec))
        return int8, next(measure_runtimes(int8, probes))[1]

    def attempts() -> Iterator[tuple[float, frozenset[str], bool]]:
        for signed in (True, False) if _prefers_signs() else (False,):
            alpha = max(ALPHAS, key=lambda alpha: measure(alpha, frozenset(), signed)[1].cos_mean)
            yield alpha, frozenset(), signed
        worst = [x.names[0] for x in sorted(inputs, key=lambda x: -_relative_error(x, alpha))]
        for n_kept in (2**i for i in range(len(worst)) if 2**i < len(worst)):
            yield alpha, frozenset(worst[:n_kept]), False

    for alpha, kept, signed in attempts():
        int8, on_held_out = measure(alpha, kept, signed)
        measured, parity = "held-out texts of the calibration domain", on_held_out
        if parity.passes("int8"):
            measured, parity = "the probes", next(measure_runtimes(int8, encoder.probes()))[1]
        if parity.passes("int8"):
            names = tuple(name for x in inputs if x.names[0] in kept for name in x.names)
            n_products = sum(len(x.names) for x in inputs) - len(names)
            n_texts = (len(texts) - len(held_out), len(held_out))
            return int8, Quantization(alpha, n_products, names, on_held_out.cos_min, on_held_out.cos_mean, *n_texts)
    save_graph(floats, encoder.graph)
    raise ParityError(
        f"int8 misses its gate on {measured}",
        where=encoder.name,
        expected=gate("int8"),
        got=f"{parity.cos_mean:.6f} with {len(kept)} of {len(inputs)} groups of products in floating point",
        fix="Export with --precision bf16 or fp32. Nothing was written.",
    )


def _observe(module: Any, exact: Vectors, texts: list[str]) -> list[_Group]:
    """Record range per channel and sample tokens of the inputs of all products that run on all tokens."""
    import torch

    observed: dict[int, list[tuple[Array, Array, Array]]] = {}  # minimum, maximum and sample of each batch, by group
    real = torch.ones(0, dtype=torch.bool)

    def remember_mask(_: Any, arguments: Any) -> None:
        nonlocal real
        real = arguments[1].bool()

    def record(group: int, _: Any, arguments: Any) -> None:
        tokens = arguments[0][real].numpy()
        sample = tokens[:: max(1, len(tokens) // _KEPT_TOKENS)].copy()
        observed.setdefault(group, []).append((tokens.min(0), tokens.max(0), sample))

    # The last layer computes one token per text, unless pooling is mean.
    layers = list(module.layers) if module.pooling == "mean" else list(module.layers)[:-1]
    groups = [
        {f"layers.{i}.{part}": getattr(layer, part) for part in parts}
        for i, layer in enumerate(layers)
        for parts in layer.groups()
    ]
    with ExitStack() as hooks:
        hooks.callback(module.register_forward_pre_hook(remember_mask).remove)
        for i, group in enumerate(groups):
            first = next(iter(group.values()))
            hooks.callback(first.register_forward_pre_hook(partial(record, i)).remove)
        exact(texts)
    inputs = []
    for i, group in enumerate(groups):
        low, high, sample = zip(*observed[i], strict=True)
        weights = tuple(linear.weight.numpy().T for linear in group.values())
        inputs.append(_Group(tuple(group), weights, np.min(low, axis=0), np.max(high, axis=0), np.concatenate(sample)))
    return inputs


@dataclass(frozen=True, slots=True)
class _Scales:
    """Quantization of one input and its weights."""

    smooth: Floats  # [in], divisor of the input
    scale: float  # of the smoothed input
    zero: np.uint8 | np.int8  # its zero point, in the type it is quantized to
    weights: tuple[tuple[Array, Floats], ...]  # int8 [in, out] and scale [out], per product


def _scales(group: _Group, alpha: float, signed: bool) -> _Scales:
    largest = np.maximum(np.maximum(np.abs(group.low), np.abs(group.high)), _TINY)
    widest = np.maximum(np.max([np.abs(weight).max(1) for weight in group.weights], axis=0), _TINY)
    smooth = largest**alpha / widest ** (1 - alpha)  # eq. 4
    smooth = (smooth / np.exp(np.log(smooth).mean())).astype(np.float32)
    low, high = min(float((group.low / smooth).min()), 0.0), max(float((group.high / smooth).max()), 0.0)
    weights = tuple(_quantized_weight(weight * smooth[:, None]) for weight in group.weights)
    if low < 0 and signed:
        return _Scales(smooth, float(np.float32(max(-low, high, _TINY) / 127)), np.int8(0), weights)
    scale = float(np.float32(max(high - low, _TINY) / 255))
    zero = np.uint8(round(min(max(-low / scale, 0), 255)))
    return _Scales(smooth, scale, zero, weights)


def _prefers_signs() -> bool:
    """Whether products are faster with int8 inputs and no zero point: those of OpenVINO on AMX take a third longer with
    one. Without AMX they are slower with signed inputs, and so are those of onnxruntime."""
    return has_amx() and installed("openvino")


def _quantized_weight(weight: Floats) -> tuple[Array, Floats]:
    # Two products with 255 must fit into 16 bits where they are added there.
    limit = 63 if saturates_int8() else 127
    scale = (np.maximum(np.abs(weight).max(0), _TINY) / limit).astype(np.float32)
    return np.clip(np.rint(weight / scale), -limit, limit).astype(np.int8), scale


def _relative_error(group: _Group, alpha: float) -> float:
    """Squared error of the products on the sampled tokens, relative to the products themselves."""
    scales = _scales(group, alpha, signed=False)
    zero = int(scales.zero)
    rounded = np.clip(np.rint(group.sample / scales.smooth / scales.scale) + zero, 0, 255) - zero
    error = total = 0.0
    for weight, (quantized, scale) in zip(group.weights, scales.weights, strict=True):
        exact = group.sample @ weight
        error += float(np.square(rounded * scales.scale @ (quantized * scale) - exact).sum())
        total += float(np.square(exact).sum())
    return error / max(total, _TINY)


def _quantized(model: Any, inputs: list[_Group], alpha: float, signed: bool) -> Any:
    """A copy of `model` with quantize/dequantize pairs before products of `inputs`, in the form that runtimes fuse."""
    from onnx import helper, numpy_helper

    model = copy.deepcopy(model)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    products = {
        _content(numpy_helper.to_array(constants[node.input[1]])): node
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in constants
    }
    order = {node.name: number for number, node in enumerate(graph.node)}
    inserted: dict[str, list[Any]] = {}
    initializers: list[Any] = []

    def constant(name: str, value: Any) -> str:
        initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    for group in inputs:
        scales, x = _scales(group, alpha, signed), group.names[0]
        nodes = [products[_content(weight)] for weight in group.weights]
        first = min(nodes, key=lambda node: order[node.name])
        smooth = [first.input[0], constant(f"{x}.smooth", 1 / scales.smooth)]
        pair = [constant(f"{x}.scale", np.float32(scales.scale)), constant(f"{x}.zero", scales.zero)]
        inserted[first.name] = [
            helper.make_node("Mul", smooth, [f"{x}.in"], f"{x}.in"),
            helper.make_node("QuantizeLinear", [f"{x}.in", *pair], [f"{x}.q"], f"{x}.q"),
            helper.make_node("DequantizeLinear", [f"{x}.q", *pair], [f"{x}.dq"], f"{x}.dq"),
        ]
        for node, name, (quantized, scale) in zip(nodes, group.names, scales.weights, strict=True):
            steps = inserted.setdefault(node.name, [])
            parameters = [constant(f"{name}.w", quantized), constant(f"{name}.w.scale", scale)]
            steps.append(helper.make_node("DequantizeLinear", parameters, [f"{name}.w.dq"], f"{name}.w.dq", axis=1))
            node.input[:] = [f"{x}.dq", f"{name}.w.dq"]
    nodes = [step for node in graph.node for step in (*inserted.get(node.name, ()), node)]
    used = {name for node in nodes for name in node.input}
    kept = [tensor for name, tensor in constants.items() if name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *initializers])
    return model


def _content(weight: Array) -> tuple[tuple[int, ...], bytes]:
    """A key that identifies a weight."""
    return weight.shape, hashlib.sha256(np.ascontiguousarray(weight).data).digest()
