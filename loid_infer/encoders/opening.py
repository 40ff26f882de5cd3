"""The door to the runtimes: which one runs an encoder on this machine, proven before it is handed out.

`auto` takes the first of the preference that is installed, able and proven, and says so. An explicit choice is
obeyed or is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loid_infer.encoders.folder import EncoderFolder, Probes
from loid_infer.encoders.gpu import driver
from loid_infer.encoders.joint import Join, OneOf, columns
from loid_infer.encoders.loading import PREFERENCE, load
from loid_infer.encoders.processor import installed, n_usable_threads
from loid_infer.encoders.proof import Parity, gate, measure
from loid_infer.encoders.protocol import Runtime
from loid_infer.errors import BadSetting, NoMemory, ParityError, RuntimeMissing
from loid_infer.types import Progress

RUNTIMES = ("auto", "torch", "onnxruntime", "openvino", "tensorrt", "fake")
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
        NoMemory: a card has too little memory for it.
        ParityError: the vectors are not those of the encoder; nothing was stored.
    """
    check_options(runtime, device)
    n_threads = n_threads or n_usable_threads()
    if runtime == "fake":
        return _fake(encoders)
    place = _place(runtime, device, encoders[0].card.precision)
    if runtime != "auto":
        opened = load(runtime, encoders, place, n_threads, join)
        _prove(opened, encoders)
        return opened
    reasons = [] if PREFERENCE[place][encoders[0].card.precision] else [f"none computes it on {place}"]
    for name in PREFERENCE[place][encoders[0].card.precision]:
        if not installed(name):
            reasons.append(f"{name} is not installed")
            continue
        try:
            opened = load(name, encoders, place, n_threads, join)
            _prove(opened, encoders)
        except (RuntimeMissing, ParityError, NoMemory) as error:
            reasons.append(str(error))
            continue
        why = "; ".join([*reasons, "fastest that is proven here"])
        progress.say(f"runtime: {name} ({opened.detail}): {why}")
        return opened
    raise _no_runtime(encoders[0], "; ".join(reasons))


def measure_runtimes(encoder: EncoderFolder, probes: Probes | None = None) -> Iterator[tuple[str, Parity]]:
    """The parity of every installed runtime that can compute the encoder's precision on the CPU, fastest first; before
    them that of torch on a card, where there is one.

    A runtime is opened when its turn comes, so whoever wants the fastest only pays for that one.

    Args:
        probes: other ones than the encoder's own.

    Raises:
        RuntimeMissing: there is none.
    """
    probes = probes or encoder.probes()
    able = PREFERENCE["cpu"][encoder.card.precision]
    names = [name for name in able if installed(name)]
    if not names:
        raise _no_runtime(encoder, f"{' and '.join(able)} are not installed")
    on_card = "torch" in PREFERENCE["cuda"][encoder.card.precision] and torch_device("auto") == "cuda"
    if on_card:
        yield "torch on cuda", measure(load("torch", [encoder], "cuda", n_usable_threads()), probes)
    for name in names:
        try:
            yield name, measure(load(name, [encoder], "cpu", n_usable_threads()), probes)
        except RuntimeMissing:  # a processor that cannot, beside a card that can
            if not on_card:
                raise


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


def _place(runtime: str, device: str, precision: str) -> str:
    """Where to compute: with `auto` not on a card that the runtime, or every runtime, cannot compute this on."""
    able = PREFERENCE["cuda"][precision]
    if device == "auto" and (not able if runtime == "auto" else runtime not in able):
        return "cpu"
    return torch_device(device)


def torch_device(device: str) -> str:
    """`cpu` or `cuda`; for `auto` the second where torch has it.

    Raises:
        BadSetting: there is no such device.
        RuntimeMissing: CUDA was asked for and is not there.
    """
    check_options("auto", device)
    if device == "cpu" or (device == "auto" and not driver()):
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
            raise BadSetting(f"there is no {option} {value!r}", expected=" | ".join(known), mend="Give one of these.")
