"""The door to the runtimes: which one runs an encoder on this machine, proven before it is handed out.

`auto` takes the first that is installed, able and proven, and says so. An explicit choice is obeyed or is an error.
"""

from __future__ import annotations

from collections.abc import Iterator

from loid_infer.encoders import onnxruntime, openvino, tensorrt, torch
from loid_infer.encoders.folder import EncoderFolder, Probes
from loid_infer.encoders.gpu import driver
from loid_infer.encoders.manifest import Parity, gate
from loid_infer.encoders.processor import n_usable_threads
from loid_infer.encoders.proof import measure
from loid_infer.encoders.protocol import Backend, Runtime
from loid_infer.errors import NoMemory, ParityError, RuntimeMissing
from loid_infer.settings import check_choice
from loid_infer.types import Progress

DEVICES = ("auto", "cpu", "cuda")
_PLACES = {"cpu": "the CPU", "cuda": "a GPU"}


def backends() -> tuple[Backend, ...]:
    """Every runtime, fastest on a CPU first; on a GPU it is the other way round."""
    return openvino.backend(), onnxruntime.backend(), tensorrt.backend(), torch.backend()


def able(device: str, precision: str) -> list[Backend]:
    """The runtimes that compute this precision on cpu or cuda, installed or not, fastest first."""
    found = [backend for backend in backends() if backend.computes(device, precision)]
    return found if device == "cpu" else found[::-1]


def runtimes() -> tuple[str, ...]:
    """What may be asked for."""
    return ("auto", *(backend.name for backend in backends()), "fake")


def open_runtime(
    encoder: EncoderFolder, *, runtime: str, device: str, n_threads: int | None, progress: Progress
) -> Runtime:
    """A runtime that computes `encoder`, proven on its parity probes.

    Args:
        runtime: one of `runtimes`; `auto` decides.
        device: one of DEVICES; `auto` takes CUDA where torch sees a GPU.
        n_threads: processors to use, None for all that this process may use.

    Raises:
        BadSetting: no such runtime or device.
        RuntimeMissing: what was asked for cannot run here, or with this precision.
        NoMemory: a GPU has too little memory for it.
        ParityError: the vectors are not those of the encoder; nothing was stored.
    """
    check_options(runtime, device)
    n_threads = n_threads or n_usable_threads()
    if runtime == "fake":
        from loid_infer.encoders.fake import FakeRuntime

        return FakeRuntime(encoder.spec.dim)
    precision = encoder.spec.precision
    target = _target(runtime, device, precision)
    if runtime != "auto":
        return _proven(load(runtime, encoder, target, n_threads), encoder)
    reasons = [] if able(target, precision) else [f"none computes it on {target}"]
    for backend in able(target, precision):
        if not backend.installed:
            reasons.append(f"{backend.name} is not installed")
            continue
        try:
            opened = _proven(backend.open(encoder, target, n_threads), encoder)
        except (RuntimeMissing, ParityError, NoMemory) as error:
            reasons.append(str(error))
            continue
        why = "; ".join([*reasons, "fastest that is proven here"])
        progress.say(f"runtime: {backend.name} ({opened.detail}): {why}")
        return opened
    raise _no_runtime(encoder, "; ".join(reasons))


def load(name: str, encoder: EncoderFolder, device: str, n_threads: int) -> Runtime:
    """The runtime `name` of `encoder` on cpu or cuda, not proven.

    Raises:
        RuntimeMissing: it is not installed, or computes something else or elsewhere only.
        BadArtifact: a file of the encoder cannot be loaded.
    """
    precision = encoder.spec.precision
    backend = next(backend for backend in backends() if backend.name == name)
    if not backend.installed:
        raise RuntimeMissing(
            f"the runtime {name} is not installed",
            where=encoder.name,
            fix=f"pip install 'loid-infer[{'cpu' if device == 'cpu' else 'gpu'}]', or let --runtime auto choose.",
        )
    if not backend.computes(device, precision):
        other = "cuda" if device == "cpu" else "cpu"
        elsewhere = backend.computes(other, precision)
        raise RuntimeMissing(
            f"{name} computes {precision} on {_PLACES[other]} only"
            if elsewhere
            else f"{name} does not compute {precision}",
            where=encoder.name,
            expected=f"--device {other}" if elsewhere else " or ".join(one.name for one in able(device, precision)),
            got=_PLACES[device] if elsewhere else "",
            fix="Let --runtime auto choose" + ("." if elsewhere else ", or `loid-infer export --precision fp32`."),
        )
    return backend.open(encoder, device, n_threads)


def measure_runtimes(encoder: EncoderFolder, probes: Probes | None = None) -> Iterator[tuple[str, Parity]]:
    """The parity of every installed runtime that can compute the encoder's precision on the CPU, fastest first; before
    them that of torch on a GPU, where there is one.

    A runtime is opened when its turn comes, so whoever wants the fastest only pays for that one.

    Args:
        probes: other ones than the encoder's own.

    Raises:
        RuntimeMissing: there is none.
    """
    probes, precision = probes or encoder.probes(), encoder.spec.precision
    on_gpu = torch.backend().computes("cuda", precision) and torch_device("auto") == "cuda"
    if on_gpu:
        yield "torch on cuda", measure(load("torch", encoder, "cuda", n_usable_threads()), probes)
    reasons, n_able = [], int(on_gpu)
    for backend in able("cpu", precision):
        try:
            opened = load(backend.name, encoder, "cpu", n_usable_threads())
        except RuntimeMissing as error:
            reasons.append(str(error))
            continue
        n_able += 1
        yield backend.name, measure(opened, probes)
    if not n_able:
        raise _no_runtime(encoder, "; ".join(reasons))


def _no_runtime(encoder: EncoderFolder, why: str) -> RuntimeMissing:
    return RuntimeMissing(
        f"no runtime can compute {encoder.spec.precision} here",
        where=encoder.name,
        got=why,
        fix="Run `loid-infer doctor` to see what is missing.",
    )


def _proven(opened: Runtime, encoder: EncoderFolder) -> Runtime:
    precision, parity = encoder.spec.precision, measure(opened, encoder.probes())
    if parity.passes(precision):
        return opened
    raise ParityError(
        f"{opened.name} computes other vectors than the encoder's weights say",
        where=encoder.name,
        expected=f"{gate(precision)}, over {parity.n_texts} probes",
        got=f"{parity.cosine(precision):.6f}",
        fix="Choose another --runtime; nothing was stored.",
    )


def _target(runtime: str, device: str, precision: str) -> str:
    """Where to compute: with `auto` not on a GPU that the runtime, or every runtime, cannot compute this on."""
    names = [backend.name for backend in able("cuda", precision)]
    if device == "auto" and (not names if runtime == "auto" else runtime not in names):
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
    from torch import cuda

    if cuda.is_available():
        return "cuda"
    if device == "auto":
        return "cpu"
    raise RuntimeMissing(
        "torch sees no CUDA device", got="--device cuda", fix="Use --device cpu, or see `loid-infer doctor`."
    )


def check_options(runtime: str, device: str) -> None:
    """Refuse a runtime or device that does not exist, before any work is done.

    Raises:
        BadSetting: it does not.
    """
    check_choice("runtime", runtime, runtimes())
    check_choice("device", device, DEVICES)
