"""What does the store save an epoch of the head? The same steps with the encoder inside the loop, as the paper has it.

    python -m bench.loop [N_PAIRS]

Every step of a slice encodes the reviews its pairs look at, k of the user's and k of the item's, before the head sees
them: with transformers in float32, and with this engine's own runtime. The vectors are not kept, so an epoch is the
slice times the pairs there are. Ours: the network's training from the store, whole epochs.
"""

import shutil
import sys
import time
from pathlib import Path

import numpy as np

from bench.record import loid, median, needed_reviews, save, work_folder

DOMAIN, K, BATCH, PART = "musical_instruments", 5, 512, 32  # texts that transformers takes at a time


def main(n_pairs: int = 512) -> None:
    workspace = work_folder("loop")
    loid("ingest", str(needed_reviews(DOMAIN)), "-d", DOMAIN, "-w", str(workspace))
    loid("encode", "-d", DOMAIN, "-w", str(workspace))
    fits = [loid("fit", "-d", DOMAIN, "--epochs", "4", "-w", str(workspace)) for _ in range(3)]
    n_train = fits[0]["n_train"]
    ours = n_train / median([fit["samples_per_s"] for fit in fits])
    rows = [
        {"way": "from the store", "pairs": 4 * n_train, "pairs_per_s": n_train / ours, "epoch_s": ours, "times": 1.0}
    ]
    batches = _texts(workspace, n_pairs)
    for way, encode in (
        ("encoder in the loop, loid-infer", _engine(workspace)),
        ("encoder in the loop, transformers fp32", _transformers(workspace)),
    ):
        encode(batches[0][:64])  # warm
        start = time.perf_counter()
        for texts in batches:
            encode(texts)
        rate = len(batches) * BATCH / (time.perf_counter() - start)
        rows.append(
            {
                "way": way,
                "pairs": len(batches) * BATCH,
                "pairs_per_s": rate,
                "epoch_s": n_train / rate,
                "times": n_train / rate / ours,
            }
        )
    save(
        "What does the store save an epoch of the head?",
        "loop",
        rows,
        f"Musical Instruments, {n_train:,} training pairs, k = {K}, steps of {BATCH} pairs, MiniLM-L6 on the CPU. In "
        f"the loop: the encoder's time alone, on top of the head's; transformers takes {PART} texts at a time. "
        "`epoch_s`: all pairs at that rate.",
    )
    shutil.rmtree(workspace)


def _texts(workspace: Path, n_pairs: int) -> list[list[str]]:
    """The texts each step looks at: the histories that the head itself draws for its first pairs."""
    from loid_infer.data.histories import histories
    from loid_infer.data.reviews import open_table
    from loid_infer.data.splits import split
    from loid_infer.heads.training import pairs_of
    from loid_infer.types import SILENT

    table = open_table(workspace / "data" / f"{DOMAIN}.parquet", DOMAIN)
    data = table.interactions(SILENT)
    parts = split(data, "random", 0)
    drawn = histories(data, parts.train, strict=True, by_time=False)
    of_user, of_item = drawn.draw(pairs_of(data, parts, parts.train), K, 0, 1)
    texts = [text for _, piece in table.texts(np.arange(table.n_rows)) for text in piece]
    steps = []
    for start in range(0, n_pairs, BATCH):
        rows = slice(start, start + BATCH)
        reviews = [
            lists.reviews[places[rows][places[rows] >= 0]]
            for lists, places in ((drawn.by_user, of_user), (drawn.by_item, of_item))
        ]
        steps.append([texts[review] for review in np.concatenate(reviews)])
    return steps


def _engine(workspace: Path):
    from loid_infer import Encoder

    return Encoder.open("base", workspace=workspace, device="cpu").encode


def _transformers(workspace: Path):
    import torch
    import transformers

    folder = workspace / "exports" / "encoders" / "base"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()

    def encode(texts: list[str]) -> None:
        for start in range(0, len(texts), PART):
            part = texts[start : start + PART]
            inputs = tokenizer(part, truncation=True, max_length=256, padding=True, return_tensors="pt")
            with torch.inference_mode():
                model(**inputs).last_hidden_state[:, 0]

    return encode


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
