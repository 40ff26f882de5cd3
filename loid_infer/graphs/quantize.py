"""Static int8: a graph whose large products run on bytes, calibrated on texts and measured on others.

Activations get one scale and zero point a product (uint8), weights one scale an output channel (int8). Before that,
SmoothQuant (Xiao et al. 2023, arXiv 2211.10438, eq. 4) moves part of the spread between channels from activations to
weights. Every scale is fixed here, so a vector cannot depend on its neighbors. Knows the float graph that `graph.py`
writes and a layer's parts; not which texts are asked about, nor what the vectors are for.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from msgspec import structs

from loid_infer.artifact import digest_file
from loid_infer.encoders.folder import EncoderFolder, Probes
from loid_infer.encoders.manifest import Parity, Quantization, gate
from loid_infer.encoders.opening import measure_runtimes
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import ParityError
from loid_infer.graphs.graph import load_graph, save_graph
from loid_infer.types import Array, Floats

if TYPE_CHECKING:
    from loid_infer.architectures.transformer import Transformer

Vectors: TypeAlias = Callable[[Sequence[str]], Floats]  # texts -> [n, d]

ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9)  # 0: all of the spread stays with the activations, 1: all of it moves
_HELD_OUT = 4  # every fourth text is measured on, not calibrated on
_KEPT_TOKENS = 32  # of each batch, to tell which products lose most
_TINY = 1e-5


@dataclass(frozen=True, slots=True)
class _Shared:
    """Products that share an input, and what that input was on the calibration texts."""

    names: tuple[str, ...]
    weights: tuple[Floats, ...]  # each [in, out]
    low: Floats  # [in], over every token
    high: Floats
    sample: Floats  # [m, in]


def quantize(
    encoder: EncoderFolder, module: Transformer, exact: Vectors, texts: Sequence[str]
) -> tuple[EncoderFolder, Quantization]:
    """Put an int8 graph in the place of the float one of `encoder`, an export that is not finished yet.

    Each alpha is tried, and measured by the fastest runtime; where the best one misses the gate, the products that lose
    most go back to floating point, as many as it takes for these texts and for the encoder's probes.

    Args:
        module: the encoder's, whose inputs of products are watched.
        exact: what computes the float32 reference by running `module`.
        texts: of the domain the encoder is meant for.

    Returns:
        The int8 encoder, and what was chosen.

    Raises:
        ParityError: no choice meets the int8 gate. The float graph is in its place then.
        RuntimeMissing: no installed runtime computes int8.
    """
    held = np.arange(len(texts)) % _HELD_OUT == 0
    inputs = _observe(module, exact, [text for text, out in zip(texts, held, strict=True) if not out])
    held_out = [text for text, out in zip(texts, held, strict=True) if out]
    tokens = encoder.tokenizer()(held_out)
    probes, floats = Probes(tokens.flat_ids, tokens.lengths, exact(held_out)), load_graph(encoder.graph)

    def tried(alpha: float, kept: frozenset[str]) -> tuple[EncoderFolder, Parity]:
        save_graph(_quantized(floats, [x for x in inputs if x.names[0] not in kept], alpha), encoder.graph)
        spec = structs.replace(encoder.spec, precision="int8", quantized_graph=digest_file(encoder.graph))
        int8 = replace(encoder, spec=spec, fingerprint=fingerprint(spec))
        return int8, next(measure_runtimes(int8, probes))[1]

    alpha = max(ALPHAS, key=lambda alpha: tried(alpha, frozenset())[1].cos_mean)
    worst = [x.names[0] for x in sorted(inputs, key=lambda x: -_lost(x, alpha))]
    for n_kept in _doubling(len(worst)):
        kept = frozenset(worst[:n_kept])
        int8, parity = tried(alpha, kept)
        if parity.passes("int8") and next(measure_runtimes(int8, encoder.probes()))[1].passes("int8"):
            names = tuple(name for x in inputs if x.names[0] in kept for name in x.names)
            n_products = sum(len(x.names) for x in inputs) - len(names)
            return int8, Quantization(
                alpha, n_products, names, parity.cos_min, parity.cos_mean, int((~held).sum()), int(held.sum())
            )
    save_graph(floats, encoder.graph)
    raise ParityError(
        "int8 loses too much on texts of the calibration domain or on the probes",
        where=encoder.name,
        expected=gate("int8"),
        got=f"{parity.cos_mean:.6f} with {len(kept)} of {len(inputs)} groups of products in floating point",
        fix="Export with --precision bf16 or fp32. Nothing was written.",
    )


def _doubling(n: int) -> Iterator[int]:
    """0, 1, 2, 4, ... below `n`: with all `n` in floating point the graph would not be int8."""
    yield 0
    step = 1
    while step < n:
        yield step
        step *= 2


def _observe(module: Any, exact: Vectors, texts: list[str]) -> list[_Shared]:
    """Range of every channel, and some tokens, of the input of each product that runs on all tokens."""
    import torch

    low: dict[str, Array] = {}
    high: dict[str, Array] = {}
    sample: dict[str, list[Array]] = {}
    real = torch.ones(0, dtype=torch.bool)

    def remember_mask(_: Any, arguments: Any) -> None:
        nonlocal real
        real = arguments[1].bool()

    def watch(name: str) -> Any:
        def see(_: Any, arguments: Any) -> None:
            tokens = arguments[0][real].numpy()
            low[name] = np.minimum(low.get(name, tokens[0]), tokens.min(0))
            high[name] = np.maximum(high.get(name, tokens[0]), tokens.max(0))
            sample.setdefault(name, []).append(tokens[:: max(1, len(tokens) // _KEPT_TOKENS)].copy())

        return see

    # A last layer that runs on one token a text has nothing to gain.
    layers = list(module.layers) if module.pooling == "mean" else list(module.layers)[:-1]
    groups = {
        f"layers.{i}.{parts[0]}": [(f"layers.{i}.{part}", getattr(layer, part)) for part in parts]
        for i, layer in enumerate(layers)
        for parts in layer.groups()
    }
    with ExitStack() as hooks:
        hooks.callback(module.register_forward_pre_hook(remember_mask).remove)
        for name, group in groups.items():
            hooks.callback(group[0][1].register_forward_pre_hook(watch(name)).remove)
        exact(texts)
    return [
        _Shared(
            tuple(part for part, _ in group),
            tuple(linear.weight.numpy().T for _, linear in group),
            low[name],
            high[name],
            np.concatenate(sample[name]),
        )
        for name, group in groups.items()
    ]


@dataclass(frozen=True, slots=True)
class _Scales:
    """How one input and its weights become bytes."""

    smooth: Floats  # [in], what the input is divided by
    scale: float  # of the smoothed input
    zero: int  # its zero point, 0..255
    weights: tuple[tuple[Array, Floats], ...]  # int8 [in, out] and the scale [out], a product


def _scales(shared: _Shared, alpha: float) -> _Scales:
    largest = np.maximum(np.maximum(np.abs(shared.low), np.abs(shared.high)), _TINY)
    widest = np.maximum(np.max([np.abs(weight).max(1) for weight in shared.weights], axis=0), _TINY)
    smooth = largest**alpha / widest ** (1 - alpha)  # eq. 4
    smooth = (smooth / np.exp(np.log(smooth).mean())).astype(np.float32)
    low, high = min(float((shared.low / smooth).min()), 0.0), max(float((shared.high / smooth).max()), 0.0)
    scale = float(np.float32(max(high - low, _TINY) / 255))
    zero = round(min(max(-low / scale, 0), 255))
    return _Scales(smooth, scale, zero, tuple(_bytes(weight * smooth[:, None]) for weight in shared.weights))


def _bytes(weight: Floats) -> tuple[Array, Floats]:
    scale = (np.maximum(np.abs(weight).max(0), _TINY) / 127).astype(np.float32)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


def _lost(shared: _Shared, alpha: float) -> float:
    """Squared error of the products on the sampled tokens, relative to the products themselves."""
    found = _scales(shared, alpha)
    stepped = np.clip(np.rint(shared.sample / found.smooth / found.scale) + found.zero, 0, 255) - found.zero
    lost = whole = 0.0
    for weight, (quantized, scale) in zip(shared.weights, found.weights, strict=True):
        exact = shared.sample @ weight
        lost += float(np.square(stepped * found.scale @ (quantized * scale) - exact).sum())
        whole += float(np.square(exact).sum())
    return lost / max(whole, _TINY)


def _quantized(model: Any, inputs: list[_Shared], alpha: float) -> Any:
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
    before: dict[str, list[Any]] = {}
    made: list[Any] = []

    def constant(name: str, value: Any) -> str:
        made.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    for shared in inputs:
        found, x = _scales(shared, alpha), shared.names[0]
        nodes = [products[_content(weight)] for weight in shared.weights]
        first = min(nodes, key=lambda node: order[node.name])
        smooth = [first.input[0], constant(f"{x}.smooth", 1 / found.smooth)]
        pair = [constant(f"{x}.scale", np.float32(found.scale)), constant(f"{x}.zero", np.uint8(found.zero))]
        before[first.name] = [
            helper.make_node("Mul", smooth, [f"{x}.in"], f"{x}.in"),
            helper.make_node("QuantizeLinear", [f"{x}.in", *pair], [f"{x}.q"], f"{x}.q"),
            helper.make_node("DequantizeLinear", [f"{x}.q", *pair], [f"{x}.dq"], f"{x}.dq"),
        ]
        for node, name, (quantized, scale) in zip(nodes, shared.names, found.weights, strict=True):
            steps = before.setdefault(node.name, [])
            of_weight = [constant(f"{name}.w", quantized), constant(f"{name}.w.scale", scale)]
            steps.append(helper.make_node("DequantizeLinear", of_weight, [f"{name}.w.dq"], f"{name}.w.dq", axis=1))
            node.input[:] = [f"{x}.dq", f"{name}.w.dq"]
    nodes = [step for node in graph.node for step in (*before.get(node.name, ()), node)]
    used = {name for node in nodes for name in node.input}
    kept = [tensor for name, tensor in constants.items() if name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *made])
    return model


def _content(weight: Array) -> tuple[tuple[int, ...], bytes]:
    """What tells a weight from every other."""
    return weight.shape, hashlib.sha256(np.ascontiguousarray(weight).data).digest()
