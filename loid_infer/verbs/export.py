"""`export`: writes a base model, with plugins folded in, as an encoder for all runtimes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np

from loid_infer.data.reviews import ReviewTable, open_table
from loid_infer.encoder import Encoder
from loid_infer.encoders.folder import EncoderFolder, open_folder
from loid_infer.encoders.gpu import tensorrt_lacks
from loid_infer.encoders.manifest import HeadGate, Int8Report, Parity
from loid_infer.encoders.onnxruntime import GPU_BATCH_TOKENS
from loid_infer.encoders.opening import open_runtime
from loid_infer.encoders.processor import n_usable_threads
from loid_infer.encoders.tensorrt import Profile, backend, profiles
from loid_infer.errors import BadSetting, LoidError, ParityError
from loid_infer.graphs.bases import Base, fold_plugins, load_base
from loid_infer.graphs.making import PRECISIONS, STORE_DTYPES, Verified, make_encoder, report
from loid_infer.graphs.quantize import quantize
from loid_infer.heads.judge import judge_by_heads
from loid_infer.settings import DEFAULT_BASE, DEFAULT_ENCODER, Workspace, WorkspaceLike, check_choice
from loid_infer.types import SILENT, Floats, Interactions, Ints, Progress

_N_TEXTS = 512  # for calibration and for measuring
_MIN_TEXTS = 64
_MAX_REVIEWS = 12_000  # for the judge
MAX_CHANGE = 0.005  # relative increase of the head's test MSE with int8 vectors
Judge: TypeAlias = Callable[[Interactions, Floats, Floats, Progress], HeadGate]


@dataclass(frozen=True, slots=True)
class TensorRtReport:
    """The shapes of the TensorRT engines, and whether they have been built."""

    profiles: tuple[Profile, ...]
    ready: bool
    missing: str  # why not; empty if ready


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A finished export."""

    encoder: str
    path: str
    plugins: tuple[str, ...]  # folded plugins with those they were trained on, in digest order
    fingerprint: str
    architecture: str
    pooling: str
    normalize: bool
    precision: str
    precision_reason: str
    max_tokens: int
    parity: Parity  # of the runtime chosen by `auto` on this machine
    int8: Int8Report | None
    tensorrt: TensorRtReport | None
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
    judge: Judge = judge_by_heads,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> ExportResult:
    """Write `exports/encoders/<name>/`.

    Args:
        name: name of the encoder; by default that of the last plugin, else `base`.
        base: `default`, a Hugging Face or sentence-transformers folder, a GGUF file, or a hub name.
        plugins: plugins to fold into the base, each with the plugins it was trained on.
        pooling: auto | cls | mean | last. `auto` is what a sentence-transformers folder says, else CLS for encoders and
            the last token for decoders and T5. The default base has CLS pooling.
        normalize: whether to normalize vectors to unit length; by default as the folder says.
        prompt, prompt_name: prefix of every text, or its name in the folder; by default as the folder says.
        precision: fp32, bf16, fp16, int8, or auto: fp16 with a GPU, bf16 where the CPU has it natively, and fp32
            elsewhere or where parity fails.
        calibrate_on: for int8, the domain for calibration and for the judge.
        store: data type of the stored vectors, fp16 or fp32.
        max_tokens: maximum length with special tokens; longer texts are truncated on the right. By default what a
            sentence-transformers folder says, else at most 256.
        tensorrt: also choose the shapes of TensorRT engines, and build them if TensorRT can run here.
        judge: compares what can be learned from exact and from int8 vectors.

    Raises:
        BadSetting: an invalid option, too few texts for calibration, or a plugin that is given twice or belongs to
            another base.
        BadTable: `calibrate_on` has no table.
        BadArtifact, RuntimeMissing: the base or a plugin cannot be read, or the family is not supported.
        ParityError: no installed runtime reproduces the reference, or int8 fails its test; nothing is written.
        NoSpace: the disk is full or the folder not writable.
    """
    start, workspace = time.perf_counter(), Workspace.of(workspace)
    check_choice("precision", precision, PRECISIONS)
    check_choice("store", store, STORE_DTYPES)
    name = name or (plugins[-1] if plugins else DEFAULT_ENCODER)
    path, calibration = workspace.encoder(name), open_calibration(workspace, precision, calibrate_on)
    progress.say(f"exporting encoder {name!r} from {base!r} ...")
    source = load_base(base, pooling, normalize=normalize, prompt=prompt, prompt_name=prompt_name)
    combined = _with_plugins(source, workspace, plugins)
    for plugin in combined.chain:
        pooling_of = plugin.manifest.settings.get("pooling", source.reading.pooling)
        if pooling_of != source.reading.pooling:
            progress.say(
                f"plugin {plugin.name!r} was trained with {pooling_of} pooling and is exported with "
                f"{source.reading.pooling}: --pooling {pooling_of} exports it as it was trained"
            )
    int8 = partial(_quantize, combined, calibration, judge, progress) if calibration else None
    proven = make_encoder(
        path, combined, precision=precision, progress=progress, store=store, max_tokens=max_tokens, quantize=int8
    )
    folder = open_folder(path, name)
    engines = _build_engines(folder, progress) if tensorrt else None
    spec = folder.spec
    return ExportResult(
        encoder=folder.name,
        path=str(folder.path),
        plugins=tuple(plugin.name for plugin in folder.plugins),
        fingerprint=folder.fingerprint,
        architecture=spec.architecture,
        pooling=spec.pooling,
        normalize=spec.normalize,
        precision=spec.precision,
        precision_reason=proven.precision_reason,
        max_tokens=spec.max_tokens,
        parity=proven.parity.runtimes[proven.parity.runtime],
        int8=proven.int8,
        tensorrt=engines,
        seconds=time.perf_counter() - start,
    )


