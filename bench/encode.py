"""How fast do reviews become vectors, against the usual ways? The same texts, the same model, the same truncation.

Ours runs from table to last commit, reading, tokenizing and writing included; rivals are timed after a warm-up and from
texts in memory to vectors in memory, so the comparison leans their way.

    python -m bench.encode [N_REVIEWS] [REPEATS]
"""

import json
import shutil
import subprocess
import sys

from bench.record import ROOT, WORK, loid, median, real_reviews, save

RIVALS = ("sentence_transformers_default", "transformers_loop")
MAX_TOKENS = 256
OURS = (("bf16", "auto"), ("fp32", "auto"), ("fp32", "onnxruntime"))


def main(n_reviews: int = 3000, repeats: int = 3) -> None:
    source = real_reviews()
    if source is None:
        raise SystemExit("no real reviews beside the checkout: set LOID_SHARED")
    workspace = WORK / "encode"
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir(parents=True)
    slice_of = _slice(source, workspace / "slice.jsonl", n_reviews)
    loid("ingest", str(slice_of), "-d", "reviews", "-w", str(workspace))
    table = workspace / "data" / "reviews.parquet"
    times: dict[str, list[float]] = {}
    n_tokens = n_texts = 0
    for _ in range(repeats):
        for precision, runtime in OURS:
            shutil.rmtree(workspace / "cache", ignore_errors=True)
            run = loid("encode", "-d", "reviews", "--precision", precision, "--runtime", runtime, "-w", str(workspace))
            n_tokens, n_texts = run["n_tokens"], run["n_encoded"]
            times.setdefault(f"loid-infer {precision}, {run['runtime']}", []).append(run["seconds"])
        for name in RIVALS:
            command = [sys.executable, "-m", "bench.rivals.run", name, str(table), str(MAX_TOKENS)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            rival = json.loads(done.stdout.splitlines()[-1])
            assert rival["n_texts"] == n_texts
            times.setdefault(rival["label"], []).append(rival["seconds"])
    reference = median(times["sentence-transformers (default)"])
    rows = [
        {
            "way": way,
            "seconds": median(found),
            "tokens_per_s": n_tokens / median(found),
            "reviews_per_s": n_texts / median(found),
            "times_default": reference / median(found),
        }
        for way, found in times.items()
    ]
    save(
        "How fast do reviews become vectors?",
        "encode",
        sorted(rows, key=lambda row: row["seconds"]),
        f"{n_texts:,} Musical Instruments reviews, {n_tokens:,} tokens, cut at {MAX_TOKENS}, MiniLM-L6; median of "
        f"{repeats} rounds, each way in its own process, in turn. Ours: table to last commit; the others: texts to "
        "vectors, in memory.",
    )


def _slice(source, path, n_reviews: int):
    import gzip

    with gzip.open(source, "rt") as lines, path.open("w") as out:
        # Every k-th review: the file is ordered by item.
        whole = lines.readlines()
        out.writelines(whole[:: max(1, len(whole) // n_reviews)][:n_reviews])
    return path


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
