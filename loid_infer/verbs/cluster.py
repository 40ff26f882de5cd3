"""`encode --ray`: a corpus encoded by the workers of a Ray cluster, into this machine's store."""

from __future__ import annotations

import math
import platform
import time
from dataclasses import replace

import numpy as np

from loid_infer.artifact import digest_json, scratch_folder, writing
from loid_infer.cluster.handout import hand_out, share_encoder
from loid_infer.cluster.join import add_vectors
from loid_infer.cluster.run import VECTORS, Run
from loid_infer.cluster.selection import missing_rows
from loid_infer.cluster.supervision import Supervisor, check_installed
from loid_infer.cluster.workers import LOCAL, Cluster, Job, sealed_name, texts_name
from loid_infer.data.addresses import Folder, Where
from loid_infer.encoders.pipeline import Stages
from loid_infer.encoders.processor import n_usable_threads
from loid_infer.errors import BadArtifact, BadTable
from loid_infer.settings import TEMPLATE, TITLE_TOKENS, Workspace, WorkspaceLike, check_number
from loid_infer.store.writer import StoreWriter
from loid_infer.types import SILENT, Bools, Digests, Progress, Task
from loid_infer.verbs.encode import encode_result
from loid_infer.verbs.encoder import resolve_or_export
from loid_infer.verbs.place import Place, ShardResult

_PATIENCE_S = 1_800.0