def _with_plugins(source: Base, workspace: Workspace, plugins: Sequence[str]) -> Base:
    """The base with plugins: folded in the exported tensors, unmerged in the reference module."""
    combined = fold_plugins(source, workspace, plugins)
    if not combined.chain:
        return source
    from loid_infer.plugins.reference import unmerged

    return replace(combined, model=unmerged(source.model, combined.chain))


def _build_engines(encoder: EncoderFolder, progress: Progress) -> TensorRtReport:
    """Choose the profiles of an export; opening it builds and tests the engines."""
    shapes = profiles(encoder.spec.max_tokens, GPU_BATCH_TOKENS)
    widths = ", ".join(str(shape.max_tokens) for shape in shapes)
    progress.say(f"TensorRT: {len(shapes)} engines, for texts of up to {widths} tokens")
    able = backend().precisions["cuda"]
    computes = f"it computes {' and '.join(able)} (--precision)"
    missing = tensorrt_lacks() if encoder.spec.precision in able else computes
    if not missing:
        try:
            open_runtime(encoder, runtime="tensorrt", device="cuda", n_threads=None, progress=progress)
        except LoidError as error:  # the export itself is finished
            missing = str(error)
    progress.say(f"TensorRT cannot run here: {missing}" if missing else "TensorRT engines are built and tested")
    return TensorRtReport(shapes, not missing, missing)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A domain for calibration and for the judge."""

    table: ReviewTable
    interactions: Interactions  # about _MAX_REVIEWS reviews: all reviews of sampled users
    rows: Ints  # [n_texts], a row of the table for each text of `interactions`
    drawn: Ints  # ascending rows of different texts of the table, for calibration

    def texts(self) -> list[str]:
        """The texts for calibration."""
        return [text for _, texts in self.table.texts(self.drawn) for text in texts]

    def vectors(self, encoder: Encoder, progress: Progress) -> Floats:
        """The vectors of `interactions` as a store would contain them, `[n_texts, d]`."""
        spec = encoder.spec
        vectors = np.empty((len(self.rows), spec.dim), np.float16 if spec.store_dtype == "fp16" else np.float32)
        order = np.argsort(self.rows)
        ordered = self.rows[order]
        with progress.task(f"encode {spec.precision}", len(order), "texts") as task:
            for rows, part in encoder.stream(self.table.texts(ordered)):
                vectors[order[np.searchsorted(ordered, rows)]] = part
                task.advance(len(rows))
        return vectors


def open_calibration(workspace: Workspace, precision: str, domain: str | None) -> Calibration | None:
    """The calibration domain if `precision` is int8, else None.

    Raises:
        BadSetting: int8 without a domain, a domain without int8, or a domain with too few texts.
        BadTable: the domain has no table.
    """
    if precision != "int8":
        if domain is None:
            return None
        got, fix = f"--calibrate-on with --precision {precision}", "Give --precision int8, or omit --calibrate-on."
        raise BadSetting("only int8 is calibrated", got=got, fix=fix)
    if domain is None:
        raise BadSetting("int8 needs a calibration domain", fix="Give --calibrate-on DOMAIN, an ingested domain.")
    table = open_table(workspace.table(domain), domain)
    interactions = table.interactions(SILENT)
    if len(interactions.digests) < _MIN_TEXTS:
        expected, got = f"at least {_MIN_TEXTS} different texts", str(len(interactions.digests))
        fix = "Calibrate on a larger domain, or export with --precision bf16 or fp32."
        raise BadSetting("too few texts to calibrate on", where=domain, expected=expected, got=got, fix=fix)
    unique = np.unique(interactions.texts, return_index=True)[1]
    drawn = np.sort(np.random.default_rng(0).permutation(unique)[:_N_TEXTS])
    chosen = _rows_of_sampled_users(interactions)
    codes, first, texts = np.unique(interactions.texts[chosen], return_index=True, return_inverse=True)
    of_reviews = {name: getattr(interactions, name)[chosen] for name in ("users", "items", "ratings", "timestamps")}
    of_texts = {name: getattr(interactions, name)[codes] for name in ("digests", "empty")}
    part = replace(interactions, **of_reviews, **of_texts, texts=texts)
    return Calibration(table, part, chosen[first], drawn)


def _rows_of_sampled_users(interactions: Interactions) -> Ints:
    """Ascending rows of all reviews of sampled users, about `_MAX_REVIEWS`."""
    n_reviews = np.bincount(interactions.users, minlength=len(interactions.user_ids))
    users = np.random.default_rng(0).permutation(len(n_reviews))
    drawn = users[: int(np.searchsorted(np.cumsum(n_reviews[users]), _MAX_REVIEWS)) + 1]
    return np.flatnonzero(np.isin(interactions.users, drawn))


def _quantize(
    base: Base, calibration: Calibration, judge: Judge, progress: Progress, float32: EncoderFolder
) -> Verified:
    """Replace the float32 graph by an int8 one, and test it on held-out texts, on the probes, and with the judge."""
    from loid_infer.architectures.folding import with_folded_norms
    from loid_infer.encoders.torch import TorchRuntime

    module, domain = with_folded_norms(float32.spec, base.tensors), calibration.table.domain
    exact = Encoder(float32.spec, lambda: (float32.tokenizer(), TorchRuntime(module, "fp32", n_usable_threads())))
    vectors = calibration.vectors(_encoder_of(float32), progress)
    progress.say(f"calibrating int8 on {domain!r} ...")
    int8, choice = quantize(float32, module, exact.encode, calibration.texts())
    progress.say(f"int8 on held-out texts: mean cosine {choice.cos_mean:.6f}, alpha {choice.alpha}")
    parity = report(int8, progress)
    verdict = judge(calibration.interactions, vectors, calibration.vectors(_encoder_of(int8), progress), progress)
    progress.say(f"head MSE with int8 vectors: {verdict.change:+.2%} from float32, mean of {verdict.n_seeds} splits")
    if not verdict.change <= MAX_CHANGE:  # also for NaN
        what, got = "int8 vectors increase the error of the head too much", f"{verdict.change:+.2%}"
        expected = f"test MSE at most {MAX_CHANGE:.1%} above that of float32, mean of {verdict.n_seeds} splits"
        fix = "Export with --precision bf16 or fp32. Nothing was written."
        raise ParityError(what, where=int8.name, expected=expected, got=got, fix=fix)
    return Verified(int8.spec, "asked for", parity, Int8Report(domain, calibration.table.digest, choice, verdict))


def _encoder_of(folder: EncoderFolder) -> Encoder:
    """The encoder of a folder without a manifest, on the CPU."""
    runtime = partial(open_runtime, folder, runtime="auto", device="cpu", n_threads=None, progress=SILENT)
    return Encoder(folder.spec, lambda: (folder.tokenizer(), runtime()))
