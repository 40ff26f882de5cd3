"""How fast do texts become ids? Ours, which looks words up, and the Rust tokenizer it agrees with.

python -m bench.tokens
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from bench.record import ROOT, median, needed_reviews, review_texts, save
from loid_infer.encoders.processor import n_usable_threads

_PIECE = 512
_ROUNDS = 7


def main() -> None:
    needed_reviews()
    rows = []
    for way in ("loid-infer", "tokenizers (Rust)"):
        for n_threads in sorted({1, n_usable_threads()}):
            environment = {**os.environ, "RAYON_NUM_THREADS": str(n_threads)}
            done = subprocess.run(
                [sys.executable, "-m", "bench.tokens", way, str(n_threads)],
                cwd=ROOT,
                text=True,
                env=environment,
                capture_output=True,
                check=True,
            )
            rows.append({"tokenizer": way, "threads": n_threads, **json.loads(done.stdout.splitlines()[-1])})
    agree = len({row.pop("checksum") for row in rows}) == 1
    assert agree, "the ids differ"
    save(
        "How fast do texts become ids?",
        "tokens",
        rows,
        f"The reviews of Musical Instruments, cut at 256 tokens, {_PIECE} at a time, to arrays of ids, which are "
        f"equal; medians of {_ROUNDS} passes. `first_s`: the first pass, with an empty cache of words.",
    )


def one(way: str, n_threads: int) -> None:
    """One way in a process of its own: the Rust tokenizer settles its threads once."""
    from itertools import chain

    import numpy as np

    from loid_infer.encoders.tokens import Tokenizer
    from loid_infer.graphs.bases import find_base

    texts = list(dict.fromkeys(review_texts()))
    parts = [texts[at : at + _PIECE] for at in range(0, len(texts), _PIECE)]
    ours = Tokenizer(find_base("default")[1] / "tokenizer.json", 256)
    each = [ours, *(ours.copy() for _ in range(n_threads - 1))]

    def looked_up(i: int) -> list:
        return [each[i](part).flat_ids for part in parts[i::n_threads]]

    def rust() -> list:
        found = (ours._tokenizer.encode_batch_fast(part) for part in parts)
        return [np.fromiter(chain.from_iterable(encoding.ids for encoding in part), np.int32) for part in found]

    seconds = []
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(_ROUNDS + 1):
            start = time.perf_counter()
            found = list(chain(*pool.map(looked_up, range(n_threads)))) if way == "loid-infer" else rust()
            seconds.append(time.perf_counter() - start)
    n_tokens = sum(map(len, found))
    checksum = int(sum(int((ids.astype(np.int64) ** 2).sum()) for ids in found))
    print(
        json.dumps(
            {
                "tokens_per_s": n_tokens / median(seconds[1:]),
                "texts_per_s": len(texts) / median(seconds[1:]),
                "first_s": seconds[0],
                "checksum": checksum,
            }
        )
    )


if __name__ == "__main__":
    one(sys.argv[1], int(sys.argv[2])) if sys.argv[1:] else main()
