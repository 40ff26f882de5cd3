"""`encode`: the vectors of every text of a domain, into the store of an encoder, or of several in one pass.

A text is computed once, whatever kills the run: what a store holds is decided by digest before a token is made, and a
chunk's vectors and index are committed together. The verb ties corpus, engine and stores; it computes nothing itself.
What a run took is kept in `reports/`, for people: nothing is ever decided by it.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field

import numpy as np

from loid_infer.artifact import new_file
from loid_infer.encoders.folder import open_folder
from loid_infer.encoders.joint import columns
from loid_infer.encoders.pipeline import Stages, encode_stream
from loid_infer.errors import NoSpace
from loid_infer.settings import Place, Workspace, file_system
from loid_infer.store.committer import Committer
from loid_infer.store.writer import StoreWriter, stored_bytes
from loid_infer.types import SILENT, Bools, Floats, Ints, Progress
from loid_infer.verbs.dry_run import DryRun, DryRuns, dry_run, dry_run_all
from loid_infer.verbs.passes import How, Job, Pass, groups, passes, prepare

__all__ = ["DryRun", "DryRuns", "EncodeResult", "Encodings", "StageSeconds", "dry_run", "dry_run_all", "encode",
           "encode_all"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """Seconds each stage was busy; they overlap."""

    read_s: float
    tokenize_s: float
    forward_s: float
    commit_s: float


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """What a run found, did and cost. Texts are counted once however often they occur.

    Where `joined` names others, `n_tokens`, `n_truncated`, `padding`, `seconds`, `setup_s` and `stages` but `commit_s`
    are those of the one pass that computed them all: not to be added up.
    """

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
    joined: tuple[str, ...]  # the other encoders of the same pass
    n_shared_layers: int  # the lowest layers, as many as one of those has too: they were computed once for both
    store: str


@dataclass(frozen=True, slots=True)
class Encodings:
    """The results of several encoders over one domain, in the order they were named."""

    encoders: tuple[EncodeResult, ...]


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
        runtime: auto | torch | onnxruntime | openvino | tensorrt | fake. `auto` takes the fastest that is proven.
        precision: what the encoder must have; see `resolve_or_export`.
        device: auto | cpu | cuda.
        n_threads: processors to use; all that this process may use by default.

    Raises:
        BadTable, BadName, BadSetting, BadArtifact: the domain, an option or the encoder is wrong.
        RuntimeMissing, ParityError: the runtime cannot run or computes something else; nothing was stored.
        StoreBusy, BadStore, NoSpace: the store is being written, damaged, or cannot grow. Committed chunks stay.
    """
    how = How(runtime, device, n_threads, progress)
    return _encode(domain, [encoder], precision, Workspace.of(workspace), how)[0]


def encode_all(
    domain: str,
    *,
    encoders: Sequence[str],
    runtime: str = "auto",
    precision: str | None = None,
    device: str = "auto",
    n_threads: int | None = None,
    workspace: Place = None,
    progress: Progress = SILENT,
) -> Encodings:
    """Store the vector of every review text of `domain` by each of `encoders`, in as few passes as there can be.

    Texts are read and tokenized once a pass, and layers that encoders have in common are computed once. Encoders of
    different shape, tokenizer, max tokens or precision, and those that lack far fewer texts, take passes of their own.

    Args:
        encoders: names of exports, each once; see `encode` for the rest.

    Raises:
        BadSetting: an encoder is named twice, or none is.
        Others: see `encode`. What passes before it stored stays.
    """
    how = How(runtime, device, n_threads, progress)
    return Encodings(tuple(_encode(domain, list(encoders), precision, Workspace.of(workspace), how)))


@dataclass(slots=True)
class _Run:
    """What a pass used and took, filled in as it goes."""

    seconds: float = 0.0
    setup_s: float = 0.0
    runtime: str = "none"
    detail: str = "every text was stored already"
    commit_s: list[float] = field(default_factory=list)  # of each job
    stages: Stages = field(default_factory=Stages)


