"""What does everything around the forward pass cost? Reading, tokenizing, committing, a rerun; with the fake runtime.

python -m bench.pipeline [N_TEXTS ...]
"""

import random
import shutil
import sys

from bench.record import loid, save, work_folder

WORDS = [
    *("guitar", "string", "sound", "great", "price", "battery", "cable", "broke", "album", "plot", "music", "really"),
    *(
        "quality",
        "tuner",
        "case",
        "fits",
        "loud",
        "cheap",
        "works",
        "bought",
        "gift",
        "returned",
        "perfect",
        "terrible",
    ),
    *("microphone", "stand", "drum", "pedal", "amplifier", "speaker", "volume", "clean", "warm", "bright", "dark"),
]


def main(*counts: int) -> None:
    workspace = work_folder("pipeline")
    loid("export", "--precision", "fp32", "-w", str(workspace))
    rows = []
    for n_texts in counts or (1_000, 10_000, 100_000, 1_000_000):
        n_rows = _ingest(workspace, n_texts)
        shutil.rmtree(workspace / "cache", ignore_errors=True)
        first = loid("encode", "-d", "texts", "--runtime", "fake", "-w", str(workspace))
        again = loid("encode", "-d", "texts", "--runtime", "fake", "-w", str(workspace))
        assert (first["n_encoded"], again["n_encoded"], again["n_hits"]) == (n_rows, 0, n_rows)
        data = (workspace / "cache" / first["fingerprint"] / "data.mdb").stat().st_size
        rows += [
            {
                "texts": n_rows,
                "run": name,
                "texts_per_s": run["texts_per_s"],
                "seconds": run["seconds"],
                "peak_mib": run["peak_rss_bytes"] / 2**20,
                **run["stages"],
            }
            for name, run in (("first: all new", first), ("again: all hits", again))
        ]
    save(
        "What does everything around the forward pass cost?",
        "pipeline",
        rows,
        f"Different texts of about 10 words, fake runtime, 384 fp16; the largest file is {data / (n_rows * 768):.3f} x "
        "its vectors. Stages overlap.",
    )
    shutil.rmtree(workspace)


def _ingest(workspace, n_texts: int) -> int:
    rng = random.Random(0)
    source = workspace / "texts.csv"
    with source.open("w") as out:
        out.write("user_id,item_id,rating,text\n")
        for i in range(n_texts):
            out.write(f"u{i},i{i % 5000},{1 + i % 5},{' '.join(rng.choices(WORDS, k=rng.randint(6, 13)))} {i}\n")
    return loid("ingest", str(source), "-d", "texts", "-w", str(workspace))["n_rows"]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
