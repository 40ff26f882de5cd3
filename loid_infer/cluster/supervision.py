"""Supervises the process of a job on Ray: takes what it seals, notices when it ends or stands still, starts it again.

Every attempt begins with the parts that are not sealed yet. Two that finish none are the last.
"""

from __future__ import annotations

import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

from msgspec import structs

from loid_infer.cluster.run import TEXTS, Run
from loid_infer.cluster.workers import LOCAL, Cluster, Job, Part, Report, sealed_name
from loid_infer.errors import LoidError, RuntimeMissing, Stuck
from loid_infer.records import decode, to_json
from loid_infer.settings import ray_environment
from loid_infer.types import Progress

_SAY_S = 60.0  # without a finished part, after which something is said
_LOST_S = 20.0  # the same, after which a cluster that lost nodes is given up; or twice the longest part
_START_S = 180.0
_FAULT = re.compile(r"[A-Za-z_.]*(Error|Exception)\b(?!\()[^:]*: ")  # of Python, without Ray's wrappers
_AGAIN = "Run the same command again: what is sealed is kept."
Take = Callable[[str], bool]  # joins a sealed part; False if its file is damaged, and was removed


class _Process:
    """The process of one attempt."""

    def __init__(self, job: Job, log: IO[bytes]) -> None:
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from loid_infer.cluster.driver import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=ray_environment(local=job.address == LOCAL),
            start_new_session=True,
        )
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self._write(to_json(job))

    def _write(self, line: str) -> None:
        if self._process.stdin:
            with suppress(BrokenPipeError):
                self._process.stdin.write(line.encode() + b"\n")
                self._process.stdin.flush()

    def _read(self) -> None:
        if self._process.stdout:
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(None)

    def go(self) -> None:
        """The texts are handed out."""
        self._write("go")

    def report(self, timeout: float) -> Report | None:
        """The next report, None if there is none in that time. Raises Stuck if the process has ended with a failure,
        EOFError if it has done all, and the error of a worker."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            return None
        if line is None:
            if self._process.wait() == 0:
                raise EOFError
            raise Stuck(f"the process that runs Ray ended: {self._last_line()}", fix=_AGAIN)
        report = decode(line, Report, _AGAIN)
        if report.problem:
            raise LoidError(**structs.asdict(report.problem))
        return report

    def _last_line(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        faults = [line for line in lines if _FAULT.match(line)]
        return [*lines, "it said nothing", *faults][-1 if faults or not lines else -2][:300].rstrip(".")

    def close(self) -> None:
        """End the process and, if it runs a cluster of its own, that too."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def _started(job: Job) -> Iterator[tuple[_Process, Cluster]]:
    with tempfile.TemporaryFile() as log:
        process = _Process(job, log)
        try:
            report = process.report(_START_S)
            if report is None or report.cluster is None:
                raise Stuck("the cluster of Ray does not answer", where=f"--ray {job.address}", fix=_AGAIN)
            yield process, report.cluster
        finally:
            process.close()


class Supervisor:
    """Runs a job until all its parts are taken."""

    def __init__(self, job: Job, patience_s: float, progress: Progress) -> None:
        """`patience_s`: seconds without a finished part after which an attempt is given up."""
        self._job, self._patience_s, self._progress = job, patience_s, progress
        self.began = time.time()
        self.finished: list[Part] = []
        self.cluster: Cluster | None = None

    def run(self, hand_out: Callable[[Cluster], Run], take: Take) -> None:
        """Start the cluster, hand texts out to it, and take every part as soon as it is sealed.

        Raises LoidError of a worker; Stuck if two attempts finished no part; RuntimeMissing without Ray.
        """
        run: Run | None = None
        n_fruitless = 0
        while run is None or run.folder.sizes(TEXTS):
            with _started(self._job) as (process, self.cluster):
                if run is None:
                    run = hand_out(self.cluster)
                before = len(run.folder.sizes(TEXTS))
                process.go()
                ended = self._attempt(process, self.cluster, take, before)
            left = self._take_rest(run, take)
            n_fruitless = n_fruitless + 1 if left == before else 0
            if n_fruitless > 1:
                raise Stuck(f"no part was finished: {ended}", where=f"--ray {self._job.address}", fix=_AGAIN)
            if left:
                self._progress.say(f"{left} parts are left, which are handed out again: {ended}")

    def _attempt(self, process: _Process, cluster: Cluster, take: Take, n_parts: int) -> str:
        """Take what the process finishes. Returns why that ended."""
        last, longest, said, n_lost = time.monotonic(), 0.0, 0.0, 0
        while True:
            try:
                report = process.report(1.0)
            except EOFError:
                return "a file was damaged"
            except Stuck as error:
                return error.what
            waited = time.monotonic() - last
            if report is not None and report.part:
                longest, last = max(longest, report.part.seconds), time.monotonic()
                self.finished.append(report.part)
                n_parts -= take(report.part.part)
                if not n_parts:
                    return "all are done"  # without waiting until Ray has ended
            elif report is not None:
                n_lost = report.n_lost
                n_left = cluster.n_workers - n_lost
                self._progress.say(f"the cluster has room for {n_left} of {cluster.n_workers} workers")
            elif n_lost and longest and waited > max(_LOST_S, 2 * longest):
                return f"{n_lost} of {cluster.n_workers} workers were lost"
            elif waited > max(self._patience_s, 3 * longest):
                return f"for {waited:.0f} s no worker finished a part"
            elif waited - said > _SAY_S:
                said = waited
                self._progress.say(f"no part was finished for {waited:.0f} s")
            if report is not None:
                said = 0.0

    def _take_rest(self, run: Run, take: Take) -> int:
        """Take what was sealed without being reported. Returns the number of parts that are left."""
        left, sealed = [name.partition(".")[0] for name in run.folder.sizes(TEXTS)], run.sealed()
        return sum(not (sealed_name(part) in sealed and take(part)) for part in left)


def check_installed() -> None:
    """Raise RuntimeMissing if Ray is not installed."""
    from importlib.util import find_spec

    if find_spec("ray") is None or find_spec("ray.data") is None:
        fix = "Run: pip install 'loid-infer[cluster]', on every machine of the cluster. Or use --shard, without Ray."
        raise RuntimeMissing("Ray is not installed", where="--ray", fix=fix)
