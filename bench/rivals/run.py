"""One rival in a process of its own: open, warm up, encode all texts of a table, print one JSON line.

python -m bench.rivals.run NAME FOLDER TABLE.parquet MAX_TOKENS
"""

import importlib
import inspect
import json
import resource
import sys
import time


def main() -> None:
    name, folder, path, max_tokens = *sys.argv[1:4], int(sys.argv[4])
    import pyarrow.parquet as pq

    rival = importlib.import_module(f"bench.rivals.{name}")
    texts = list(dict.fromkeys(pq.read_table(path, columns=["text"])["text"].to_pylist()))
    wants_texts = "texts" in inspect.signature(rival.prepare).parameters  # one that calibrates
    encode = rival.prepare(folder, max_tokens, *([texts] if wants_texts else []))
    encode(texts[:64])
    start = time.perf_counter()
    vectors = encode(texts)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"label": rival.LABEL, "seconds": seconds, "n_texts": len(vectors), "peak_rss_bytes": peak}))


if __name__ == "__main__":
    main()
