"""What do several processes cost? A Ray cluster against one process, the join of shards, and the driver's memory.

    python -m bench.scale [overhead|join|memory ...] [N_REVIEWS [N_SMALL N_LARGE]]

By default 10,000 real reviews, and 1 and 4 million made-up texts: an hour on two slow cores. Rows of other parts
are kept. Needs the extra `cluster`. The vectors of the cluster are compared with those of one process.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.record import loid, median, real_table, save, saved_rows, work_folder
from loid_infer.cluster.run import Mark, Run
from loid_infer.data.canonical import SCHEMA, finish_reviews, row_writer
from loid_infer.data.reviews import open_table
from loid_infer.encoders.folder import open_folder
from loid_infer.encoders.spec import fingerprint
from loid_infer.kernels.cosine import row_cosines
from loid_infer.settings import Workspace
from loid_infer.store.environment import read_spec
from loid_infer.store.reader import open_store
from loid_infer.types import DIGEST_BYTES
from loid_infer.verbs.shards import encode_collect

RUNS, FILE_ROWS, GROUP = 3, 32_768, 65_536


def main(*arguments: str) -> None:
    chosen = [part for part in arguments if not part.isdecimal()] or ["overhead", "join", "memory"]
    given = [int(number) for number in arguments if number.isdecimal()]
    n_reviews, n_small, n_large = given + [10_000, 1_000_000, 4_000_000][len(given) :]
    rows = saved_rows("scale")
    made = {
        "overhead": lambda: overhead(n_reviews),
        "join": lambda: [
            join(n_small, "on a disk", work_folder("scale-join")),
            join(n_large, "on a disk", work_folder("scale-join")),
            join(n_small, "in memory (tmpfs)", Path(tempfile.mkdtemp(dir="/dev/shm"))),
        ],
        "memory": lambda: [memory(n) for n in (n_small, n_large)],
    }
    for part in chosen:
        rows = [row for row in rows if row["part"] != part] + [{"part": part} | row for row in made[part]()]
    save(
        "What do several processes cost?",
        "scale",
        rows,
        "Overhead: real reviews of Musical Instruments with MiniLM, the two ways in turn, medians of `runs`: two "
        "threads of one process, and two workers of one thread each on a cluster of this machine. `per_s`: tokens/s "
        "until the last commit, without the start of Ray and of its workers "
        f"(`start_s`; of one process the opening of the runtime). Join: sealed files of {FILE_ROWS:,} random vectors "
        "of width 384 in float16 into an empty store, `per_s` in vectors/s; `relative`: to as many bytes in one "
        "file, written and synced before each run. Driver: different texts of three words, "
        "without a model (--runtime fake); `anonymous_mib`: the largest memory of the command's own process that is no "
        "page of a file, `peak_mib` with pages of the store, which the system takes back when it needs them.",
    )


def overhead(n_reviews: int) -> list[dict]:
    """Tokens/s of one process and of a cluster, and the smallest cosine of their vectors."""
    workspace, table = real_table("scale", n_reviews)
    loid("export", "-w", str(workspace))
    ways = {
        "encode, one process of two threads": ("--threads", "2"),
        "encode --ray, two workers of one thread": ("--ray", "local", "--workers", "2", "--threads", "1"),
    }
    results: dict[str, list[dict]] = {way: [] for way in ways}
    vectors = {}
    for _ in range(RUNS):
        for way, options in ways.items():
            shutil.rmtree(workspace / "cache", ignore_errors=True)
            results[way].append(loid("encode", "-d", table.stem, *options, "-w", str(workspace)))
            print(way, results[way][-1]["tokens_per_s"], flush=True)
            out = workspace / "vectors.safetensors"
            loid("cache", "export", "-d", table.stem, str(out), "-w", str(workspace))
            from safetensors.numpy import load_file

            vectors[way] = load_file(out)["vectors"]
    one, cluster = vectors.values()
    cosine = float(row_cosines(one, cluster).min())
    rates = {way: median([run["tokens_per_s"] for run in runs]) for way, runs in results.items()}
    first = next(iter(rates.values()))
    return [
        {
            "what": way,
            "n": results[way][0]["n_encoded"],
            "runs": RUNS,
            "per_s": rate,
            "relative": rate / first,
            "cos_min": cosine if way != next(iter(ways)) else 1.0,
            "start_s": median([run["setup_s"] for run in results[way]]),
            "anonymous_mib": None,
            "peak_mib": max(run["peak_rss_bytes"] for run in results[way]) / 2**20,
        }
        for way, rate in rates.items()
    ]


def join(n: int, where: str, folder: Path) -> dict:
    """Vectors/s of `encode --collect` in a workspace in `folder`."""
    workspace = Workspace(folder)
    loid("sample", "--domain", "toys", "--n-reviews", "100", "-w", str(workspace.root))
    loid("export", "-w", str(workspace.root))
    spec = open_folder(workspace.encoder("base"), "base").spec
    table, rng, rates = open_table(workspace.table("toys"), "toys"), np.random.default_rng(0), []
    for _ in range(RUNS):
        shutil.rmtree(workspace.cache, ignore_errors=True)
        run = Run.begin(workspace.shards / f"toys.{fingerprint(spec)[:12]}", "toys", table.digest, spec, 1)
        for start in range(0, n, FILE_ROWS):
            m = min(FILE_ROWS, n - start)
            digests = rng.integers(0, 256, (m, 16), np.uint8)
            vectors = rng.standard_normal((m, spec.dim), np.float32).astype(spec_dtype(spec))
            run.seal(digests, vectors, f"00000-bench-{start:09d}.safetensors")
        counts = {"n_texts": n, "n_hits": 0, "n_sealed": 0, "n_encoded": n, "n_tokens": 0, "seconds": 0.0}
        run.finish(Mark(shard=0, n_shards=1, digest=table.digest, files=run.sealed(), **counts))
        written = n / _write_s(folder / "bytes", n * (spec.dim * spec_dtype(spec).itemsize + DIGEST_BYTES))
        result = encode_collect("toys", workspace=workspace)
        assert result.n_new == n
        rates.append((result.vectors_per_s, result.vectors_per_s / written))
        print("join", rates[-1], flush=True)
    shutil.rmtree(workspace.root)
    rate, relative = (median(of_runs) for of_runs in zip(*rates, strict=True))
    row = {"what": f"encode --collect {where}", "n": n, "runs": RUNS, "per_s": rate, "relative": relative}
    return row | dict.fromkeys(REST)


REST = ("cos_min", "start_s", "anonymous_mib", "peak_mib")


def _write_s(path: Path, n_bytes: int) -> float:
    """Seconds to write a file of so many random bytes and to sync it."""
    block = np.random.default_rng(0).bytes(1 << 23)
    start = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(-(-n_bytes // len(block))):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return seconds


def spec_dtype(spec) -> np.dtype:
    return np.dtype(np.float16 if spec.store_dtype == "fp16" else np.float32)


def memory(n: int) -> dict:
    """The memory of the process of `encode --ray` over `n` texts."""
    workspace = Workspace(work_folder("scale-memory"))
    loid("export", "-w", str(workspace.root))
    path = workspace.table("texts")
    path.parent.mkdir()
    with row_writer(path, SCHEMA) as writer:
        for start in range(0, n, GROUP):
            numbers = range(start, min(start + GROUP, n))
            ids, texts = [f"u{i % 1000}" for i in numbers], [f"text {i} here" for i in numbers]
            writer.write((ids, [f"i{i}" for i in numbers], [3.0] * len(ids), texts, [0] * len(ids)))
        finish_reviews(writer, n_users=min(n, 1000), n_items=n, rating_range=(1.0, 5.0), synthetic=True)
    command = [sys.executable, "-c", "from loid_infer.cli.app import main; main()", "encode", "-d", "texts", "--json"]
    command += ["--ray", "local", "--workers", "2", "--threads", "1", "--runtime", "fake", "-w", str(workspace.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        largest = 0
        while process.poll() is None:
            largest = max(largest, anonymous(process.pid))
            time.sleep(0.2)
        result = json.loads((process.stdout or sys.stdin).read().splitlines()[-1])
    assert result["n_encoded"] == n, result
    assert content(workspace, result["fingerprint"]) == alone(workspace), "other vectors than those of one process"
    print("memory", n, largest / 2**20, result["seconds"], flush=True)
    shutil.rmtree(workspace.root)
    return {
        "what": "driver of encode --ray",
        "n": n,
        "runs": 1,
        "per_s": result["texts_per_s"],
        "relative": None,
        "cos_min": None,
        "start_s": result["setup_s"],
        "anonymous_mib": largest / 2**20,
        "peak_mib": result["peak_rss_bytes"] / 2**20,
    }


def alone(workspace: Workspace) -> int:
    """The content of the store that one process makes."""
    shutil.rmtree(workspace.cache)
    result = loid("encode", "-d", "texts", "--runtime", "fake", "-w", str(workspace.root))
    return content(workspace, result["fingerprint"])


def content(workspace: Workspace, key: str) -> int:
    """A checksum of all digests with their vectors in a store of the fake runtime, in any order."""
    folder, total = workspace.store(key), 0
    with open_store(folder, read_spec(folder), key) as store:
        for chunk in store.scan():
            parts = [np.ascontiguousarray(part).view(np.uint8) for part in (chunk.digests, chunk.vectors)]
            words = np.concatenate(parts, axis=1).view("<u8")
            odd = np.arange(words.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(0x9E3779B97F4A7C15)
            mixed = (words * odd).sum(axis=1, dtype=np.uint64)
            total += int((mixed * mixed).sum(dtype=np.uint64))
    return total % 2**64


def anonymous(pid: int) -> int:
    """Bytes of a process's memory that are no pages of a file."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
