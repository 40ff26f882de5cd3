"""How fast do reviews become vectors, against the alternatives? The same texts, the same model, the same truncation.

Ours runs from table to last commit, reading, tokenizing and writing included; rivals are timed after a warm-up and from
texts in memory to vectors in memory, so the comparison leans their way.

    python -m bench.encode [N_REVIEWS] [ROUNDS]       20000 is more than there are: the whole file
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from bench.record import ROOT, loid, median, real_table, save
from loid_infer.graphs.bases import find_base

MAX_TOKENS = 256
RIVALS = ("sentence_transformers_default", "sentence_transformers_openvino", "sentence_transformers_openvino_int8")
OLDER = {  # see bench/rivals/requirements.txt
    *("sentence_transformers_onnx", "sentence_transformers_openvino", "sentence_transformers_openvino_int8"),
    *("openvino_loop", "fastembed_default"),
}
OURS = (("int8", "auto"), ("bf16", "auto"), ("fp32", "auto"))


def main(n_reviews: int = 6000, rounds: int = 2) -> None:
    compare("How fast do reviews become vectors?", "encode", n_reviews, rounds, OURS, RIVALS)


def compare(question: str, file: str, n_reviews: int, rounds: int, ours: tuple, rivals: tuple[str, ...]) -> None:
    """Time the bundled encoder every way, and save the table."""
    workspace, table = real_table(file, n_reviews)
    rows, notes = timed(workspace, table, "default", find_base("default")[1], MAX_TOKENS, rounds, ours, rivals)
    save(question, file, rows, f"MiniLM-L6. {notes}")


def timed(
    workspace: Path, table: Path, base: str, folder: Path, max_tokens: int, rounds: int, ours: tuple, rivals: tuple
) -> tuple[list[dict], str]:
    """Run every way in every round, each in a process of its own: rows, the fastest first, and how they were measured.

    Ours: export `base` in a precision, encode on a runtime. Rivals, of which sentence-transformers' default is one, get
    the model in `folder`.
    """
    names = {precision: f"base-{precision}" for precision, _ in ours}
    missing: list[str] = []
    for precision, name in [*names.items()]:  # exports are not what is asked about
        shutil.rmtree(workspace / "exports" / "encoders" / name, ignore_errors=True)
        on = ("--calibrate-on", "reviews") if precision == "int8" else ()
        try:
            loid(
                "export",
                "--name",
                name,
                "--base",
                base,
                "--max-tokens",
                str(max_tokens),
                "--precision",
                precision,
                *on,
                "-w",
                str(workspace),
            )
        except SystemExit as refusal:
            reason = str(refusal).splitlines()[1].split(": ")[-1].split(". ")[0]
            missing.append(f"{Path(base).stem} in {precision} is refused: {reason}")
            del names[precision]
    times: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    n_tokens = n_texts = 0
    for _ in range(rounds):
        for precision, runtime in ((one, runtime) for one, runtime in ours if one in names):
            shutil.rmtree(workspace / "cache", ignore_errors=True)
            run = loid("encode", "-d", "reviews", "-e", names[precision], "--runtime", runtime, "-w", str(workspace))
            n_tokens, n_texts = run["n_tokens"], run["n_encoded"]
            label = f"loid-infer {precision}, {run['runtime']}"
            times.setdefault(label, []).append(run["seconds"])
            peaks[label] = run["peak_rss_bytes"]
        for name in rivals:
            command = [_python(name), "-m", "bench.rivals.run", name, str(folder), str(table), str(max_tokens)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                missing.append(f"{name} did not run ({done.stderr.strip().splitlines()[-1][:80]})")
                continue
            rival = json.loads(done.stdout.splitlines()[-1])
            assert rival["n_texts"] == n_texts
            times.setdefault(rival["label"], []).append(rival["seconds"])
            peaks[rival["label"]] = rival["peak_rss_bytes"]
    reference = median(times["sentence-transformers (default)"])
    rows = [
        {
            "way": way,
            "seconds": median(found),
            "tokens_per_s": n_tokens / median(found),
            "speedup_over_default": reference / median(found),
            "peak_mib": peaks[way] / 2**20,
        }
        for way, found in times.items()
    ]
    notes = (
        f"{n_texts:,} different Musical Instruments reviews, cut at {max_tokens} tokens; medians of {rounds} runs "
        "per way, alternating between the ways, each run in a new process. Ours: from the ingested table to the last "
        "write to LMDB, with CLS pooling; the others: texts to vectors in memory after a warm-up, with mean pooling. "
        "Export and calibration are not counted." + "".join(f" {line}." for line in dict.fromkeys(missing))
    )
    return sorted(rows, key=lambda row: row["seconds"]), notes


def _python(rival: str) -> str:
    """The interpreter of a rival: that of `.venv-rivals`, if there is one, where it takes an older transformers."""
    other = ROOT / ".venv-rivals" / "bin" / "python"
    return str(other) if rival in OLDER and other.exists() else sys.executable


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
