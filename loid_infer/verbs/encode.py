"""`encode`: the vectors of every text of a domain, into the store of an encoder.

A text is computed once, whatever kills the run: what the store holds is decided by digest before a token is made, and a
chunk's vectors and index are committed together. The verb ties corpus, engine and store; it computes nothing itself.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from loid_infer.data.reviews import ReviewTable, open_table
from loid_infer.encoders.card import fingerprint
from loid_infer.encoders.folder import EncoderFolder, open_folder
from loid_infer.encoders.opening import check_options, open_runtime
from loid_infer.encoders.pipeline import Stages, encode_stream
from loid_infer.encoders.proof import measure
from loid_infer.errors import NotEncoded
from loid_infer.kernels.unique import first_rows
from loid_infer.settings import Place, Workspace
from loid_infer.store.committer import Committer
from loid_infer.store.reader import open_store
from loid_infer.store.writer import StoreWriter
from loid_infer.types import SILENT, Card, Digests, Floats, Ints, Progress
from loid_infer.verbs.encoder import resolve_or_export

_SAMPLE_ROWS = 2000  # texts tokenized to estimate the cost of a dry run


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """Seconds each stage was busy; they overlap."""

    read_s: float
    tokenize_s: float
    forward_s: float
    commit_s: float


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """What a run found, did and cost. Texts are counted once however often they occur."""

    domain: str
    encoder: str
    fingerprint: str
    runtime: str  # the runtime that ran, or the word `none` when every text was stored already
    runtime_detail: str
    precision: str
    max_tokens: int
    n_rows: int
    n_unique: int
    n_hits: int
    n_encoded: int
    n_truncated: int
    n_tokens: int
    padding: float
    seconds: float
    export_s: float
    setup_s: float
    tokens_per_s: float
    texts_per_s: float
    peak_rss_bytes: int
    stages: StageSeconds
    store: str


@dataclass(frozen=True, slots=True)
class DryRun:
    """What `encode` would find and do. Tokens and seconds are estimates."""

    domain: str
    encoder: str
    fingerprint: str
    n_rows: int
    n_unique: int
    n_hits: int
    n_new: int
    n_tokens: int
    seconds: float
    store: str


@dataclass(frozen=True, slots=True)
class Encodings:
    """The results of several encoders over one domain."""

    encoders: tuple[EncodeResult | DryRun, ...]


def encode(
    domain: str,
    *,
    encoder: str | None = None,
    runtime: str = "auto",
    precision: str | None = None,
    device: str = "auto",
    n_threads: int | None = None,
    workspace: Place = None,
    progress: Progress = SILENT,
) -> EncodeResult:
    """Store the vector of every review text of `domain`.

    Args:
        encoder: name of an export; by default the domain's own, else `base`, which is exported on first use.
        runtime: auto | torch | onnxruntime | openvino | fake. `auto` takes the fastest that is proven.
        precision: what the encoder must have; see `resolve_or_export`.
        device: auto | cpu | cuda.
        n_threads: processors to use; all that this process may use by default.

    Raises:
        BadTable, BadName, BadSetting, BadArtifact: the domain, an option or the encoder is wrong.
        RuntimeMissing, ParityError: the runtime cannot run or computes something else; nothing was stored.
        StoreBusy, BadStore, NoSpace: the store is being written, damaged, or cannot grow. Committed chunks stay.
    """
    check_options(runtime, device)
    job = _prepare(domain, encoder, runtime, precision, Workspace.of(workspace), progress)
    run = _Run()
    with StoreWriter(job.folder, job.card, job.folder.name) as writer:
        todo = job.missing(writer.reader.lookup)
        if len(todo):
            opening = time.perf_counter()
            opened = open_runtime(job.encoder, runtime=runtime, device=device, n_threads=n_threads, progress=progress)
            run.setup_s = time.perf_counter() - opening
            run.runtime, run.detail = opened.name, opened.detail
            tokenizer = job.encoder.tokenizer()
            # All that decides a vector is loaded by now: what was loaded must be what the fingerprint says.
            open_folder(job.encoder.path, job.encoder.name, expected=job.encoder.fingerprint)
            finished = encode_stream(job.corpus.checked_texts(todo, job.digests), tokenizer, opened, run.stages)
            run.commit_s = _commit(finished, job, writer, len(todo), progress)
    run.seconds = time.perf_counter() - job.started - run.setup_s
    return _result(job, len(todo), run)


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be encoded, with what, into which store."""

    domain: str
    corpus: ReviewTable
    encoder: EncoderFolder
    card: Card  # of the store
    folder: Path
    export_s: float
    started: float
    digests: Digests  # [n_rows, 16]
    unique: Ints  # [n_unique], the first row of each different text

    def missing(self, lookup: Callable[[Digests], Ints]) -> Ints:
        """The rows whose texts a store does not have, ascending."""
        rows: Ints = self.unique[lookup(self.digests[self.unique]) < 0]
        return rows