def _encode(
    domain: str, encoders: Sequence[str | None], precision: str | None, workspace: Workspace, how: How
) -> list[EncodeResult]:
    jobs = prepare(domain, encoders, precision, workspace, how)
    kind, is_network = file_system(workspace.cache)
    if is_network:
        how.progress.say(f"{workspace.cache} is on {kind}: let one machine only write to it, or join shards with "
                         "`loid-infer cache import`")  # fmt: skip
    done: dict[str, EncodeResult] = {}
    for group in groups(jobs):
        start = time.perf_counter()
        with ExitStack() as stack:
            writers = {
                job.folder: stack.enter_context(StoreWriter(job.folder, job.card, job.folder.name)) for job in group
            }
            missing = [job.missing(writers[job.folder].reader.lookup) for job in group]
            for job, rows in zip(group, missing, strict=True):
                _announce(job, rows, how.progress)
            found_s = group[0].table_s + time.perf_counter() - start
            start = time.perf_counter()
            planned = passes(group, missing)
            planned_s = time.perf_counter() - start
            for part in planned:
                run = _run(part, [writers[job.folder] for job in part.jobs], how)
                run.seconds += found_s
                run.setup_s += planned_s
                made = [_result(job, part, i, run) for i, job in enumerate(part.jobs)]
                _keep(made, workspace, how.progress)  # now: a later pass may be stopped
                done |= {result.encoder: result for result in made}
    return [done[job.encoder.name] for job in jobs]


def _announce(job: Job, rows: Ints, progress: Progress) -> None:
    n, n_new = len(job.unique), len(rows)
    progress.say(f"{job.domain} with {job.encoder.name}: {n:,} texts, {n - n_new:,} stored, {n_new:,} new")
    n_bytes, free = n_new * stored_bytes(job.card), shutil.disk_usage(job.folder).free
    if n_bytes > free:
        progress.say(f"they take about {n_bytes / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free on that disk: it "
                     "may stop on the way, and goes on from there when there is room")  # fmt: skip


def _run(part: Pass, writers: Sequence[StoreWriter], how: How) -> _Run:
    start, run = time.perf_counter(), _Run(commit_s=[0.0] * len(writers))
    if len(part.rows):
        opened = how.open(part)
        run.setup_s = time.perf_counter() - start
        run.runtime, run.detail = opened.name, opened.detail
        tokenizer, job = part.encoders[0].tokenizer(), part.jobs[0]
        # All that decides a vector is loaded by now: what was loaded must be what the fingerprints say.
        for encoder in part.encoders:
            open_folder(encoder.path, encoder.name, expected=encoder.fingerprint)
        finished = encode_stream(job.corpus.checked_texts(part.rows, job.digests), tokenizer, opened, run.stages)
        run.commit_s = _commit(finished, part, writers, how.progress)
    run.seconds = time.perf_counter() - start - run.setup_s
    return run


def _commit(
    finished: Generator[tuple[Ints, Floats]], part: Pass, writers: Sequence[StoreWriter], progress: Progress
) -> list[float]:
    """Commit all that is finished, also when interrupted, to each store that lacks it. Seconds the commits of each job
    took."""
    n_rows, digests, dim = len(part.rows), part.jobs[0].digests, part.jobs[0].card.hidden_dim
    lacking: list[Bools] = [np.zeros(len(digests), np.bool_) for _ in part.jobs]
    for lacks, missing in zip(lacking, part.missing, strict=True):
        lacks[missing] = True
    n_finished = 0
    with ExitStack() as stack:
        task = stack.enter_context(progress.task("encode", n_rows, "texts"))
        committers = [stack.enter_context(Committer(writer, dim)) for writer in writers]
        # Closed first: that stops the threads that feed it before the last commits, whatever ends the loop.
        stack.enter_context(closing(finished))
        for slots, vectors in finished:
            for i, (committer, lacks) in enumerate(zip(committers, lacking, strict=True)):
                wanted = lacks[slots]
                committer.add(digests[slots[wanted]], vectors[wanted, columns(i, dim)])
            task.advance(len(slots))
            n_finished += len(slots)
    if n_finished != n_rows:
        raise RuntimeError(f"the runtime gave {n_finished} of {n_rows} vectors back")
    return [committer.commit_s for committer in committers]


def _result(job: Job, part: Pass, i: int, run: _Run) -> EncodeResult:
    stages, n_encoded = run.stages, len(part.missing[i])
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
        stages=StageSeconds(stages.read_s, stages.tokenize_s, stages.forward_s, run.commit_s[i]),
        joined=part.joined(job),
        n_shared_layers=part.n_shared_layers[i],
        store=str(job.folder),
    )


def _keep(results: Sequence[EncodeResult], place: Workspace, progress: Progress) -> None:
    """Write what was measured to `reports/`, for `report`. What computed nothing measured nothing."""
    for result in results:
        if not result.n_encoded:
            continue
        path = place.reports / f"{result.domain}.{result.encoder}.encoding.json"
        try:
            with new_file(path) as temporary:
                temporary.write_text(json.dumps(asdict(result), indent=1) + "\n")
        except (NoSpace, OSError) as error:  # the vectors are committed: the run did what it was asked for
            progress.say(f"what this run took is not kept for `loid-infer report`; every vector is stored. {error}")


def _peak_rss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
