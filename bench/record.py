"""What every benchmark needs: the machine, a table for people, a JSON file for the record."""

import datetime
import gzip
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from loid_infer.artifact import versions
from loid_infer.encoders import gpu
from loid_infer.encoders.processor import features, model, n_usable_threads

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
WORK = ROOT / "bench" / "work"
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "openvino",
    "sentence-transformers",
    "lmdb",
    "pyarrow",
    "numpy",
)


def machine() -> dict:
    """Processor, features that matter, memory, system."""
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    known = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"}
    return {
        "processor": model(),
        "threads": n_usable_threads(),
        "features": sorted(features() & known),
        "memory_gib": round(memory / 2**20, 1),
        "system": f"{platform.system()} {platform.release()}",
        **({"gpus": gpu.names(), "driver": gpu.driver()} if gpu.driver() else {}),
    }


def save(question: str, file: str, rows: list[dict], notes: str) -> None:
    """Print the table and one JSON line, and write them where `saved_as` says."""
    record = {
        "question": question,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip(),
        "machine": machine(),
        "versions": versions(*PACKAGES),
        "notes": notes,
        "rows": rows,
    }
    path = saved_as(file)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\n{question}\n{table(rows)}\n{notes}")
    print(json.dumps(record))


def saved_as(file: str) -> Path:
    """bench/results/<file>.json, or <file>.<processor>.json where the former is another processor's."""
    here, path = machine(), RESULTS / f"{file}.json"
    if not path.exists() or json.loads(path.read_text())["machine"]["features"] == here["features"]:
        return path
    vendor = "intel" if "Intel" in here["processor"] else "amd" if "AMD" in here["processor"] else platform.machine()
    # The last feature is the same with and without AMX.
    return RESULTS / f"{file}.{vendor}-{'amx' if 'amx_bf16' in here['features'] else here['features'][-1]}.json"


def saved_rows(file: str) -> list[dict]:
    """The rows of the result that `save` would replace; none without one."""
    path = saved_as(file)
    return json.loads(path.read_text())["rows"] if path.exists() else []


def table(rows: list[dict]) -> str:
    """Rows of equal keys as a Markdown table."""
    head = list(rows[0])
    lines = [
        f"| {' | '.join(head)} |",
        f"|{'|'.join('---' if isinstance(rows[0][key], str) else '---:' for key in head)}|",
    ]
    lines += [f"| {' | '.join(said(row[key]) for key in head)} |" for row in rows]
    return "\n".join(lines)


def said(value: object) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def loid(*arguments: str) -> dict:
    """Run the command line in a process of its own and give its JSON."""
    done = subprocess.run(
        [sys.executable, "-c", "from loid_infer.cli.app import main; main()", *arguments, "--json", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"loid-infer {' '.join(arguments)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def train_plugin(workspace: Path, domain: str, name: str, seed: int, *options: str) -> dict:
    """Train a plugin on split `seed` and give the command's JSON."""
    arguments = ("-d", domain, "--name", name, "--split-seed", str(seed), "-w", str(workspace))
    return loid("plugin", "train", *arguments, *options)


def compared(summary: list[dict], reference: str) -> list[tuple[str, dict]]:
    """The systems of `evaluate`'s summary, each as its encoder and a row of its errors and of its MSE's difference from
    the reference: `bias`, or the first `head`."""
    values = {(row["system"], row["metric"]): row["value"] for row in summary}
    systems = []
    for row in summary:
        if row["metric"] == "mse" and row["reference"].partition(" @ ")[0] == reference:
            model, _, encoder = row["system"].partition(" @ ")
            errors = {"model": model, "mse": row["value"], "mae": values[row["system"], "mae"]}
            difference = round(row["difference"], 4) + 0.0
            systems.append(
                (encoder, {**errors, "difference": difference, "interval": interval(row["low"], row["high"])})
            )
    return systems


def interval(low: float | None, high: float | None) -> str:
    """As a table shows it."""
    return "-" if low is None or high is None else f"{low:+.4f} to {high:+.4f}"


def median(values: list[float]) -> float:
    """The middle value, and never a mean that one noisy run can pull."""
    return statistics.median(values)


def real_data() -> Path:
    """The folder of real data beside the checkout (or under LOID_SHARED)."""
    return Path(os.environ.get("LOID_SHARED") or ROOT.parent / "shared") / "data"


def real_reviews(name: str = "musical_instruments") -> Path | None:
    """The real reviews, if they are there."""
    path = real_data() / f"{name}.json.gz"
    return path if path.is_file() else None


def needed_reviews(name: str = "musical_instruments") -> Path:
    """The real reviews; the benchmark ends where they are not there."""
    path = real_reviews(name)
    if path is None:
        raise SystemExit("no real reviews beside the checkout: set LOID_SHARED")
    return path


def review_texts() -> Iterator[str]:
    """The texts of the real reviews, in the order of the file, which is by item."""
    with gzip.open(needed_reviews(), "rt") as lines:
        for line in lines:
            yield json.loads(line)["reviewText"]


def work_folder(name: str) -> Path:
    """An empty folder to work in; what an earlier run left there is gone."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def real_table(name: str, n_reviews: int) -> tuple[Path, Path]:
    """A fresh workspace with every k-th real review, `n_reviews` in all, as its domain `reviews`; and that table.

    Every k-th: the file is ordered by item.
    """
    source, workspace = needed_reviews(), work_folder(name)
    with gzip.open(source, "rt") as lines, (workspace / "slice.jsonl").open("w") as out:
        whole = lines.readlines()
        out.writelines(whole[:: max(1, len(whole) // n_reviews)][:n_reviews])
    loid("ingest", str(workspace / "slice.jsonl"), "-d", "reviews", "-w", str(workspace))
    return workspace, workspace / "data" / "reviews.parquet"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
