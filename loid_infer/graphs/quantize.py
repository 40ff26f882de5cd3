"""Static int8: a graph whose large products run on bytes, calibrated on texts and measured on others.

Activations get one scale and zero point a product (uint8), weights one scale an output channel (int8). Before that,
SmoothQuant (Xiao et al. 2023, arXiv 2211.10438, eq. 4) moves part of the spread between channels from activations to
weights. Every scale is fixed here, so a vector cannot depend on its neighbors. Knows the float graph that `graph.py`
writes and ClsBert's names; not which texts are asked about, nor what the vectors are for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loid_infer.artifact import digest_file
from loid_infer.encoders.card import fingerprint
from loid_infer.encoders.folder import EncoderFolder, Probes
from loid_infer.encoders.opening import measure_runtimes
from loid_infer.encoders.processor import n_usable_threads
from loid_infer.encoders.proof import Parity, gate
from loid_infer.encoders.schedule import MAX_BATCH_TOKENS, token_batches
from loid_infer.errors import ParityError
from loid_infer.types import Array, Floats

if TYPE_CHECKING:
    from loid_infer.encoders.torch import ClsBert

ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9)  # 0: all of the spread stays with the activations, 1: all of it moves
_HELD_OUT = 4  # every fourth text is measured on, not calibrated on
_KEPT_TOKENS = 32  # of each batch, to tell which products lose most
_TINY = 1e-5
_INPUTS = (("query", "key", "value"), ("output",), ("expand",), ("contract",))  # products that share an input


@dataclass(frozen=True, slots=True)
class Quantization:
    """What was chosen, and how far the vectors of held-out texts are from float32."""

    alpha: float
    n_products: int
    kept_float: tuple[str, ...]  # products that stayed in floating point because the gate needs it
    cos_min: float
    cos_mean: float
    n_calibration: int  # texts
    n_held_out: int


@dataclass(frozen=True, slots=True)
class _Shared:
    """Products that share an input, and what that input was on the calibration texts."""

    names: tuple[str, ...]
    weights: tuple[Floats, ...]  # each [in, out]
    low: Floats  # [in], over every token
    high: Floats
    sample: Floats  # [m, in]


def quantize(encoder: EncoderFolder, module: ClsBert, texts: Sequence[str]) -> tuple[EncoderFolder, Quantization]:
    """Put an int8 graph in the place of the float one of `encoder`, an export that is not finished yet.

    Each alpha is tried, and measured by the fastest runtime; where the best one misses the gate, the products that lose
    most go back to floating point, as many as it takes.

    Args:
        module: the encoder's weights; it computes the float32 reference.
        texts: of the domain the encoder is meant for.

    Returns:
        The int8 encoder, and what was chosen.

    Raises:
        ParityError: no choice meets the int8 gate. The float graph is in its place then.
        RuntimeMissing: no installed runtime computes int8.
    """
    import onnx

    held = np.arange(len(texts)) % _HELD_OUT == 0
    inputs = _observe(encoder, module, [text for text, out in zip(texts, held, strict=True) if not out])
    probes = _reference(encoder, module, [text for text, out in zip(texts, held, strict=True) if out])
    floats = encoder.graph.read_bytes()

    def tried(alpha: float, kept: frozenset[str]) -> tuple[EncoderFolder, Parity]:
        model = _quantized(onnx.load_from_string(floats), [x for x in inputs if x.names[0] not in kept], alpha)
        _write(model, encoder.graph)
        card = replace(encoder.card, precision="int8", quantized_graph=digest_file(encoder.graph))
        int8 = replace(encoder, card=card, fingerprint=fingerprint(card))
        return int8, next(measure_runtimes(int8, probes))[1]

    alpha = max(ALPHAS, key=lambda alpha: tried(alpha, frozenset())[1].cos_mean)
    worst = [x.names[0] for x in sorted(inputs, key=lambda x: -_lost(x, alpha))]
    for n_kept in _doubling(len(worst)):
        kept = frozenset(worst[:n_kept])
        int8, parity = tried(alpha, kept)
        if parity.passes("int8"):
            names = tuple(name for x in inputs if x.names[0] in kept for name in x.names)
            n_products = sum(len(x.names) for x in inputs) - len(names)
            return int8, Quantization(alpha, n_products, names, parity.cos_min, parity.cos_mean,
                                      int((~held).sum()), int(held.sum()))  # fmt: skip
    _write(onnx.load_from_string(floats), encoder.graph)
    raise ParityError(
        "int8 loses too much on texts of the calibration domain",
        where=encoder.name,
        expected=gate("int8"),
        got=f"{parity.cos_mean:.6f} with {len(kept)} of {len(inputs)} groups of products in floating point",
        mend="Export with --precision bf16 or fp32. Nothing was written.",
    )


def _doubling(n: int) -> Iterator[int]:
    """0, 1, 2, 4, ... below `n`: with all `n` in floating point the graph would not be int8."""
    yield 0
    step = 1
    while step < n:
        yield step
        step *= 2


def _observe(encoder: EncoderFolder, module: ClsBert, texts: list[str]) -> list[_Shared]:
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

    layers = list(module.layers)[:-1]  # the last one runs on one token a text: nothing to gain there
    with ExitStack() as hooks:
        hooks.callback(module.register_forward_pre_hook(remember_mask).remove)
        for i, layer in enumerate(layers):
            for first, *_ in _INPUTS:
                part: Any = getattr(layer, first)
                hooks.callback(part.register_forward_pre_hook(watch(f"layers.{i}.{first}")).remove)
        _reference(encoder, module, texts)
    return [
        _Shared(
            tuple(f"layers.{i}.{part}" for part in parts),
            tuple(getattr(layer, part).weight.numpy().T for part in parts),
            low[f"layers.{i}.{parts[0]}"],
            high[f"layers.{i}.{parts[0]}"],
            np.concatenate(sample[f"layers.{i}.{parts[0]}"]),
        )
        for i, layer in enumerate(layers)
        for parts in _INPUTS
    ]


def _reference(encoder: EncoderFolder, module: ClsBert, texts: list[str]) -> Probes:
    from loid_infer.encoders.torch import TorchRuntime

    tokens = encoder.tokenizer()(texts)
    cls = np.empty((len(texts), encoder.card.hidden_dim), np.float32)
    longest = encoder.card.max_tokens
    batches = token_batches(np.arange(len(texts)), tokens.flat_ids, tokens.lengths, MAX_BATCH_TOKENS, longest)
    for slots, vectors in TorchRuntime(module, "fp32", n_usable_threads()).run(batches):
        cls[slots] = vectors
    return Probes(tokens.flat_ids, tokens.lengths, cls)


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
    """`model` with quantize/dequantize pairs before the products of `inputs`, in the form that runtimes fuse."""
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    products = [
        (node, constants[node.input[1]])
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in constants
    ]
    before: dict[str, list[Any]] = {}
    made: list[Any] = []

    def constant(name: str, value: Any) -> str:
        made.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    for shared in inputs:
        found, x = _scales(shared, alpha), shared.names[0]
        for name, weight, (quantized, scale) in zip(shared.names, shared.weights, found.weights, strict=True):
            node = next(node for node, tensor in products if _same(tensor, weight))
            steps = before.setdefault(node.name, [])
            if name == x:
                steps.append(
                    helper.make_node(
                        "Mul", [node.input[0], constant(f"{x}.smooth", 1 / found.smooth)], [f"{x}.in"], f"{x}.in"
                    )
                )
                pair = [constant(f"{x}.scale", np.float32(found.scale)), constant(f"{x}.zero", np.uint8(found.zero))]
                steps.append(helper.make_node("QuantizeLinear", [f"{x}.in", *pair], [f"{x}.q"], f"{x}.q"))
                steps.append(helper.make_node("DequantizeLinear", [f"{x}.q", *pair], [f"{x}.dq"], f"{x}.dq"))
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


def _same(tensor: Any, weight: Floats) -> bool:
    from onnx import numpy_helper

    return tuple(tensor.dims) == weight.shape and np.array_equal(numpy_helper.to_array(tensor), weight)


def _write(model: Any, path: Path) -> None:
    """Into a new file that takes the old one's place: a runtime may still have that one mapped."""
    fresh = path.with_suffix(".fresh")
    fresh.write_bytes(model.SerializeToString(deterministic=True))
    fresh.replace(path)
