"""The process that runs a job on Ray Data.

It reads a job from stdin, says what the cluster has, waits for another line, and then reports every part that is
finished, as lines of JSON. Ray only moves the numbers of parts. This is a process of its own because Ray may end it: it
does so when the head of the cluster is lost.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from typing import Any

from msgspec import to_builtins

from loid_infer.cluster.run import TEXTS, Run
from loid_infer.cluster.workers import LOCAL, Cluster, Job, Report, Worker, problem_of
from loid_infer.errors import LoidError, Stuck
from loid_infer.records import decode, to_json

_MAX_THREADS = 4  # of a worker, unless a number was given
_STORE_BYTES = 80 << 20  # of Ray's object store on this machine; nothing goes through it
_LOOK_S = 5.0  # between two looks at the nodes
_CONNECT_S = 10.0
_NICENESS = 19  # of this process where it shares the processors with the workers: Ray Data looks at them all the time


def _room(nodes: list[dict[str, Any]], cpus: int, gpus: int) -> int:
    """The number of workers for which living nodes have room."""
    needed = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return sum(min(int(has.get(kind, 0) // n) for kind, n in needed.items()) for has in alive)


def _cluster(job: Job, nodes: list[dict[str, Any]]) -> Cluster:
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    has_gpu = any(has.get("GPU", 0) >= 1 for has in alive)
    device = job.device if job.device != "auto" else "cuda" if has_gpu else "cpu"
    largest = int(max((has.get("CPU", 0) for has in alive), default=0))
    n_threads = job.n_threads or max(min(_MAX_THREADS, largest), 1)
    room = _room(nodes, n_threads, int(device == "cuda"))
    if not room:
        what, expected = "no node of the cluster has room for a worker", f"one with {n_threads} free processors"
        expected += " and a GPU" if device == "cuda" else ""
        got = f"{len(alive)} nodes, the largest with {largest} processors, {'a' if has_gpu else 'no'} GPU"
        fix = "Give fewer --threads, or another --device."
        raise Stuck(what, where=f"--ray {job.address}", expected=expected, got=got, fix=fix)
    n_workers = min(job.n_workers or room, room)
    detail = f"{n_workers} workers of {n_threads} threads on {len(alive)} nodes of Ray"
    return Cluster(n_nodes=len(alive), n_workers=n_workers, n_threads=n_threads, device=device, detail=detail)


def main() -> None:
    """Run the job on stdin."""
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Ray prints, too
    job = decode(sys.stdin.readline(), Job, "")

    def say(report: Report) -> None:
        reports.write(to_json(report) + "\n")

    try:
        _run(job, say)
    except LoidError as error:
        say(Report(problem=problem_of(error)))


def _run(job: Job, say: Any) -> None:
    import ray
    import ray.data

    # Without an address Ray would join a cluster that runs here already.
    own = {"address": "local", "num_cpus": job.n_cpus, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    given = own if job.address == LOCAL else {"address": job.address}
    try:
        _connect(job.address)
        ray.init(**given, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError) as error:
        what = f"no cluster of Ray answers: {str(error).splitlines()[0].rstrip('.')}"
        fix = "Give the address of its head, HOST:6379, or only --ray for one on this machine."
        raise Stuck(what, where=f"--ray {job.address}", fix=fix) from error
    if job.address == LOCAL:
        os.nice(_NICENESS)
    nodes: Any = ray.nodes
    cluster = _cluster(job, nodes())
    say(Report(cluster=cluster))
    sys.stdin.readline()  # until the texts are handed out
    run = Run.find(job.run)
    parts = sorted(name.partition(".")[0] for name in run.folder.sizes(TEXTS)) if run else []  # the largest first
    if not parts:
        return
    gpus = int(cluster.device == "cuda")
    threading.Thread(target=_watch, args=(nodes, cluster, gpus, say), daemon=True).start()
    ray.data.DataContext.get_current().enable_progress_bars = False
    told = {**to_builtins(job), "n_threads": cluster.n_threads, "device": cluster.device}
    rows = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts)).map_batches(
        Worker,
        fn_constructor_kwargs={"job": told},
        compute=ray.data.ActorPoolStrategy(size=min(cluster.n_workers, len(parts))),
        batch_size=None,
        num_cpus=cluster.n_threads,
        num_gpus=gpus,
    )
    for row in rows.iter_rows():
        say(decode(row["report"], Report, ""))


def _connect(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT: Ray would try again for minutes."""
    host, _, port = address.rpartition("//")[2].partition("/")[0].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()


def _watch(nodes: Any, cluster: Cluster, gpus: int, say: Any) -> None:
    """Say when the cluster lost nodes: Ray Data waits for ever for a worker that fits nowhere."""
    lost = 0
    while True:
        time.sleep(_LOOK_S)
        now = max(cluster.n_workers - _room(nodes(), cluster.n_threads, gpus), 0)
        if now != lost:
            lost = now
            say(Report(n_lost=lost))
