"""Which encoders of a command run in one pass over the texts, and over which of them: what `encode` does and a dry run
tells. Reads the table once; opens no store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loid_infer.data.reviews import ReviewTable, open_table
from loid_infer.encoders.card import fingerprint
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.encoders.joint import Step, n_bytes, n_shared_layers, shape, steps
from loid_infer.encoders.opening import check_options, open_runtime
from loid_infer.encoders.protocol import Runtime
from loid_infer.errors import BadSetting
from loid_infer.graphs.joint import MAX_BYTES, one_graph
from loid_infer.kernels.unique import first_rows
from loid_infer.settings import Workspace
from loid_infer.types import Card, Digests, Ints, Progress
from loid_infer.verbs.encoder import resolve_or_export


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be encoded, with what, into which store."""

    domain: str
    corpus: ReviewTable
    encoder: EncoderFolder
    card: Card  # of the store
    folder: Path
    export_s: float
    table_s: float  # what reading the table took
    digests: Digests  # [n_rows, 16]
    unique: Ints  # [n_unique], the first row of each different text

    def missing(self, lookup: Callable[[Digests], Ints]) -> Ints:
        """The rows whose texts a store does not have, ascending."""
        rows: Ints = self.unique[lookup(self.digests[self.unique]) < 0]
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """Encoders that are computed together, over every text that one of them lacks."""

    jobs: tuple[Job, ...]
    missing: tuple[Ints, ...]  # of each, the rows whose texts its store lacks
    n_shared_layers: tuple[int, ...]  # of each, the lowest layers that another one of the pass has too
    rows: Ints  # whose texts are computed, ascending

    @property
    def encoders(self) -> list[EncoderFolder]:
        """Those of the jobs, in their order."""
        return [job.encoder for job in self.jobs]

    def joined(self, job: Job) -> tuple[str, ...]:
        """The other encoders of the pass of `job`, by name."""
        return tuple(other.encoder.name for other in self.jobs if other is not job)


@dataclass(frozen=True, slots=True)
class How:
    """How a command computes, and whom it tells."""

    runtime: str
    device: str
    n_threads: int | None
    progress: Progress

    def open(self, part: Pass) -> Runtime:
        """The runtime of a pass, proven for each of its encoders; see `open_runtime`."""
        return open_runtime(
            *part.encoders, runtime=self.runtime, device=self.device, n_threads=self.n_threads,
            progress=self.progress, join=one_graph,
        )  # fmt: skip


def prepare(
    domain: str, encoders: Sequence[str | None], precision: str | None, workspace: Workspace, how: How
) -> list[Job]:
    """A job for each of `encoders`, in their order.

    Raises:
        BadSetting: an encoder is named twice, or none is, or there is no such runtime or device.
        BadTable, BadName, BadArtifact, ParityError, RuntimeMissing, NoSpace: see `open_table`, `resolve_or_export`.
    """
    check_options(how.runtime, how.device)
    twice = sorted({str(name) for name in encoders if encoders.count(name) > 1})
    if twice or not encoders:
        raise BadSetting(
            "an encoder is named twice" if twice else "no encoder is named",
            expected="each --encoder once",
            got=", ".join(twice) or "nothing",
            mend="Give each name once.",
        )
    corpus = open_table(workspace.table(domain), domain)
    resolved = [resolve_or_export(workspace, name, domain, precision, how.progress) for name in encoders]
    started = time.perf_counter()
    digests = corpus.digests(how.progress)
    unique = first_rows(digests)
    table_s = time.perf_counter() - started
    jobs = []
    for encoder, export_s in resolved:
        # What the fake runtime computes is no encoder's vector: it gets a card, and so a store, of its own.
        card = replace(encoder.card, precision="fake") if how.runtime == "fake" else encoder.card
        folder = workspace.store(fingerprint(card))
        jobs.append(Job(domain, corpus, encoder, card, folder, export_s, table_s, digests, unique))
    return jobs


def groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs whose encoders may share a pass: of one shape, each with a store of its own."""
    found: list[list[Job]] = []
    for job in jobs:
        for group in found:
            stores = [other.folder for other in group]
            if shape(group[0].encoder.card) == shape(job.encoder.card) and job.folder not in stores:
                group.append(job)
                break
        else:
            found.append([job])
    return found


def passes(group: Sequence[Job], missing: Sequence[Ints]) -> list[Pass]:
    """How the jobs of a group are run, those that lack most texts first.

    An encoder joins a pass when it and all that joined before lack more than half of the texts to be computed then:
    with less, computing the rest for nothing costs more than sharing saves. It must also fit into one graph.

    Args:
        missing: of each job, the rows whose texts its store lacks.
    """
    waiting = sorted(range(len(group)), key=lambda i: -len(missing[i]))
    known = {i: steps(group[i].encoder) for i in waiting} if sum(len(rows) > 0 for rows in missing) > 1 else {}
    found = []
    while waiting:
        members = [waiting.pop(0)]
        for i in [*waiting]:
            if _may_join([missing[j] for j in (*members, i)], [known[j] for j in (*members, i) if j in known]):
                members.append(i)
                waiting.remove(i)
        members.sort()
        shared = [n_shared_layers(known[i], [known[j] for j in members if j != i]) if known else 0 for i in members]
        lacking = tuple(missing[i] for i in members)
        found.append(Pass(tuple(group[i] for i in members), lacking, tuple(shared), _union(lacking)))
    return found


def _may_join(missing: Sequence[Ints], known: Sequence[Sequence[Step]]) -> bool:
    n_rows = len(_union(missing))
    return all(2 * len(rows) > n_rows for rows in missing) and n_bytes(known) <= MAX_BYTES


def _union(missing: Sequence[Ints]) -> Ints:
    first, *others = missing
    if all(np.array_equal(first, other) for other in others):
        return first
    rows: Ints = np.unique(np.concatenate(missing))
    return rows