def _prepare(
    domain: str, encoder: str | None, runtime: str, precision: str | None, workspace: Workspace, progress: Progress
) -> _Job:
    corpus = open_table(workspace.table(domain), domain)
    found, export_s = resolve_or_export(workspace, encoder, domain, precision, progress)
    # What the fake runtime computes is no encoder's vector: it gets a card, and so a store, of its own.
    card = replace(found.card, precision="fake") if runtime == "fake" else found.card
    started = time.perf_counter()
    digests = corpus.digests(progress)
    folder = workspace.store(fingerprint(card))
    return _Job(domain, corpus, found, card, folder, export_s, started, digests, first_rows(digests))


@dataclass(slots=True)
class _Run:
    """What a run used and took, filled in as it goes."""

    runtime: str = "none"
    detail: str = "every text was stored already"
    setup_s: float = 0.0
    commit_s: float = 0.0
    seconds: float = 0.0
    stages: Stages = field(default_factory=Stages)


def _result(job: _Job, n_encoded: int, run: _Run) -> EncodeResult:
    stages = run.stages
    return EncodeResult(
        domain=job.domain,
        encoder=job.encoder.name,
        fingerprint=job.folder.name,
        runtime=run.runtime,
        runtime_detail=run.detail,
        precision=job.card.precision,
        max_tokens=job.card.max_tokens,
        n_rows=job.corpus.n_rows,
        n_unique=len(job.unique),
        n_hits=len(job.unique) - n_encoded,
        n_encoded=n_encoded,
        n_truncated=stages.n_truncated,
        n_tokens=stages.n_tokens,
        padding=stages.padding,
        seconds=run.seconds,
        export_s=job.export_s,
        setup_s=run.setup_s,
        tokens_per_s=stages.n_tokens / run.seconds,
        texts_per_s=len(job.unique) / run.seconds,
        peak_rss_bytes=_peak_rss_bytes(),
        stages=StageSeconds(stages.read_s, stages.tokenize_s, stages.forward_s, run.commit_s),
        store=str(job.folder),
    )


def dry_run(
    domain: str,
    *,
    encoder: str | None = None,
    runtime: str = "auto",
    precision: str | None = None,
    device: str = "auto",
    n_threads: int | None = None,
    workspace: Place = None,
    progress: Progress = SILENT,
) -> DryRun:
    """What `encode` with the same arguments would do; stores nothing. Raises what it raises."""
    check_options(runtime, device)
    job = _prepare(domain, encoder, runtime, precision, Workspace.of(workspace), progress)
    todo = job.missing(lambda digests: _peek(job, digests))
    n_tokens, seconds = 0.0, 0.0
    if len(todo):
        n_tokens = len(todo) * _mean_tokens(job, todo)
        opened = open_runtime(job.encoder, runtime=runtime, device=device, n_threads=n_threads, progress=progress)
        probes, timing = job.encoder.probes(), time.perf_counter()
        measure(opened, probes)
        seconds = n_tokens * (time.perf_counter() - timing) / float(probes.lengths.sum())
    return DryRun(
        domain=domain,
        encoder=job.encoder.name,
        fingerprint=job.folder.name,
        n_rows=job.corpus.n_rows,
        n_unique=len(job.unique),
        n_hits=len(job.unique) - len(todo),
        n_new=len(todo),
        n_tokens=round(n_tokens),
        seconds=seconds,
        store=str(job.folder),
    )


def _commit(
    finished: Generator[tuple[Ints, Floats]], job: _Job, writer: StoreWriter, n: int, progress: Progress
) -> float:
    """Commit all that is finished, also when interrupted. Seconds the commits took."""
    # `closing` stops the threads that feed it before the last commit, whatever ends the loop.
    with (
        progress.task("encode", n, "texts") as task,
        Committer(writer, job.card.hidden_dim) as committer,
        closing(finished),
    ):
        n_finished = 0
        for slots, vectors in finished:
            committer.add(job.digests[slots], vectors)
            task.advance(len(slots))
            n_finished += len(slots)
    if n_finished != n:
        raise RuntimeError(f"the runtime gave {n_finished} of {n} vectors back")
    return committer.commit_s


def _peek(job: _Job, digests: Digests) -> Ints:
    try:
        with open_store(job.folder, job.card, job.folder.name) as store:
            return store.lookup(digests)
    except NotEncoded:
        return np.full(len(digests), -1)


def _mean_tokens(job: _Job, todo: Ints) -> float:
    picked = todo[np.linspace(0, len(todo) - 1, min(len(todo), _SAMPLE_ROWS)).astype(int)]
    tokenizer = job.encoder.tokenizer()
    return sum(len(tokenizer(texts).flat_ids) for _, texts in job.corpus.texts(picked)) / len(picked)


def _peak_rss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
