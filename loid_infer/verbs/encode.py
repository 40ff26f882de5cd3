"""`encode`: the vectors of every text of a domain, into the store of an encoder.

A text is computed once, whatever kills the run: what the store holds is decided by digest before a token is made, and a
chunk's vectors and index are committed together. The verb ties corpus, engine and store; it computes nothing itself.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from loid_infer.data.reviews import open_table
from loid_infer.encoders.card import fingerprint
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.encoders.opening import open_runtime
from loid_infer.encoders.pipeline import Stages, encode_stream
from loid_infer.encoders.proof import measure
from loid_infer.errors import NotEncoded
from loid_infer.kernels.unique import first_rows
from loid_infer.settings import Workspace
from loid_infer.store.committer import Committer
from loid_infer.store.reader import open_store
from loid_infer.store.writer import StoreWriter
from loid_infer.types import SILENT, Card, Corpus, Digests, Floats, Ints, Progress
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
    workspace: Workspace | None = None,
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
    workspace = workspace or Workspace.default()
    corpus = open_table(workspace.table(domain), domain)
    found, export_s = resolve_or_export(workspace, encoder, domain, precision, progress)
    card, name = _store_card(found.card, runtime)
    folder = workspace.store(name)
    start = time.perf_counter()
    digests = corpus.digests(progress)
    unique = first_rows(digests)
    run = _Run()
    with StoreWriter(folder, card, name) as writer:
        todo = _missing(writer.reader.lookup(digests[unique]), unique)
        if len(todo):
            opening = time.perf_counter()
            opened = open_runtime(found, runtime=runtime, device=device, n_threads=n_threads, progress=progress)
            run.setup_s = time.perf_counter() - opening
            run.runtime, run.detail = opened.name, opened.detail
            finished = encode_stream(corpus.texts(todo), found.tokenizer(), opened, run.stages)
            run.commit_s = _commit(finished, digests, writer, card.hidden_dim, len(todo), progress)
    run.seconds = time.perf_counter() - start - run.setup_s
    counts = _Counts(corpus.n_rows, len(unique), len(todo))
    return _result(domain, found.name, card, folder, counts, export_s, run)


@dataclass(slots=True)
class _Run:
    """What a run used and took, filled in as it goes."""

    runtime: str = "none"
    detail: str = "every text was stored already"
    setup_s: float = 0.0
    commit_s: float = 0.0
    seconds: float = 0.0
    stages: Stages = field(default_factory=Stages)


@dataclass(frozen=True, slots=True)
class _Counts:
    n_rows: int
    n_unique: int
    n_todo: int


def _result(
    domain: str, encoder: str, card: Card, folder: Path, counts: _Counts, export_s: float, run: _Run
) -> EncodeResult:
    stages = run.stages
    return EncodeResult(
        domain=domain,
        encoder=encoder,
        fingerprint=folder.name,
        runtime=run.runtime,
        runtime_detail=run.detail,
        precision=card.precision,
        max_tokens=card.max_tokens,
        n_rows=counts.n_rows,
        n_unique=counts.n_unique,
        n_hits=counts.n_unique - counts.n_todo,
        n_encoded=counts.n_todo,
        n_truncated=stages.n_truncated,
        n_tokens=stages.n_tokens,
        padding=stages.padding,
        seconds=run.seconds,
        export_s=export_s,
        setup_s=run.setup_s,
        tokens_per_s=stages.n_tokens / run.seconds,
        texts_per_s=counts.n_unique / run.seconds,
        peak_rss_bytes=_peak_rss_bytes(),
        stages=StageSeconds(stages.read_s, stages.tokenize_s, stages.forward_s, run.commit_s),
        store=str(folder),
    )


def dry_run(
    domain: str,
    *,
    encoder: str | None = None,
    runtime: str = "auto",
    precision: str | None = None,
    device: str = "auto",
    n_threads: int | None = None,
    workspace: Workspace | None = None,
    progress: Progress = SILENT,
) -> DryRun:
    """What `encode` with the same arguments would do; stores nothing. Raises what it raises."""
    workspace = workspace or Workspace.default()
    corpus = open_table(workspace.table(domain), domain)
    found, _ = resolve_or_export(workspace, encoder, domain, precision, progress)
    card, name = _store_card(found.card, runtime)
    folder = workspace.store(name)
    digests = corpus.digests(progress)
    unique = first_rows(digests)
    todo = _missing(_peek(folder, card, name, digests[unique]), unique)
    n_tokens, seconds = 0.0, 0.0
    if len(todo):
        n_tokens = len(todo) * _mean_tokens(corpus, found, todo)
        opened = open_runtime(found, runtime=runtime, device=device, n_threads=n_threads, progress=progress)
        probes, timing = found.probes(), time.perf_counter()
        measure(opened, probes)
        seconds = n_tokens * (time.perf_counter() - timing) / float(probes.lengths.sum())
    return DryRun(
        domain,
        found.name,
        name,
        corpus.n_rows,
        len(unique),
        len(unique) - len(todo),
        len(todo),
        round(n_tokens),
        seconds,
        str(folder),
    )


def _store_card(card: Card, runtime: str) -> tuple[Card, str]:
    # What the fake runtime computes is no encoder's vector: it gets a card, and so a store, of its own.
    card = replace(card, precision="fake") if runtime == "fake" else card
    return card, fingerprint(card)


def _missing(rows: Ints, unique: Ints) -> Ints:
    missing: Ints = unique[rows < 0]
    return missing


def _commit(
    finished: Generator[tuple[Ints, Floats]],
    digests: Digests,
    writer: StoreWriter,
    dim: int,
    n: int,
    progress: Progress,
) -> float:
    """Commit all that is finished, also when interrupted. Seconds the commits took."""
    # `closing` stops the threads that feed it before the last commit, whatever ends the loop.
    with progress.task("encode", n, "texts") as task, Committer(writer, dim) as committer, closing(finished):
        for slots, vectors in finished:
            committer.add(digests[slots], vectors)
            task.advance(len(slots))
    return committer.commit_s


def _peek(folder: Path, card: Card, name: str, digests: Digests) -> Ints:
    try:
        with open_store(folder, card, name) as store:
            return store.lookup(digests)
    except NotEncoded:
        return np.full(len(digests), -1)


def _mean_tokens(corpus: Corpus, found: EncoderFolder, todo: Ints) -> float:
    picked = todo[np.linspace(0, len(todo) - 1, min(len(todo), _SAMPLE_ROWS)).astype(int)]
    tokenizer = found.tokenizer()
    return sum(len(tokenizer(texts).flat_ids) for _, texts in corpus.texts(picked)) / len(picked)


def _peak_rss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