def encode_ray(
    domain: str,
    ray: str = LOCAL,
    *,
    workers: int | None = None,
    patience: float = _PATIENCE_S,
    shard_folder: Where | None = None,
    of: str = "reviews",
    template: str = TEMPLATE,
    title_tokens: int = TITLE_TOKENS,
    encoder: str | None = None,
    precision: str | None = None,
    runtime: str = "auto",
    device: str = "auto",
    n_threads: int | None = None,
    n_streams: int | None = None,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> ShardResult:
    """Compute the vectors of every text of a corpus that is not stored, on a cluster of Ray, and store them here.

    Texts that the store lacks are written to files in a folder that all machines of the cluster read and write. A
    worker takes a file, computes its vectors and seals them; they are joined into the store as they come. Workers that
    die are replaced. What was sealed is never computed again, also when the command runs again after any failure.

    Args:
        ray: address of the cluster's head, HOST:6379, `auto` for the one that this machine belongs to, `local` for one
            of this machine only, which is started and ended.
        workers: number of processes, each with an encoder; by default all for which the cluster has room.
        patience: seconds without a finished part after which the job is started again.
        shard_folder: the folder, or an address; by default in the workspace's cache.
        n_threads: processors of each worker; by default 4, or what a node has.
        of, template, title_tokens, encoder, precision, runtime, device, n_streams: see `encode`.

    Raises:
        RuntimeMissing: Ray is not installed here.
        Stuck: the cluster cannot be reached, has no room, or finishes nothing. What is sealed is kept.
        LoidError: that of a worker, such as ParityError.
        StoreBusy, BadStore, BadTable, NoSpace, Unreachable: see `encode`.
    """
    check_installed()
    check_number("--patience", patience, 1, math.inf)
    workspace, start = Workspace.of(workspace), time.time()
    opened, export_s = resolve_or_export(workspace, encoder, domain, precision, progress)
    given = of, template, title_tokens, opened.name, precision, runtime, device
    place = Place.of(workspace, domain, shard_folder, *given)
    place.keep(progress)
    with place.writer() as writer, scratch_folder() as scratch:
        join = _Join(place, writer, progress)
        n_left = join.leftovers()
        with writing(scratch):
            missing, n_unique = missing_rows(place.corpus, join.is_stored, scratch, progress)
        n = int(np.count_nonzero(missing))
        progress.say(f"{place.corpus.name} with {opened.name}: {n_unique:,} texts, {n_unique - n:,} stored, {n:,} new")
        job = Job(
            address=ray,
            run=join.folder.where,
            encoder=share_encoder(join.folder, opened.path) if n else "",
            name=opened.name,
            fingerprint=place.encoder.fingerprint,
            runtime=runtime,
            device=device,
            n_threads=n_threads,
            n_streams=n_streams,
            n_workers=workers,
            n_cpus=max(n_usable_threads(), (workers or 1) * (n_threads or 1)),
        )
        supervisor = Supervisor(job, patience, progress)
        if n:
            with progress.task("encode", n, "texts") as join.task:
                supervisor.run(lambda cluster: join.hand_out(cluster, missing), join.take)
            if join.n_new != n:
                what, fix = "the texts changed while being read", "Run the same command again."
                raise BadTable(what, where=place.corpus.name, expected=f"{n:,} texts", got=f"{join.n_new:,}", fix=fix)
    join.folder.clear()
    return replace(_result(place, join, supervisor, start, n_unique, n), n_sealed=n_left, export_s=export_s)


class _Join:
    """Joins what workers seal into the store, and removes it from the folder of the run."""

    def __init__(self, place: Place, writer: StoreWriter, progress: Progress) -> None:
        # The store is this workspace's, so a folder of its own: no other command may clear it.
        owner = digest_json([platform.node(), str(place.workspace.root.resolve())])[:8]
        self.folder = Folder(place.folder(f".{owner}.ray"))
        self.n_new, self.n_parts, self.seconds, self.ended = 0, 0, 0.0, 0.0
        self.task: Task = SILENT
        self._place, self._writer, self._progress = place, writer, progress
        self._run: Run | None = None

    def is_stored(self, digests: Digests) -> Bools:
        """Whether each of `digests [n, 16]` is in the store, `[n]`."""
        return self._writer.reader.lookup(digests) >= 0

    def leftovers(self) -> int:
        """Join what an earlier job sealed, and remove its folder. Returns the number of its texts that were new."""
        self._run, n = Run.find(self.folder.where), 0
        if self._run is not None:
            for name in self._run.sealed():
                self._add(self._run, name)
            n, self.n_new = self.n_new, 0
        self.folder.clear()
        return n

    def hand_out(self, cluster: Cluster, missing: Bools) -> Run:
        """Hand out the missing texts to the workers of a cluster."""
        corpus, spec = self._place.corpus, self._place.encoder.spec
        self.n_parts = hand_out(self.folder, corpus, missing, cluster.n_workers, self._progress)
        self._run = Run.begin(self.folder.where, corpus.name, corpus.digest, spec, self.n_parts)
        return self._run

    def take(self, part: str) -> bool:
        """Join a sealed part; False if its file was damaged and is removed."""
        if self._run is None:
            raise RuntimeError("a part was finished before texts were handed out")
        if not self._add(self._run, sealed_name(part)):
            return False
        self.folder.remove(texts_name(part), f"{VECTORS}/{sealed_name(part)}")
        return True

    def _add(self, run: Run, name: str) -> bool:
        start = time.perf_counter()
        try:
            content = run.load(name)
        except BadArtifact as error:
            self._progress.say(f"{error.where}: {error.what}. The file is removed, and its texts are computed again")
            run.discard(name)
            return False
        self.n_new += add_vectors(self._writer, [content], self.task)
        self.seconds, self.ended = self.seconds + time.perf_counter() - start, time.time()
        return True


def _result(place: Place, join: _Join, supervisor: Supervisor, start: float, n_unique: int, n: int) -> ShardResult:
    """The result of a job; its seconds end with the last commit, without the time until a worker was ready."""
    parts, stages = [part for part in supervisor.finished if part.n_texts], Stages()
    for part in parts:
        for name, value in part.stages.items():
            setattr(stages, name, getattr(stages, name) + value)
    setup_s = max(min((part.began for part in parts), default=0.0) - supervisor.began, 0.0) if parts else 0.0
    cluster = supervisor.cluster
    result = encode_result(
        place.corpus,
        place.encoder,
        stages,
        n_unique=n_unique,
        n_encoded=n,
        runtime=parts[0].runtime if parts else "none",
        detail=f"{cluster.detail}; {parts[0].detail}" if cluster and parts else "every text was already stored",
        seconds=(join.ended if parts else time.time()) - start - setup_s,
        commit_s=join.seconds,
        setup_s=setup_s,
        store=str(place.workspace.store(place.encoder.fingerprint)),
    )
    n_workers = cluster.n_workers if cluster else 0
    return ShardResult.of(result, {"n_shards": join.n_parts, "workers": n_workers, "run": join.folder.where})
