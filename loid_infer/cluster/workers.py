"""A worker of a cluster: an actor with an open encoder, and what it is told and says.

It is given the number of a part, reads that file of texts, computes their vectors and seals them. It skips what is
sealed already, since Ray hands out a part again when a worker dies.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from msgspec import Struct, convert, field

from loid_infer.artifact import scratch_folder
from loid_infer.cluster.run import TEXTS, VECTORS, Run
from loid_infer.data.addresses import Folder
from loid_infer.data.parts import read_texts
from loid_infer.encoder import Encoder
from loid_infer.encoders.folder import open_folder
from loid_infer.encoders.pipeline import Stages
from loid_infer.errors import BadSetting, LoidError
from loid_infer.records import to_json
from loid_infer.settings import is_address
from loid_infer.store.writer import as_stored

LOCAL = "local"


class Job(Struct, frozen=True, kw_only=True):
    """What a cluster computes."""

    address: str  # of the cluster, or LOCAL for one on this machine
    run: str  # path or address of the run's folder
    encoder: str  # path or address of the encoder's folder
    name: str  # of the encoder
    fingerprint: str
    runtime: str
    device: str  # auto | cpu | cuda
    n_threads: int | None  # of each worker
    n_streams: int | None  # of each worker
    n_workers: int | None
    n_cpus: int  # of this machine, for a cluster on it


class Cluster(Struct, frozen=True, kw_only=True):
    """What a cluster has room for."""

    n_nodes: int
    n_workers: int
    n_threads: int
    device: str  # cpu | cuda
    detail: str


class Part(Struct, frozen=True, kw_only=True):
    """A finished part; `n_texts` is 0 if it was sealed before."""

    part: str  # its number
    n_texts: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    runtime: str = ""
    detail: str = ""
    began: float = 0.0  # when the encoder was open, seconds since 1970
    seconds: float = 0.0  # from then on


class Problem(Struct, frozen=True, kw_only=True):
    """A `LoidError` of a worker, which ends the job."""

    what: str
    where: str
    expected: str
    got: str
    fix: str


class Report(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of output: one of these."""

    cluster: Cluster | None = None
    part: Part | None = None
    problem: Problem | None = None
    n_lost: int = 0  # workers for which the cluster has no room any more


class Worker:
    """An actor of Ray Data: seals the vectors of the parts that it is given."""

    def __init__(self, job: dict[str, Any]) -> None:
        """A worker that opens run and encoder for its first part: Ray hides what goes wrong in a constructor."""
        self._job = convert(job, Job)
        self._opened: tuple[Run, Encoder] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The reports of the parts with these numbers; see `map_batches`."""
        return {"report": [to_json(self._report(str(part))) for part in batch["part"]]}

    def _report(self, part: str) -> Report:
        try:
            self._opened = self._opened or self._open()
            return Report(part=self._seal(part, *self._opened))
        except LoidError as error:
            return Report(problem=problem_of(error))

    def _open(self) -> tuple[Run, Encoder]:
        job, run = self._job, Run.find(self._job.run)
        if run is None:
            fix = "Put the workspace, or --shard-folder, where every machine of the cluster reads and writes it."
            raise BadSetting("this machine does not see the folder of the run", where=job.run, fix=fix)
        if not is_address(job.encoder):
            return run, self._encoder(Path(job.encoder))
        with scratch_folder() as scratch:
            Folder(job.encoder).copy_to(scratch / "encoder")
            return run, self._encoder(scratch / "encoder")

    def _encoder(self, folder: Path) -> Encoder:
        """The encoder in `folder`, whose files are not needed any more."""
        job, opened = self._job, open_folder(folder, self._job.name)
        encoder = Encoder.open(
            opened, runtime=job.runtime, device=job.device, n_threads=job.n_threads, n_streams=job.n_streams
        )
        if encoder.fingerprint != job.fingerprint:
            what, expected, got = "this machine has another encoder", job.fingerprint, encoder.fingerprint
            raise BadSetting(what, where=str(folder), expected=expected, got=got, fix="Run the same command again.")
        encoder.runtime  # noqa: B018 - opens it
        return encoder

    def _seal(self, part: str, run: Run, encoder: Encoder) -> Part:
        runtime, began, name = encoder.runtime, time.time(), sealed_name(part)
        if run.folder.has(f"{VECTORS}/{name}"):
            return Part(part=part, began=began)
        with run.folder.open(texts_name(part)) as path:
            digests, texts = read_texts(path)
        stages = Stages()
        vectors = as_stored(encoder.encode(texts, stages), len(texts), run.file.card)
        run.seal(digests, vectors, name)
        return Part(
            part=part,
            n_texts=len(texts),
            stages=asdict(stages),
            runtime=runtime.name,
            detail=runtime.detail,
            began=began,
            seconds=time.time() - began,
        )


def texts_name(part: str) -> str:
    """The file of texts of a part, in the folder of a run."""
    return f"{TEXTS}/{part}.parquet"


def sealed_name(part: str) -> str:
    """The sealed file of a part."""
    return f"{part}-part.safetensors"


def problem_of(error: LoidError) -> Problem:
    """What a `LoidError` says."""
    return Problem(what=error.what, where=error.where, expected=error.expected, got=error.got, fix=error.fix)
