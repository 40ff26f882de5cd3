"""How fast do reviews become vectors, against the usual ways? The same texts, the same model, the same truncation.

Ours runs from table to last commit, reading, tokenizing and writing included; rivals are timed after a warm-up and from
texts in memory to vectors in memory, so the comparison leans their way.

    python -m bench.encode [N_REVIEWS] [ROUNDS]       20000 is more than there are: the whole file
"""

import json
import shutil
import subprocess
import sys

from bench.record import ROOT, loid, median, real_table, save

MAX_TOKENS = 256
RIVALS = ("sentence_transformers_default", "sentence_transformers_openvino", "sentence_transformers_openvino_int8")
OURS = (("int8", "auto"), ("bf16", "auto"), ("fp32", "auto"))


def main(n_reviews: int = 6000, rounds: int = 2) -> None:
    compare("How fast do reviews become vectors?", "encode", n_reviews, rounds, OURS, RIVALS)


def compare(question: str, file: str, n_reviews: int, rounds: int, ours: tuple, rivals: tuple[str, ...]) -> None:
    """Run every way in every round, each in a process of its own, and save the table."""
    workspace, table = real_table(file, n_reviews)
    for precision, _ in ours:  # exports are not what is asked about
        on = ("--calibrate-on", "reviews") if precision == "int8" else ()
        loid("export", "--name", f"base-{precision}", "--precision", precision, *on, "-w", str(workspace))
    times: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    missing: list[str] = []
    n_tokens = n_texts = 0
    for _ in range(rounds):
        for precision, runtime in ours:
            shutil.rmtree(workspace / "cache", ignore_errors=True)
            run = loid("encode", "-d", "reviews", "--precision", precision, "--runtime", runtime, "-w", str(workspace))
            n_tokens, n_texts = run["n_tokens"], run["n_encoded"]
            label = f"loid-infer {precision}, {run['runtime']}"
            times.setdefault(label, []).append(run["seconds"])
            peaks[label] = run["peak_rss_bytes"]
        for name in rivals:
            command = [sys.executable, "-m", "bench.rivals.run", name, str(table), str(MAX_TOKENS)]
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
            "times_default": reference / median(found),
            "peak_mib": peaks[way] / 2**20,
        }
        for way, found in times.items()
    ]
    save(
        question,
        file,
        sorted(rows, key=lambda row: row["seconds"]),
        f"{n_texts:,} Musical Instruments reviews, {n_tokens:,} tokens, cut at {MAX_TOKENS}, MiniLM-L6; medians of "
        f"{rounds}, each way in its own process, in turn. Ours: table to last commit; the others: texts to vectors, in "
        "memory, after a warm-up. Export and calibration are not counted."
        + "".join(f" {line}." for line in dict.fromkeys(missing)),
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
