"""Writes the folder of an encoder, after all installed runtimes have reproduced the reference vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from msgspec import structs

from loid_infer.artifact import new_folder, versions, write_manifest
from loid_infer.encoders.folder import DENSE_FILE, GRAPH_FILE, PROBES_FILE, EncoderFolder
from loid_infer.encoders.graph import checked
from loid_infer.encoders.manifest import EncoderManifest, FoldedPlugin, Int8Report, ParityReport, gate
from loid_infer.encoders.opening import measure_runtimes, torch_device
from loid_infer.encoders.processor import has_bf16
from loid_infer.encoders.spec import CONFIG_FILE, WEIGHTS_FILE, fingerprint
from loid_infer.errors import ParityError
from loid_infer.graphs.bases import Base, copy_tokenizer
from loid_infer.graphs.graph import write_graph
from loid_infer.graphs.parity import make_probes, unknown_scripts
from loid_infer.records import narrowed
from loid_infer.tensors import save_tensors
from loid_infer.types import NamedDigest, Progress, Spec

PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
STORE_DTYPES = ("fp16", "fp32")
_PACKAGES = ("torch", "transformers", "tokenizers", "onnx", "openvino", "onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True, slots=True)
class Verified:
    """Precision and parity of a finished export."""

    spec: Spec
    precision_reason: str
    parity: ParityReport
    int8: Int8Report | None = None  # of an int8 export


def make_encoder(
    path: Path,
    base: Base,
    *,
    precision: str,
    progress: Progress,
    store: str = "fp16",
    max_tokens: int | None = None,
    quantize: Callable[[EncoderFolder], Verified] | None = None,
    every_runtime: bool = True,
) -> Verified:
    """Write the encoder to the folder `path`, which has its name.

    Args:
        base: with plugins folded into its tensors, and unmerged in its transformers module.
        quantize: converts the float32 export to int8.
        every_runtime: prove the installed runtimes on the probes, in float32 and in the precision; or the fastest,
            which `auto` takes, in the precision only. A runtime is always proven again when it is opened.

    Raises:
        BadSetting: `max_tokens` is out of range.
        ParityError: a runtime does not reproduce the reference vectors; nothing is written.
        RuntimeMissing: no runtime is installed.
        NoSpace: the disk is full or the folder not writable.
    """
    name, max_tokens = path.name, base.max_tokens(max_tokens)
    spec = base.spec(base.digest, max_tokens, store_dtype=store)
    if base.made_for not in ("", base.reading.pooling):
        progress.say(
            f"{base.name} was made for {base.made_for} pooling and is exported with {base.reading.pooling}; "
            f"--pooling {base.made_for} exports it as it was made"
        )
    named, chain = NamedDigest(base.name, base.base_digest), base.chain
    with new_folder(path) as folder:
        _fill(folder, base, spec, progress)
        del base  # as large as what a runtime makes of it
        float32 = EncoderFolder(name, folder, spec, fingerprint(spec))
        prove = partial(report, progress=progress, every_runtime=every_runtime)
        # The float32 graph is checked first, whatever the precision, except for a first use.
        parity = prove(float32) if every_runtime else None
        if quantize:
            write_graph(spec, float32.tensors(), float32.graph, reduced=True)
            proven = quantize(float32)
        else:
            proven = _choose_precision(float32, parity, precision, prove, progress)
        manifest = EncoderManifest(
            name=name,
            fingerprint=fingerprint(proven.spec),
            card=proven.spec,
            base=named,
            parity=proven.parity,
            plugins=tuple(narrowed(plugin.manifest, FoldedPlugin) for plugin in chain),
            precision_reason=proven.precision_reason,
            int8=proven.int8,
            versions=versions(*_PACKAGES),
        )
        write_manifest(folder, manifest)
    return proven


def _fill(folder: Path, base: Base, spec: Spec, progress: Progress) -> None:
    """Write everything except the manifest."""
    copy_tokenizer(base, folder)
    (folder / CONFIG_FILE).write_text(json.dumps(base.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    dense = {name: tensor for name, tensor in base.tensors.items() if name.startswith("dense.")}
    model = {name: tensor for name, tensor in base.tensors.items() if name not in dense}
    save_tensors(folder / WEIGHTS_FILE, model, {"format": "pt"})
    if dense:
        save_tensors(folder / DENSE_FILE, dense)
    write_graph(spec, base.tensors, folder / GRAPH_FILE)
    checked(folder / GRAPH_FILE)
    tokenizer = EncoderFolder("", folder, spec, "").tokenizer()
    make_probes(base, tokenizer, folder, spec.max_tokens).save(folder / PROBES_FILE)
    if unknown := ", ".join(unknown_scripts(tokenizer)):
        progress.say(f"{base.name} does not know most of {unknown}: the vectors of such texts hardly differ")


def _choose_precision(
    float32: EncoderFolder,
    parity: ParityReport | None,
    precision: str,
    prove: Callable[[EncoderFolder], ParityReport],
    progress: Progress,
) -> Verified:
    """The requested precision; for `auto` the fastest one of this machine if it passes, else fp32."""
    if precision != "auto":
        chosen, reason = precision, "asked for"
    elif torch_device("auto") == "cuda":
        chosen, reason = "fp16", "native on this GPU, and nearer to float32 than bf16"
    elif has_bf16():
        chosen, reason = "bf16", "native on this processor"
    else:
        chosen, reason = "fp32", "the processor has no native bf16"
    if chosen != "fp32":
        spec = structs.replace(float32.spec, precision=chosen)
        other = replace(float32, spec=spec, fingerprint=fingerprint(spec))
        try:
            return Verified(spec, reason, _prove_fastest(other, prove, progress))
        except ParityError as error:
            if precision != "auto":
                raise
            progress.say(f"{error} Using fp32.")
            reason = f"{chosen} missed its gate: {error.got}"
    return Verified(float32.spec, reason, parity or prove(float32))


def _prove_fastest(
    encoder: EncoderFolder, prove: Callable[[EncoderFolder], ParityReport], progress: Progress
) -> ParityReport:
    """Prove the encoder with the graph that OpenVINO computes fastest, or else with the float32 one."""
    spec = encoder.spec
    if spec.precision != "bf16" or not has_bf16():
        return prove(encoder)
    write_graph(spec, encoder.tensors(), encoder.graph, reduced=True)
    try:
        return prove(encoder)
    except ParityError as error:
        progress.say(f"the graph for bf16 misses the gate with {error.got}: trying that of float32")
        write_graph(spec, encoder.tensors(), encoder.graph)
        return prove(encoder)


def report(encoder: EncoderFolder, progress: Progress, *, every_runtime: bool = True) -> ParityReport:
    """Measure the parity of the installed runtimes, or of the fastest.

    Raises:
        ParityError: a runtime misses the gate.
    """
    precision = encoder.spec.precision
    runtimes = dict(islice(measure_runtimes(encoder), None if every_runtime else 1))
    for runtime, parity in runtimes.items():
        progress.say(
            f"parity of {runtime} in {precision}: cosine >= {parity.cos_min:.6f}, "
            f"mean {parity.cos_mean:.6f}, on {parity.n_texts} texts"
        )
        if not parity.passes(precision):
            other = f"Update or uninstall {runtime}" if precision == "fp32" else "Try --precision fp32"
            raise ParityError(
                f"{runtime} does not reproduce the reference vectors in {precision}",
                where=encoder.name,
                expected=f"{gate(precision)}, over {parity.n_texts} probes",
                got=f"{parity.cosine(precision):.6f}",
                fix=f"{other}, and see `loid-infer doctor`. Nothing was written.",
            )
    fastest, parity = next(iter(runtimes.items()))
    return ParityReport(**structs.asdict(parity), passed=True, gate=gate(precision), runtime=fastest, runtimes=runtimes)
