"""`export`: an encoder's weights as a folder that any runtime can open and prove itself on.

The verb ties base, plugins and calibration together; `graphs.making` makes the folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from loid_infer.encoder import Encoder
from loid_infer.encoders.folder import EncoderFolder, open_folder
from loid_infer.encoders.gpu import tensorrt_lacks
from loid_infer.encoders.manifest import Int8Report, Parity
from loid_infer.encoders.onnxruntime import GPU_BATCH_TOKENS
from loid_infer.encoders.opening import open_runtime
from loid_infer.encoders.processor import n_usable_threads
from loid_infer.encoders.tensorrt import Profile, backend, profiles
from loid_infer.errors import BadSetting, LoidError
from loid_infer.graphs.bases import Base, load_base
from loid_infer.graphs.making import PRECISIONS, STORE_DTYPES, Proven, make_encoder, report
from loid_infer.graphs.quantize import quantize
from loid_infer.plugins.stack import Stack, stack_plugins
from loid_infer.settings import DEFAULT_BASE, DEFAULT_ENCODER, Place, Workspace
from loid_infer.types import SILENT, Progress
from loid_infer.verbs.calibrate import Calibration, open_calibration


@dataclass(frozen=True, slots=True)
class TensorRtReport:
    """What TensorRT's engines are built for, and whether they are."""

    profiles: tuple[Profile, ...]
    ready: bool
    missing: str  # why not; empty if they are


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A finished export."""

    encoder: str
    path: str
    plugins: tuple[str, ...]  # folded in, with those they were trained on, in digest order
    fingerprint: str
    architecture: str
    pooling: str
    normalize: bool
    precision: str
    precision_reason: str
    max_tokens: int
    parity: Parity  # of the runtime that `auto` takes on the machine that exported
    int8: Int8Report | None  # of an int8 export
    tensorrt: TensorRtReport | None  # where it was asked for
    seconds: float


def export(
    name: str | None = None,
    *,
    base: str = DEFAULT_BASE,
    plugins: Sequence[str] = (),
    pooling: str = "auto",
    normalize: bool | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    precision: str = "auto",
    calibrate_on: str | None = None,
    store: str = "fp16",
    max_tokens: int | None = None,
    tensorrt: bool = False,
    workspace: Place = None,
    progress: Progress = SILENT,
) -> ExportResult:
    """Write `exports/encoders/<name>/`.

    Args:
        name: of the encoder; the last plugin's if not given, else `base`.
        base: `default`, a folder of Hugging Face or sentence-transformers, a GGUF file, or a hub name.
        plugins: what is added to it, each with all that it was trained on; folded once, in float32.
        pooling: auto | cls | mean | last, of the last layer; auto is what a sentence-transformers folder says, else
            CLS of an encoder and the last token of a decoder or T5. The default base is read at CLS.
        normalize, prompt, prompt_name: unit length, and what is put before every text, by itself or by the name that a
            folder gives it; by default as the folder says.
        precision: fp32, bf16, fp16, int8, or auto: fp16 where there is a GPU, bf16 where the processor has it
            natively, and fp32 elsewhere or where parity fails.
        calibrate_on: for int8, the domain whose reviews decide the scales and on which a head must not notice.
        store: dtype of the stored vectors, fp16 or fp32.
        max_tokens: longest input, with special tokens; longer texts are cut on the right. By default what a
            sentence-transformers folder says, else 256 at most.
        tensorrt: also settle the shapes that TensorRT's engines are built for, and build them where it can run.

    Raises:
        BadSetting: an option outside its range, too few texts to calibrate on, or a plugin that is there twice or
            belongs to another base.
        BadTable: `calibrate_on` has no table.
        BadArtifact, RuntimeMissing: the base cannot be had or is of no family we compute, or a plugin cannot be read.
        ParityError: no installed runtime computes the reference's vectors, or int8 misses a gate; nothing is written.
        NoSpace: the disk is full or the folder not writable.
    """
    start, place = time.perf_counter(), Workspace.of(workspace)
    _check("precision", precision, PRECISIONS)
    _check("store", store, STORE_DTYPES)
    name = name or (plugins[-1] if plugins else DEFAULT_ENCODER)
    path, calibration = place.encoder(name), open_calibration(place, precision, calibrate_on)
    progress.say(f"exporting encoder {name!r} from {base!r} ...")
    source = load_base(base, pooling, normalize=normalize, prompt=prompt, prompt_name=prompt_name)
    stacked, stack = _stacked(source, place, plugins)
    int8 = partial(_quantized, stacked, calibration, progress) if calibration else None
    proven = make_encoder(
        path, stacked, precision=precision, progress=progress, store=store, max_tokens=max_tokens,
        weights=stack.base_digest, plugins=stack.described(), quantize=int8,
    )  # fmt: skip
    made = open_folder(path, name)
    engines = _prepared(made, progress) if tensorrt else None
    return _result(made, proven, stack, engines, time.perf_counter() - start)


def _result(
    made: EncoderFolder, proven: Proven, stack: Stack, tensorrt: TensorRtReport | None, seconds: float
) -> ExportResult:
    spec = made.spec
    return ExportResult(
        encoder=made.name, path=str(made.path), plugins=tuple(plugin.name for plugin in stack.chain),
        fingerprint=made.fingerprint, architecture=spec.architecture, pooling=spec.pooling, normalize=spec.normalize,
        precision=spec.precision, precision_reason=proven.precision_reason, max_tokens=spec.max_tokens,
        parity=proven.parity.runtimes[proven.parity.runtime], int8=proven.int8,
        tensorrt=tensorrt, seconds=seconds,
    )  # fmt: skip


def _stacked(source: Base, place: Workspace, plugins: Sequence[str]) -> tuple[Base, Stack]:
    """The base with plugins: folded in the tensors we export, beside the weights in the module we are held against."""
    stack = stack_plugins(place, plugins, source.name, source.tokenizer_digest(), source.arrays(), source.family.uses)
    if not stack.chain:
        return source, stack
    import torch

    from loid_infer.plugins.reference import unmerged

    tensors = {name: torch.from_numpy(tensor) for name, tensor in stack.tensors.items()}
    return replace(source, tensors=tensors, model=unmerged(source.model, stack.chain)), stack


def _prepared(encoder: EncoderFolder, progress: Progress) -> TensorRtReport:
    """The profiles of a finished export; its engines are built by opening it, which proves them too."""
    shapes = profiles(encoder.spec.max_tokens, GPU_BATCH_TOKENS)
    widths = ", ".join(str(shape.max_tokens) for shape in shapes)
    progress.say(f"TensorRT: {len(shapes)} engines, for texts of up to {widths} tokens")
    able = backend().precisions["cuda"]
    missing = "" if encoder.spec.precision in able else f"it computes {' and '.join(able)} (--precision)"
    missing = missing or tensorrt_lacks()
    if not missing:
        try:
            open_runtime(encoder, runtime="tensorrt", device="cuda", n_threads=None, progress=progress)
        except LoidError as error:  # the export itself is finished
            missing = str(error)
    progress.say(f"TensorRT cannot run here: {missing}" if missing else "TensorRT's engines are built and proven")
    return TensorRtReport(shapes, not missing, missing)


def _quantized(base: Base, calibration: Calibration, progress: Progress, float32: EncoderFolder) -> Proven:
    """An int8 graph in the place of the float one: proven on held-out texts, on the probes, and to a head."""
    from loid_infer.architectures.transformer import Transformer
    from loid_infer.encoders.torch import TorchRuntime

    module, domain = Transformer(float32.spec, base.tensors), calibration.table.domain
    exact = Encoder(float32.spec, lambda: (float32.tokenizer(), TorchRuntime(module, "fp32", n_usable_threads())))
    vectors = calibration.vectors(_unfinished(float32), progress)
    progress.say(f"calibrating int8 on {domain!r} ...")
    int8, choice = quantize(float32, module, exact.encode, calibration.texts())
    progress.say(f"int8 on texts held out: mean cosine {choice.cos_mean:.6f}, alpha {choice.alpha}")
    parity = report(int8, progress)
    head = calibration.head_gate(vectors, calibration.vectors(_unfinished(int8), progress), int8.name, progress)
    return Proven(int8.spec, "asked for", parity, Int8Report(domain, calibration.table.digest, choice, head))


def _unfinished(folder: EncoderFolder) -> Encoder:
    """The encoder in a folder that has no manifest yet, on the CPU."""
    return Encoder(folder.spec, lambda: (folder.tokenizer(), open_runtime(
        folder, runtime="auto", device="cpu", n_threads=None, progress=SILENT)))  # fmt: skip


def _check(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BadSetting(
            f"there is no {option} {value!r}", expected=" | ".join(known), mend="See `loid-infer export --help`."
        )
