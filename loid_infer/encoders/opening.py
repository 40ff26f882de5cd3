"""Selects, opens and verifies the runtime of an encoder.

`auto` takes the first runtime that is installed, supports the precision and passes the parity check. A runtime that is
requested by name is used or is an error.
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
_DEVICE_NAMES = {"cpu": "the CPU", "cuda": "a GPU"}


def backends() -> tuple[Backend, ...]:
    """All runtimes, the fastest on a CPU first; on a GPU the order is reversed."""
    return openvino.backend(), onnxruntime.backend(), tensorrt.backend(), torch.backend()


def able(device: str, precision: str) -> list[Backend]:
    """The runtimes that support `precision` on `device` (cpu | cuda), installed or not, fastest first."""
    supporting = [backend for backend in backends() if backend.computes(device, precision)]
    return supporting if device == "cpu" else supporting[::-1]


def runtimes() -> tuple[str, ...]:
    """The choices of `--runtime`."""
    return ("auto", *(backend.name for backend in backends()), "fake")


def open_runtime(
    encoder: EncoderFolder, *, runtime: str, device: str, n_threads: int | None, progress: Progress
) -> Runtime:
    """A runtime of `encoder`, verified on its parity probes.

    Args:
        runtime: one of `runtimes`.
        device: one of DEVICES; `auto` takes CUDA if torch sees a GPU.
        n_threads: CPU threads; None: all processors that this process may use.

    Raises:
        BadSetting: no such runtime or device.
        RuntimeMissing: the request cannot be satisfied here, or with this precision.
        NoMemory: the GPU has too little memory.
        ParityError: the vectors are not those of the encoder.
    """
    check_options(runtime, device)
    n_threads = n_threads or n_usable_threads()
    if runtime == "fake":
        from loid_infer.encoders.fake import FakeRuntime

        return FakeRuntime(encoder.spec.dim)
    precision = encoder.spec.precision
    device = _device(runtime, device, precision)
    if runtime != "auto":
        return _verified(load(runtime, encoder, device, n_threads), encoder)
    candidates = able(device, precision)
    reasons = [] if candidates else [f"no runtime supports it on {device}"]
    for backend in candidates:
        if not backend.installed:
            reasons.append(f"{backend.name} is not installed")
            continue
        try:
            opened = _verified(backend.open(encoder, device, n_threads), encoder)
        except (RuntimeMissing, ParityError, NoMemory) as error:
            reasons.append(str(error))
            continue
        reasons.append("the fastest that passes the parity check")
        progress.say(f"runtime: {backend.name} ({opened.detail}): {'; '.join(reasons)}")
        return opened
    raise _no_runtime(encoder, "; ".join(reasons))


def load(name: str, encoder: EncoderFolder, device: str, n_threads: int) -> Runtime:
    """The runtime `name` of `encoder` on `device` (cpu | cuda), not verified.

    Raises:
        RuntimeMissing: it is not installed, or does not support the precision on this device.
        BadArtifact: a file of the encoder cannot be loaded.
    """
    precision = encoder.spec.precision
    backend = next(backend for backend in backends() if backend.name == name)
    if not backend.installed:
        raise RuntimeMissing(
            f"the runtime {name} is not installed",
            where=encoder.name,
            fix=f"Run `pip install 'loid-infer[{'cpu' if device == 'cpu' else 'gpu'}]'`, or use --runtime auto.",
        )
    if not backend.computes(device, precision):
        other = "cuda" if device == "cpu" else "cpu"
        if backend.computes(other, precision):
            raise RuntimeMissing(
                f"{name} computes {precision} on {_DEVICE_NAMES[other]} only",
                where=encoder.name,
                expected=f"--device {other}",
                got=_DEVICE_NAMES[device],
                fix="Use --runtime auto.",
            )
        raise RuntimeMissing(
            f"{name} does not compute {precision}",
            where=encoder.name,
            expected=" or ".join(backend.name for backend in able(device, precision)),
            fix="Use --runtime auto, or run `loid-infer export --precision fp32`.",
        )
    return backend.open(encoder, device, n_threads)


def measure_runtimes(encoder: EncoderFolder, probes: Probes | None = None) -> Iterator[tuple[str, Parity]]:
    """The parity of torch on a GPU, if there is one, and of every installed runtime that supports the precision on the
    CPU, fastest first. Runtimes are opened one by one, as the iterator is consumed.

    Args:
        probes: instead of the encoder's own.

    Raises:
        RuntimeMissing: there is no such runtime.
    """
    probes, precision = probes or encoder.probes(), encoder.spec.precision
    on_gpu = torch.backend().computes("cuda", precision) and torch_device("auto") == "cuda"
    if on_gpu:
        yield "torch on cuda", measure(load("torch", encoder, "cuda", n_usable_threads()), probes)
    reasons, n_measured = [], int(on_gpu)
    for backend in able("cpu", precision):
        try:
            opened = load(backend.name, encoder, "cpu", n_usable_threads())
        except RuntimeMissing as error:
            reasons.append(str(error))
            continue
        n_measured += 1
        yield backend.name, measure(opened, probes)
    if not n_measured:
        raise _no_runtime(encoder, "; ".join(reasons))


def _no_runtime(encoder: EncoderFolder, reasons: str) -> RuntimeMissing:
    return RuntimeMissing(
        f"no runtime can compute {encoder.spec.precision} here",
        where=encoder.name,
        got=reasons,
        fix="Run `loid-infer doctor` to see what is missing.",
    )


def _verified(opened: Runtime, encoder: EncoderFolder) -> Runtime:
    precision, parity = encoder.spec.precision, measure(opened, encoder.probes())
    if parity.passes(precision):
        return opened
    raise ParityError(
        f"{opened.name} computes other vectors than the float32 reference",
        where=encoder.name,
        expected=f"{gate(precision)}, over {parity.n_texts} probes",
        got=f"{parity.cosine(precision):.6f}",
        fix="Use another --runtime; nothing was stored.",
    )


def _device(runtime: str, device: str, precision: str) -> str:
    """`cpu` or `cuda`; `auto` takes the CPU if the runtime (or every runtime) lacks the precision on a GPU."""
    names = [backend.name for backend in able("cuda", precision)]
    if device == "auto" and (not names if runtime == "auto" else runtime not in names):
        return "cpu"
    return torch_device(device)


def torch_device(device: str) -> str:
    """`cpu` or `cuda`; `auto` takes CUDA if torch sees a GPU.

    Raises:
        BadSetting: no such device.
        RuntimeMissing: CUDA was requested and torch sees no GPU.
    """
    check_options("auto", device)
    if device == "cpu" or (device == "auto" and not driver()):
        return "cpu"
    from torch import cuda

    if cuda.is_available():
        return "cuda"
    if device == "auto":
        return "cpu"
    fix = "Use --device cpu, or run `loid-infer doctor`."
    raise RuntimeMissing("torch sees no CUDA device", got="--device cuda", fix=fix)


def check_options(runtime: str, device: str) -> None:
    """Check that the runtime and the device exist.

    Raises:
        BadSetting: one does not.
    """
    check_choice("runtime", runtime, runtimes())
    check_choice("device", device, DEVICES)
