"""The door to the runtimes: which one runs an encoder on this machine, proven before it is handed out.

`auto` takes the first of the preference that is installed, able and proven, and says so. An explicit choice is
obeyed or is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError

from loid_infer.artifact import versions
from loid_infer.encoders.card import WEIGHTS_FILE
from loid_infer.encoders.folder import EncoderFolder, Probes
from loid_infer.encoders.joint import Join, OneOf, columns, steps
from loid_infer.encoders.processor import installed, model, n_usable_threads
from loid_infer.encoders.proof import Parity, gate, measure
from loid_infer.encoders.protocol import Graph, Runtime
from loid_infer.encoders.streams import fastest_streams
from loid_infer.errors import BadArtifact, BadSetting, ParityError, RuntimeMissing
from loid_infer.settings import machine_memory
from loid_infer.types import Progress

# Fastest first, by bench/results; which runtimes can compute a precision at all.
PREFERENCE = {
    "fp32": ("openvino", "onnxruntime", "torch"),
    "bf16": ("openvino", "torch"),
    "int8": ("openvino", "onnxruntime"),
}
RUNTIMES = ("auto", "torch", "onnxruntime", "openvino", "fake")
DEVICES = ("auto", "cpu", "cuda")


def open_runtime(
    *encoders: EncoderFolder,
    runtime: str,
    device: str,
    n_threads: int | None,
    progress: Progress,
    join: Join | None = None,
) -> Runtime:
    """A runtime that computes each of `encoders`, proven on the parity probes of each.

    Args:
        encoders: one, or several of one `joint.shape`, whose vectors come side by side in this order.
        runtime: one of RUNTIMES; `auto` decides.
        device: one of DEVICES; `auto` takes CUDA where torch sees a card.
        n_threads: processors to use, None for all that this process may use.
        join: checks the encoders' graphs and makes one of several; without it a graph is trusted.

    Raises:
        BadSetting: no such runtime or device.
        RuntimeMissing: what was asked for cannot run here, or with this precision.
        ParityError: the vectors are not those of the encoder; nothing was stored.
    """
    check_options(runtime, device)
    n_threads = n_threads or n_usable_threads()
    if runtime == "fake":
        return _fake(encoders)
    place = torch_device(device)
    if runtime != "auto":
        opened = _open(runtime, encoders, place, n_threads, join)
        _prove(opened, encoders)
        return opened
    reasons = []
    for name in PREFERENCE[encoders[0].card.precision] if place == "cpu" else ("torch",):
        if not installed(name):
            reasons.append(f"{name} is not installed")
            continue
        try:
            opened = _open(name, encoders, place, n_threads, join)
            _prove(opened, encoders)
        except (RuntimeMissing, ParityError) as error:
            reasons.append(str(error))
            continue
        why = "; ".join([*reasons, "fastest that is proven here"])
        progress.say(f"runtime: {name} ({opened.detail}): {why}")
        return opened
    raise _no_runtime(encoders[0], "; ".join(reasons))


def measure_runtimes(encoder: EncoderFolder, probes: Probes | None = None) -> Iterator[tuple[str, Parity]]:
    """The parity on the CPU of every installed runtime that can compute the encoder's precision, fastest first.

    A runtime is opened when its turn comes, so whoever wants the fastest only pays for that one.

    Args:
        probes: other ones than the encoder's own.

    Raises:
        RuntimeMissing: there is none.
    """
    probes = probes or encoder.probes()
    names = [name for name in PREFERENCE[encoder.card.precision] if installed(name)]
    if not names:
        raise _no_runtime(encoder, f"{' and '.join(PREFERENCE[encoder.card.precision])} are not installed")
    for name in names:
        yield name, measure(_open(name, [encoder], "cpu", n_usable_threads()), probes)


def _open(
    name: str, encoders: Sequence[EncoderFolder], place: str, n_threads: int, join: Join | None = None
) -> Runtime:
    encoder, precision = encoders[0], encoders[0].card.precision
    if not installed(name):
        raise RuntimeMissing(
            f"the runtime {name} is not installed",
            where=encoder.name,
            mend="Install it with `pip install 'loid-infer[cpu]'`, or let --runtime auto choose.",
        )
    if name not in PREFERENCE[precision]:
        raise RuntimeMissing(
            f"{name} does not compute {precision}",
            where=encoder.name,
            expected=" or ".join(PREFERENCE[precision]),
            mend="Let --runtime auto choose, or `loid-infer export --precision fp32` another encoder.",
        )
    if place != "cpu" and name != "torch":
        raise RuntimeMissing(
            f"{name} runs on the CPU only",
            where=encoder.name,
            got=f"--device {place}",
            mend="Use --runtime torch with --device cuda.",
        )
    if name == "openvino":
        return _openvino(encoders, n_threads, join)
    if name == "onnxruntime":
        from loid_infer.encoders.onnxruntime import OnnxRuntime

        return OnnxRuntime(_graph(encoders, join), precision, n_threads)
    return _torch(encoders, place, n_threads)


def _graph(encoders: Sequence[EncoderFolder], join: Join | None) -> Graph:
    graphs = [encoder.graph for encoder in encoders]
    assert join is not None or len(graphs) == 1  # whoever opens several says how their graphs become one
    return graphs[0] if join is None else join(graphs)


def _torch(encoders: Sequence[EncoderFolder], place: str, n_threads: int) -> Runtime:
    from safetensors.torch import load_file

    from loid_infer.encoders.torch import ClsBert, JointBert, TorchRuntime

    berts = []
    for encoder in encoders:
        path = encoder.path / WEIGHTS_FILE
        try:
            berts.append(ClsBert(encoder.card, load_file(path)))
        except (KeyError, RuntimeError, SafetensorError) as error:
            mend = f"Run `loid-infer export --name {encoder.name}` to make it anew."
            raise BadArtifact(f"the weights do not fit the card: {error}", where=str(path), mend=mend) from error
    keys = [[step.key for step in steps(encoder)] for encoder in encoders] if len(encoders) > 1 else []
    return TorchRuntime(JointBert(berts, keys) if keys else berts[0], encoders[0].card.precision, place, n_threads)


def _openvino(encoders: Sequence[EncoderFolder], n_threads: int, join: Join | None) -> Runtime:
    from loid_infer.encoders.openvino import OpenVino

    card, graph = encoders[0].card, _graph(encoders, join)
    shape = f"{card.n_layers} x {card.hidden_dim} x {card.feed_forward_dim}"
    shape += f", {len(encoders)} side by side" if len(encoders) > 1 else ""
    version = versions("openvino").get("openvino")
    key = f"{model()}, {n_threads} threads, openvino {version}, {card.precision}, {shape}"
    made: dict[int, Runtime] = {}

    def make(n_streams: int) -> Runtime:
        made[n_streams] = OpenVino(graph, card.precision, n_threads, n_streams)
        return made[n_streams]

    n_streams = fastest_streams(key, n_threads, card.max_tokens, make, machine_memory())
    return made.get(n_streams) or make(n_streams)


def _no_runtime(encoder: EncoderFolder, why: str) -> RuntimeMissing:
    return RuntimeMissing(
        f"no runtime can compute {encoder.card.precision} here",
        where=encoder.name,
        got=why,
        mend="Run `loid-infer doctor` to see what is missing.",
    )


def _fake(encoders: Sequence[EncoderFolder]) -> Runtime:
    from loid_infer.encoders.fake import FakeRuntime

    return FakeRuntime(*(encoder.card.hidden_dim for encoder in encoders))


def _prove(opened: Runtime, encoders: Sequence[EncoderFolder]) -> None:
    for i, encoder in enumerate(encoders):
        precision = encoder.card.precision
        mine = OneOf(opened, columns(i, encoder.card.hidden_dim)) if len(encoders) > 1 else opened
        parity = measure(mine, encoder.probes())
        if not parity.passes(precision):
            raise ParityError(
                f"{opened.name} computes other vectors than the encoder's weights say",
                where=encoder.name,
                expected=f"{gate(precision)}, over {parity.n_texts} probes",
                got=f"{parity.cosine(precision):.6f}",
                mend="Choose another --runtime"
                + (", or one --encoder at a time" if len(encoders) > 1 else "")
                + "; nothing was stored.",
            )


def torch_device(device: str) -> str:
    """`cpu` or `cuda`; for `auto` the second where torch has it.

    Raises:
        RuntimeMissing: CUDA was asked for and is not there.
    """
    if device == "cpu" or (device == "auto" and not Path("/proc/driver/nvidia/version").exists()):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "auto":
        return "cpu"
    raise RuntimeMissing(
        "torch sees no CUDA device", got="--device cuda", mend="Use --device cpu, or see `loid-infer doctor`."
    )


def check_options(runtime: str, device: str) -> None:
    """Refuse a runtime or device that does not exist, before any work is done.

    Raises:
        BadSetting: it does not.
    """
    for option, value, known in (("runtime", runtime, RUNTIMES), ("device", device, DEVICES)):
        if value not in known:
            raise BadSetting(
                f"there is no {option} {value!r}", expected=" | ".join(known), mend="See `loid-infer encode --help`."
            )
