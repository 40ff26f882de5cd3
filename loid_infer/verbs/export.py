"""`export`: an encoder's weights as a folder that any runtime can open and prove itself on.

The folder is finished only when a runtime of its precision computes the reference's vectors.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loid_infer.artifact import new_folder, versions
from loid_infer.encoders.card import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, fingerprint, make_card, tokenizer_digest
from loid_infer.encoders.folder import GRAPH_FILE, KIND, PROBES_FILE, EncoderFolder, open_folder
from loid_infer.encoders.gpu import tensorrt_lacks
from loid_infer.encoders.loading import PREFERENCE
from loid_infer.encoders.onnxruntime import CARD_BATCH_TOKENS
from loid_infer.encoders.opening import measure_runtimes, open_runtime, torch_device
from loid_infer.encoders.processor import has_bf16
from loid_infer.encoders.proof import gate
from loid_infer.encoders.tensorrt import Profile, profiles
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.errors import BadSetting, LoidError, ParityError
from loid_infer.graphs.quantize import Quantization
from loid_infer.plugins.stack import Stack, stack_plugins
from loid_infer.settings import DEFAULT_BASE, DEFAULT_ENCODER, Place, Workspace
from loid_infer.store.records import FORMAT
from loid_infer.types import SILENT, Card, Progress
from loid_infer.verbs.calibrate import Calibration, HeadGate, open_calibration

if TYPE_CHECKING:
    from loid_infer.graphs.bases import Base

PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
STORE_DTYPES = ("fp16", "fp32")
_PACKAGES = ("torch", "transformers", "tokenizers", "onnx", "openvino", "onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The parity of the runtime that `auto` takes on the machine that exported."""

    cos_min: float
    cos_mean: float
    max_abs: float
    n_texts: int


@dataclass(frozen=True, slots=True)
class Int8Report:
    """What int8 was calibrated on, chosen and found to cost."""

    calibrated_on: str
    table_digest: str
    choice: Quantization
    head: HeadGate


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
    precision: str
    precision_reason: str
    max_tokens: int
    parity: ParityReport
    int8: Int8Report | None  # of an int8 export
    tensorrt: TensorRtReport | None  # where it was asked for
    seconds: float


