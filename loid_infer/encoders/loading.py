"""How each runtime is made from encoders' folders, and which can compute what. Proves nothing and chooses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from loid_infer.artifact import versions
from loid_infer.encoders.budget import Budget
from loid_infer.encoders.card import WEIGHTS_FILE
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.encoders.joint import Join, steps
from loid_infer.encoders.machine import recall, remember
from loid_infer.encoders.processor import installed, model
from loid_infer.encoders.protocol import Graph, Runtime
from loid_infer.encoders.streams import fastest_streams
from loid_infer.errors import BadArtifact, RuntimeMissing
from loid_infer.settings import machine_memory

if TYPE_CHECKING:
    from loid_infer.encoders.torch import ClsBert, JointBert

# Of a place and precision the runtimes that can compute it, fastest first. On a processor fp16 is computed in float32,
# which is nearer to the weights than it promises. On a card the order is a guess until bench/results has one.
PREFERENCE: dict[str, dict[str, tuple[str, ...]]] = {
    "cpu": {
        "fp32": ("openvino", "onnxruntime", "torch"),
        "bf16": ("openvino", "torch"),
        "fp16": ("openvino", "onnxruntime", "torch"),
        "int8": ("openvino", "onnxruntime"),
    },
    "cuda": {
        "fp32": ("torch", "onnxruntime"),
        "bf16": ("torch", "tensorrt", "onnxruntime"),
        "fp16": ("torch", "tensorrt", "onnxruntime"),
        "int8": (),
    },
}
_PLACES = {"cpu": "the CPU", "cuda": "a card"}


def load(name: str, encoders: Sequence[EncoderFolder], place: str, n_threads: int, join: Join | None = None) -> Runtime:
    """The runtime `name` with `encoders` on `place` (cpu | cuda).

    Args:
        join: see `open_runtime`.

    Raises:
        RuntimeMissing: it is not installed, or computes something else or elsewhere only.
        BadArtifact: a file of an encoder cannot be loaded.
    """
    encoder, precision = encoders[0], encoders[0].card.precision
    if not installed(name):
        raise RuntimeMissing(
            f"the runtime {name} is not installed",
            where=encoder.name,
            mend=f"pip install 'loid-infer[{'cpu' if place == 'cpu' else 'gpu'}]', or let --runtime auto choose.",
        )
    if name not in PREFERENCE[place][precision]:
        other = "cuda" if place == "cpu" else "cpu"
        elsewhere = name in PREFERENCE[other][precision]
        raise RuntimeMissing(
            f"{name} computes {precision} on {_PLACES[other]} only" if elsewhere
            else f"{name} does not compute {precision}",
            where=encoder.name,
            expected=f"--device {other}" if elsewhere else " or ".join(PREFERENCE[place][precision]),
            got=_PLACES[place] if elsewhere else "",
            mend="Let --runtime auto choose" + ("." if elsewhere else ", or `loid-infer export --precision fp32`."),
        )  # fmt: skip
    if name == "torch":
        return _torch(encoders, place, n_threads)
    if name == "openvino":
        return _openvino(encoders, n_threads, join)
    if name == "tensorrt":
        return _tensorrt(encoders, join)
    return _onnxruntime(encoders, place, n_threads, join)


def _onnxruntime(encoders: Sequence[EncoderFolder], place: str, n_threads: int, join: Join | None) -> Runtime:
    from loid_infer.encoders.onnxruntime import CARD_BATCH_TOKENS, OnnxRuntime

    budget = _budget("onnxruntime", encoders, CARD_BATCH_TOKENS) if place == "cuda" else None
    return OnnxRuntime(_graph(encoders, join), encoders[0].card.precision, place, n_threads, budget)


def _tensorrt(encoders: Sequence[EncoderFolder], join: Join | None) -> Runtime:
    import torch

    from loid_infer.encoders.onnxruntime import CARD_BATCH_TOKENS
    from loid_infer.encoders.tensorrt import TensorRt

    card, budget = encoders[0].card, _budget("tensorrt", encoders, CARD_BATCH_TOKENS)
    name, memory = torch.cuda.get_device_name(), machine_memory().parent
    return TensorRt(_graph(encoders, join), card.precision, card.max_tokens, name, memory, budget)


def _torch(encoders: Sequence[EncoderFolder], place: str, n_threads: int) -> Runtime:
    from loid_infer.encoders.cuda import MAX_PACK_TOKENS, PackedRuntime
    from loid_infer.encoders.torch import TorchRuntime

    module, precision = module_of(encoders), encoders[0].card.precision
    if place == "cpu":
        return TorchRuntime(module, precision, n_threads)
    half = all(encoder.card.store_dtype == "fp16" for encoder in encoders)
    return PackedRuntime(module, precision, place, _budget("torch", encoders, MAX_PACK_TOKENS), half=half)


def module_of(encoders: Sequence[EncoderFolder]) -> ClsBert | JointBert:
    """The module of one encoder, or of several side by side.

    Raises:
        BadArtifact: weights do not fit their card.
    """
    from safetensors.torch import load_file

    from loid_infer.encoders.torch import ClsBert, JointBert

    berts = []
    for encoder in encoders:
        path = encoder.path / WEIGHTS_FILE
        try:
            berts.append(ClsBert(encoder.card, load_file(path)))
        except (KeyError, RuntimeError, SafetensorError) as error:
            mend = f"Run `loid-infer export --name {encoder.name}` to make it anew."
            raise BadArtifact(f"the weights do not fit the card: {error}", where=str(path), mend=mend) from error
    return JointBert(berts, [[step.key for step in steps(encoder)] for encoder in encoders]) if berts[1:] else berts[0]


def _openvino(encoders: Sequence[EncoderFolder], n_threads: int, join: Join | None) -> Runtime:
    from loid_infer.encoders.openvino import OpenVino

    card, graph = encoders[0].card, _graph(encoders, join)
    version = versions("openvino").get("openvino")
    key = f"{model()}, {n_threads} threads, openvino {version}, {card.precision}, {_shape(encoders)}"
    made: dict[int, Runtime] = {}

    def make(n_streams: int) -> Runtime:
        made[n_streams] = OpenVino(graph, card.precision, n_threads, n_streams)
        return made[n_streams]

    n_streams = fastest_streams(key, n_threads, card.max_tokens, make, machine_memory())
    return made.get(n_streams) or make(n_streams)


def _graph(encoders: Sequence[EncoderFolder], join: Join | None) -> Graph:
    graphs = [encoder.graph for encoder in encoders]
    assert join is not None or len(graphs) == 1  # whoever opens several says how their graphs become one
    return graphs[0] if join is None else join(graphs)


def _shape(encoders: Sequence[EncoderFolder]) -> str:
    card = encoders[0].card
    found = f"{card.n_layers} x {card.hidden_dim} x {card.feed_forward_dim}"
    return found + (f", {len(encoders)} side by side" if len(encoders) > 1 else "")


def _budget(runtime: str, encoders: Sequence[EncoderFolder], max_tokens: int) -> Budget:
    """`max_tokens`, or what this card had memory for when it was tried before."""
    import torch

    card = torch.cuda.get_device_properties(torch.cuda.current_device())
    memory = f"{card.total_memory / 2**30:.0f} GiB"
    key = f"{card.name}, {memory}, {runtime}, {encoders[0].card.precision}, {_shape(encoders)}"
    known = recall(key, machine_memory()).get("max_tokens")
    fits = known if isinstance(known, int) and 0 < known < max_tokens else max_tokens
    return Budget(fits, lambda smaller: remember(key, {"max_tokens": smaller}, machine_memory()))
