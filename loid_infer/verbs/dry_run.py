"""What `encode` would find, do and cost. Stores nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loid_infer.data.reviews import open_table
from loid_infer.encoders.joint import OneOf, columns
from loid_infer.encoders.proof import measure
from loid_infer.errors import BadTable, NotEncoded
from loid_infer.kernels.unique import first_rows
from loid_infer.settings import Place, Workspace
from loid_infer.store.reader import open_store
from loid_infer.types import SILENT, Digests, Ints, Progress
from loid_infer.verbs.passes import How, Job, Pass, groups, passes, prepare

_SAMPLE_ROWS = 2000  # texts tokenized to estimate the cost


@dataclass(frozen=True, slots=True)
class DryRun:
    """What `encode` would find and do. Tokens and seconds are estimates, of the pass that `joined` share."""

    domain: str
    encoder: str
    fingerprint: str
    n_rows: int
    n_unique: int
    n_hits: int
    n_new: int
    n_orphaned: int | None  # rows of the store whose text no domain's table has; None where a table cannot be read
    n_tokens: int
    seconds: float
    joined: tuple[str, ...]
    n_shared_layers: int
    store: str


@dataclass(frozen=True, slots=True)
class DryRuns:
    """What `encode_all` would find and do."""

    encoders: tuple[DryRun, ...]


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
    how = How(runtime, device, n_threads, progress)
    return _dry_run(domain, [encoder], precision, Workspace.of(workspace), how)[0]


def dry_run_all(
    domain: str,
    *,
    encoders: Sequence[str],
    runtime: str = "auto",
    precision: str | None = None,
    device: str = "auto",
    n_threads: int | None = None,
    workspace: Place = None,
    progress: Progress = SILENT,
) -> DryRuns:
    """What `encode_all` with the same arguments would do; stores nothing. Raises what it raises."""
    how = How(runtime, device, n_threads, progress)
    return DryRuns(tuple(_dry_run(domain, list(encoders), precision, Workspace.of(workspace), how)))


def _dry_run(
    domain: str, encoders: Sequence[str | None], precision: str | None, workspace: Workspace, how: How
) -> list[DryRun]:
    jobs = prepare(domain, encoders, precision, workspace, how)
    known = _every_text(workspace, jobs[0], how.progress)
    told: dict[str, DryRun] = {}
    for group in groups(jobs):
        seen = [_look(job, known) for job in group]
        n_orphaned = {job.encoder.name: n for job, (_, n) in zip(group, seen, strict=True)}
        for part in passes(group, [missing for missing, _ in seen]):
            n_tokens, seconds = 0.0, 0.0
            if len(part.rows):
                n_tokens = len(part.rows) * _mean_tokens(part)
                opened = how.open(part)
                first = part.encoders[0]
                probes, timing = first.probes(), time.perf_counter()
                measure(OneOf(opened, columns(0, first.card.hidden_dim)), probes)
                seconds = n_tokens * (time.perf_counter() - timing) / float(probes.lengths.sum())
            for i, job in enumerate(part.jobs):
                told[job.encoder.name] = _told(job, part, i, round(n_tokens), seconds, n_orphaned[job.encoder.name])
    return [told[job.encoder.name] for job in jobs]


def _told(job: Job, part: Pass, i: int, n_tokens: int, seconds: float, n_orphaned: int | None) -> DryRun:
    return DryRun(
        domain=job.domain,
        encoder=job.encoder.name,
        fingerprint=job.folder.name,
        n_rows=job.corpus.n_rows,
        n_unique=len(job.unique),
        n_hits=len(job.unique) - len(part.missing[i]),
        n_new=len(part.missing[i]),
        n_orphaned=n_orphaned,
        n_tokens=n_tokens,
        seconds=seconds,
        joined=part.joined(job),
        n_shared_layers=part.n_shared_layers[i],
        store=str(job.folder),
    )


def _every_text(workspace: Workspace, job: Job, progress: Progress) -> Digests | None:
    """The digests `[n, 16]` of the different texts of all domains, of which that of `job` is read already."""
    others = [domain for domain in workspace.domains() if domain != job.domain]
    try:
        tables = [open_table(workspace.table(domain), domain) for domain in others]
        digests = np.concatenate([job.digests, *(table.digests(progress) for table in tables)])
    except BadTable as error:
        progress.say(f"what no domain uses is not counted. {error}")
        return None
    return digests[first_rows(digests)]


def _look(job: Job, known: Digests | None) -> tuple[Ints, int | None]:
    """The rows whose texts the store lacks, and how many of its own are none of the `known` ones."""
    try:
        with open_store(job.folder, job.card, job.folder.name) as store:
            n_known = None if known is None else int(np.count_nonzero(store.lookup(known) >= 0))
            return job.missing(store.lookup), None if n_known is None else store.size().n_rows - n_known
    except NotEncoded:
        return job.unique, None if known is None else 0


def _mean_tokens(part: Pass) -> float:
    rows = part.rows
    picked = rows[np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE_ROWS)).astype(int)]
    tokenizer = part.encoders[0].tokenizer()
    return sum(len(tokenizer(texts).flat_ids) for _, texts in part.jobs[0].corpus.texts(picked)) / len(picked)