def export(
    name: str | None = None,
    *,
    base: str = DEFAULT_BASE,
    plugins: Sequence[str] = (),
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
        base: `default`, a folder with a Hugging Face BERT, or a hub name.
        plugins: what is added to it, each with all that it was trained on; folded once, in float32.
        precision: fp32, bf16, fp16, int8, or auto: fp16 where there is a card, bf16 where the processor has it
            natively, and fp32 elsewhere or where parity fails.
        calibrate_on: for int8, the domain whose reviews decide the scales and on which a head must not notice.
        store: dtype of the stored vectors, fp16 or fp32.
        max_tokens: longest input, with [CLS] and [SEP]; longer texts are cut on the right. By default 256 at most.
        tensorrt: also settle the shapes that TensorRT's engines are built for, and build them where it can run.

    Raises:
        BadSetting: an option outside its range, int8 without enough texts to calibrate on, or a plugin that is there
            twice or belongs to another base.
        BadTable: `calibrate_on` has no table.
        BadArtifact, RuntimeMissing: the base cannot be had or is not a BERT we compute, or a plugin cannot be read.
        ParityError: no installed runtime computes the reference's vectors, or int8 misses a gate; nothing is written.
        NoSpace: the disk is full or the folder not writable.
    """
    from loid_infer.graphs.bases import load_base

    start, place = time.perf_counter(), Workspace.of(workspace)
    _check("precision", precision, PRECISIONS)
    _check("store", store, STORE_DTYPES)
    name = name or (plugins[-1] if plugins else DEFAULT_ENCODER)
    path = place.encoder(name)
    calibration = open_calibration(place, precision, calibrate_on)
    progress.say(f"exporting encoder {name!r} from {base!r} ...")
    source, stack = _stacked(load_base(base), place, plugins)
    max_tokens = source.max_tokens(max_tokens)
    origin = {"base": {"name": source.name, "digest": stack.base_digest}, "plugins": stack.described()}
    manifest: dict[str, Any] = {"kind": KIND, "name": name, "versions": versions(*_PACKAGES), **origin}
    with new_folder(path, manifest) as folder:
        card = _fill(folder, source, stack.digest, max_tokens, store)
        float32 = EncoderFolder(name, folder, card, fingerprint(card), {})
        proven = (_quantize(float32, source.tensors, calibration, progress) if calibration else
                  _prove(float32, precision, progress))  # fmt: skip
        manifest |= asdict(proven) | {"fingerprint": fingerprint(proven.card)}
    return ExportResult(
        encoder=name, path=str(path), plugins=tuple(plugin.name for plugin in stack.chain),
        fingerprint=manifest["fingerprint"], precision=proven.card.precision, precision_reason=proven.precision_reason,
        max_tokens=max_tokens, parity=proven.best(), int8=proven.int8,
        tensorrt=_prepared(place, name, progress) if tensorrt else None, seconds=time.perf_counter() - start,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Proven:
    """What a finished export's manifest says of its precision."""

    card: Card
    precision_reason: str
    parity: dict[str, Any]
    int8: Int8Report | None = None

    def best(self) -> ParityReport:
        """Of the runtime that `auto` takes."""
        return ParityReport(*(self.parity[field] for field in ParityReport.__slots__))


def _stacked(source: Base, place: Workspace, plugins: Sequence[str]) -> tuple[Base, Stack]:
    """The base with plugins: folded in the tensors we export, beside the weights in the module we are held against."""
    stack = stack_plugins(place, plugins, source.name, source.tokenizer_digest(), source.arrays())
    if not stack.chain:
        return source, stack
    import torch

    from loid_infer.plugins.reference import unmerged

    tensors = {name: torch.from_numpy(tensor) for name, tensor in stack.tensors.items()}
    return replace(source, tensors=tensors, model=unmerged(source.model, stack.chain)), stack


def _fill(folder: Path, source: Base, weights: str, max_tokens: int, store: str) -> Card:
    """Write everything but the manifest; the card is that of float32."""
    from safetensors.torch import save_file

    from loid_infer.graphs.bases import copy_tokenizer
    from loid_infer.graphs.graph import check_graph, write_graph
    from loid_infer.graphs.parity import make_probes

    copy_tokenizer(source, folder)
    (folder / CONFIG_FILE).write_text(json.dumps(source.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(source.tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    card = make_card(
        source.config,
        weights=weights,
        tokenizer=tokenizer_digest(folder / TOKENIZER_FILE),
        max_tokens=max_tokens,
        precision="fp32",
        store_dtype=store,
        store_format=FORMAT,
    )
    write_graph(card, source.tensors, folder / GRAPH_FILE)
    check_graph(folder / GRAPH_FILE)
    make_probes(source, Tokenizer(folder / TOKENIZER_FILE, max_tokens), folder, max_tokens).save(folder / PROBES_FILE)
    return card


def _prove(float32: EncoderFolder, precision: str, progress: Progress) -> _Proven:
    """The precision asked for; for `auto` the one that is native here if it passes, else fp32."""
    graph = _report(float32, progress)  # always: the graph must be right in float32 before any precision is
    wanted, reason = (precision, "asked for") if precision != "auto" else _native()
    if wanted == "fp32":
        return _Proven(float32.card, reason, graph)
    card = replace(float32.card, precision=wanted)
    try:
        return _Proven(card, reason, _report(replace(float32, card=card, fingerprint=fingerprint(card)), progress))
    except ParityError as error:
        if precision != "auto":
            raise
        progress.say(f"{error} Taking fp32.")
        return _Proven(float32.card, f"{wanted} missed its gate: {error.got}", graph)


def _native() -> tuple[str, str]:
    """What this machine computes fastest in, and why."""
    if torch_device("auto") == "cuda":
        return "fp16", "native on this card, and nearer to float32 than bf16"
    return ("bf16", "native on this processor") if has_bf16() else ("fp32", "the processor has no native bf16")


def _prepared(place: Workspace, name: str, progress: Progress) -> TensorRtReport:
    """The profiles of a finished export; its engines are built by opening it, which proves them too."""
    encoder = open_folder(place.encoder(name), name)
    shapes = profiles(encoder.card.max_tokens, CARD_BATCH_TOKENS)
    widths = ", ".join(str(shape.max_tokens) for shape in shapes)
    progress.say(f"TensorRT: {len(shapes)} engines, for texts of up to {widths} tokens")
    able = [precision for precision, names in PREFERENCE["cuda"].items() if "tensorrt" in names]
    missing = "" if encoder.card.precision in able else f"it computes {' and '.join(able)} (--precision)"
    missing = missing or tensorrt_lacks()
    if not missing:
        try:
            open_runtime(encoder, runtime="tensorrt", device="cuda", n_threads=None, progress=progress)
        except LoidError as error:  # the export itself is finished
            missing = str(error)
    progress.say(f"TensorRT cannot run here: {missing}" if missing else "TensorRT's engines are built and proven")
    return TensorRtReport(shapes, not missing, missing)


def _quantize(float32: EncoderFolder, tensors: Any, calibration: Calibration, progress: Progress) -> _Proven:
    """An int8 graph in the place of the float one: proven on held-out texts, on the probes, and to a head."""
    from loid_infer.encoders.torch import ClsBert
    from loid_infer.graphs.quantize import quantize

    _report(float32, progress)
    exact = calibration.vectors(float32, progress)
    domain = calibration.table.domain
    progress.say(f"calibrating int8 on {domain!r} ...")
    int8, choice = quantize(float32, ClsBert(float32.card, tensors), calibration.texts())
    progress.say(f"int8 on texts held out: mean cosine {choice.cos_mean:.6f}, alpha {choice.alpha}")
    parity = _report(int8, progress)
    head = calibration.head_gate(exact, calibration.vectors(int8, progress), int8.name, progress)
    return _Proven(int8.card, "asked for", parity, Int8Report(domain, calibration.table.digest, choice, head))


def _report(encoder: EncoderFolder, progress: Progress) -> dict[str, Any]:
    """The parity of every installed runtime in the encoder's precision.

    Raises:
        ParityError: one of them misses the gate.
    """
    precision, found = encoder.card.precision, dict(measure_runtimes(encoder))
    for runtime, parity in found.items():
        progress.say(
            f"parity of {runtime} in {precision}: cosine >= {parity.cos_min:.6f}, "
            f"mean {parity.cos_mean:.6f}, on {parity.n_texts} texts"
        )
        if not parity.passes(precision):
            raise ParityError(
                f"{runtime} does not compute the reference's vectors in {precision}",
                where=encoder.name,
                expected=f"{gate(precision)}, over {parity.n_texts} probes",
                got=f"{parity.cosine(precision):.6f}",
                mend="Try --precision fp32, and see `loid-infer doctor`. Nothing was written.",
            )
    fastest, parity = next(iter(found.items()))
    return {
        **asdict(parity),
        "passed": True,
        "gate": gate(precision),
        "runtime": fastest,
        "runtimes": {runtime: asdict(parity) for runtime, parity in found.items()},
    }


def _check(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BadSetting(
            f"there is no {option} {value!r}", expected=" | ".join(known), mend="See `loid-infer export --help`."
        )
