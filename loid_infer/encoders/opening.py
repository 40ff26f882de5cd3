"""Selects, opens and verifies the runtime of an encoder.

`auto` takes the first runtime that is installed, supports the precision and passes the parity check. A runtime that is
requested by name is used or is an error.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from loid_infer.artifact import versions
from loid_infer.encoders import onnxruntime, openvino, tensorrt, torch
from loid_infer.encoders.fake import FakeRuntime
from loid_infer.encoders.folder import EncoderFolder, Probes
from loid_infer.encoders.gpu import driver
from loid_infer.encoders.machine import Answer, recall, remember
from loid_infer.encoders.manifest import Parity, gate
from loid_infer.encoders.processor import model, n_usable_threads
from loid_infer.encoders.protocol import Backend, Runtime
from loid_infer.encoders.schedule import MAX_BATCH_TOKENS, padded, token_batches, widths
from loid_infer.errors import BadSetting, NoMemory, ParityError, RuntimeMissing
from loid_infer.kernels.cosine import row_cosines
from loid_infer.settings import check_choice, check_number, machine_memory
from loid_infer.types import Array, Ints, Progress, TokenBatch

DEVICES = ("auto", "cpu", "cuda")
_N_MIXED = 8  # probes of different lengths in one batch
_MAX_WIDTH = 1024  # of those that are all tried; beyond, a pass takes seconds
_MAX_NORM_CHANGE = 0.1  # of the median norm; int8 changes it most, by a few percent


def backends() -> tuple[Backend, ...]:
    """All runtimes, the fastest on a CPU first; on a GPU the order is reversed."""
    return openvino.backend(), onnxruntime.backend(), tensorrt.backend(), torch.backend()


def able(device: str, precision: str) -> list[Backend]:
    """The runtimes that support `precision` on `device` (cpu | cuda), installed or not, fastest first."""
    supporting = [backend for backend in backends() if backend.computes(device, precision)]
    return supporting if device == "cpu" else supporting[::-1]


def open_runtime(
    encoder: EncoderFolder,
    *,
    runtime: str,
    device: str,
    n_threads: int | None,
    n_streams: int | None = None,
    progress: Progress,
) -> Runtime:
    """A runtime of `encoder`, verified on its parity probes.

    Args:
        runtime: `auto`, the name of one of `backends`, or `fake`.
        device: one of DEVICES; `auto` takes CUDA if torch sees a GPU.
        n_threads: CPU threads; None: all processors that this process may use.
        n_streams: batches that OpenVINO computes at once; None: what is fastest here.

    Raises:
        BadSetting: no such runtime or device, or another runtime than OpenVINO with `n_streams`.
        RuntimeMissing: the request cannot be satisfied here, or with this precision.
        NoMemory: the GPU has too little memory.
        ParityError: the vectors are not those of the encoder.
    """
    check_options(runtime, device)
    n_threads = n_threads or n_usable_threads()
    if n_streams is not None:
        check_number("--streams", n_streams, 1, n_threads)
        if runtime not in ("auto", "openvino") or device == "cuda":
            raise BadSetting("only OpenVINO on a CPU has streams", where="--streams", fix="Omit it.")
        runtime = "openvino"
    if runtime == "fake":
        return FakeRuntime(encoder.spec.dim)
    precision = encoder.spec.precision
    device = _device(runtime, device, precision)
    if runtime != "auto":
        return _verified(load(runtime, encoder, device, n_threads, n_streams), encoder)
    candidates = able(device, precision)
    reasons = [] if candidates else [f"no runtime supports it on {device}"]
    for backend in candidates:
        if not backend.installed:
            reasons.append(f"{backend.name} is not installed")
            continue
        try:
            opened = _verified(backend.open(encoder, device, n_threads, None), encoder)
        except (RuntimeMissing, ParityError, NoMemory) as error:
            reasons.append(str(error))
            continue
        reasons.append("the fastest that passes the parity check")
        progress.say(f"runtime: {backend.name} ({opened.detail}): {'; '.join(reasons)}")
        return opened
    raise _no_runtime(encoder, "; ".join(reasons))


def load(name: str, encoder: EncoderFolder, device: str, n_threads: int, n_streams: int | None = None) -> Runtime:
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
        alternatives = [backend.name for backend in able(device, precision)]
        alternatives += [f"--device {other}"] if backend.computes(other, precision) else []
        export = "" if precision == "fp32" else ", or run `loid-infer export --precision fp32`"
        raise RuntimeMissing(
            f"{name} does not compute {precision} on {device}",
            where=encoder.name,
            expected=" or ".join(alternatives),
            fix=f"Use --runtime auto{export}.",
        )
    return backend.open(encoder, device, n_threads, n_streams)


def measure_runtimes(encoder: EncoderFolder, probes: Probes | None = None) -> Iterator[tuple[str, Parity]]:
    """The parity of torch on a GPU, if there is one, and of every installed runtime that supports the precision on the
    CPU, fastest first. Runtimes are opened one by one, as the iterator is consumed.

    Args:
        probes: instead of the encoder's own, which are run in every width.

    Raises:
        RuntimeMissing: there is no such runtime.
    """
    precision = encoder.spec.precision
    targets = {backend.name: (backend.name, "cpu") for backend in able("cpu", precision)}
    if torch.backend().computes("cuda", precision) and torch_device("auto") == "cuda":
        targets = {"torch on cuda": ("torch", "cuda")} | targets
    reasons = []
    for name, (runtime, device) in targets.items():
        try:
            opened = load(runtime, encoder, device, n_usable_threads())
        except RuntimeMissing as error:
            reasons.append(str(error))
            continue
        if probes is not None:
            yield name, measure(opened, probes)
            continue
        parity = measure(opened, encoder.probes(), encoder.spec.max_tokens)
        if parity.passes(precision):
            remember(_proof(opened, encoder), Answer(proven=True), machine_memory())
        yield name, parity
    if len(reasons) == len(targets):
        raise _no_runtime(encoder, "; ".join(reasons))


def measure(runtime: Runtime, probes: Probes, max_tokens: int | None = None) -> Parity:
    """Run the probes in batches by length, and some of mixed lengths in one batch, and compare.

    A text without a vector has cosine -1, and so have all texts if the norms are wrong.

    Args:
        max_tokens: also run a probe in each width that the schedule gives texts of up to `max_tokens`: a runtime may
            be wrong in a single one.

    Raises:
        ParityError: the vectors have another shape than the reference.
    """
    worst: Array = np.ones(len(probes.lengths))
    computed: Array = np.zeros(len(worst), np.bool_)
    norm_ratios: Array = np.ones(len(worst))  # a cosine does not show a missing normalization
    max_abs = 0.0
    every = widths(max_tokens, runtime.tile) if max_tokens else np.zeros(0, np.int64)
    for slots, vectors in runtime.run(_batches(probes, every)):
        expected = probes.cls[slots]
        if vectors.shape != expected.shape:
            raise ParityError(
                f"{runtime.name} computes vectors of another shape than the encoder's",
                expected=str(expected.shape),
                got=str(vectors.shape),
                fix=f"Update or uninstall {runtime.name}, then export the encoder again.",
            )
        cosines = np.nan_to_num(row_cosines(vectors, expected), nan=-1.0)
        worst[slots] = np.minimum(worst[slots], cosines)
        norms = np.maximum(np.linalg.norm(expected, axis=1), 1e-30)
        norm_ratios[slots] = np.linalg.norm(vectors, axis=1) / norms
        computed[slots] = True
        max_abs = max(max_abs, float(np.abs(vectors - expected).max()))
    worst[~computed] = -1.0
    if not abs(np.median(norm_ratios) - 1) <= _MAX_NORM_CHANGE:  # true for NaN
        worst[:] = -1.0
    return Parity(float(worst.min()), float(worst.mean()), max_abs, len(worst))


def _batches(probes: Probes, every: Ints) -> Iterator[TokenBatch]:
    slots, longest = np.arange(len(probes.lengths)), int(probes.lengths.max())
    yield from token_batches(slots, probes.flat_ids, probes.lengths, MAX_BATCH_TOKENS, longest)
    # The longest and the shortest in one batch: shows a runtime that ignores the mask.
    by_length = np.argsort(probes.lengths, kind="stable")
    mixed = np.concatenate([by_length[: _N_MIXED // 2], by_length[-_N_MIXED // 2 :]])
    starts = np.cumsum(probes.lengths) - probes.lengths
    yield padded(mixed, probes.flat_ids, starts[mixed], probes.lengths[mixed], longest)
    for width in every[(every <= _MAX_WIDTH) | (every == every[-1:])].tolist():
        fitting = by_length[probes.lengths[by_length] <= width][-1:]  # the longest
        if fitting.size:
            yield padded(fitting, probes.flat_ids, starts[fitting], probes.lengths[fitting], width)


def _no_runtime(encoder: EncoderFolder, reasons: str) -> RuntimeMissing:
    return RuntimeMissing(
        f"no runtime can compute {encoder.spec.precision} here",
        where=encoder.name,
        got=reasons,
        fix="Run `loid-infer doctor` to see what is missing.",
    )


def _proof(opened: Runtime, encoder: EncoderFolder) -> str:
    """The key of the measurement that a runtime has passed in every width."""
    packages = versions(opened.name, f"{opened.name}-gpu").items()
    return f"proof of {encoder.fingerprint} on {model()}, {opened.detail}, {', '.join(map(' '.join, packages))}"


def _verified(opened: Runtime, encoder: EncoderFolder) -> Runtime:
    """The runtime, if it passes on the probes; in every width once per encoder, processor and version."""
    key, memory = _proof(opened, encoder), machine_memory()
    is_known = recall(key, memory).proven
    precision, max_tokens = encoder.spec.precision, None if is_known else encoder.spec.max_tokens
    parity = measure(opened, encoder.probes(), max_tokens)
    if parity.passes(precision):
        if not is_known:
            remember(key, Answer(proven=True), memory)
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
    check_choice("runtime", runtime, ("auto", *(backend.name for backend in backends()), "fake"))
    check_choice("device", device, DEVICES)
