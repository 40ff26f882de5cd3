"""What is each trick of the encode engine worth? All on, and then one taken away at a time.

python -m bench.tricks [N_REVIEWS] [REPEATS]
"""

import csv
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq

from bench.record import loid, median, real_table, save
from loid_infer.architectures import transformer
from loid_infer.architectures.layer import EveryToken
from loid_infer.encoders.folder import EncoderFolder, open_folder
from loid_infer.encoders.openvino import OpenVino
from loid_infer.encoders.pipeline import Stages, encode_stream
from loid_infer.encoders.processor import n_usable_threads
from loid_infer.encoders.protocol import Runtime
from loid_infer.encoders.schedule import MAX_BATCH_TOKENS, padded
from loid_infer.encoders.tokens import Tokens
from loid_infer.graphs.graph import write_graph
from loid_infer.settings import Workspace
from loid_infer.types import TokenBatch


def main(n_reviews: int = 1500, repeats: int = 3) -> None:
    workspace, table = real_table("tricks", n_reviews)
    loid("export", "-w", str(workspace))
    encoder = open_folder(Workspace(workspace).encoder("base"), "base")
    texts = list(dict.fromkeys(pq.read_table(table, columns=["text"])["text"].to_pylist()))
    tokens = encoder.tokenizer()(texts)
    threads = n_usable_threads()
    runtime = _open(encoder, encoder.graph, threads)
    one_stream = _open(encoder, encoder.graph, 1)
    whole = _open(encoder, _whole_last_layer(encoder, workspace / "whole.onnx"), threads)
    ways: dict[str, Callable[[], None]] = {
        "all on: texts to vectors": lambda: _stream(encoder, runtime, texts),
        "no overlap: tokenized first": lambda: _forward(runtime, _in_order(encoder.tokenizer()(texts), by_length=True)),
        "all on: the forward pass alone": lambda: _forward(runtime, _in_order(tokens, by_length=True)),
        "batches in file order": lambda: _forward(runtime, _in_order(tokens, by_length=False)),
        "32 texts a batch, file order": lambda: _forward(runtime, _in_order(tokens, by_length=False, rows=32)),
        "last layer on every token": lambda: _forward(whole, _in_order(tokens, by_length=True)),
        "one stream": lambda: _forward(one_stream, _in_order(tokens, by_length=True)),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats + 1):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            times[way].append(time.perf_counter() - start)
    best = median(times["all on: the forward pass alone"][1:])
    n_tokens = int(tokens.lengths.sum())
    rows = [
        {
            "way": way,
            "seconds": median(found[1:]),
            "tokens_per_s": n_tokens / median(found[1:]),
            "times_slower": median(found[1:]) / best,
        }
        for way, found in times.items()
    ]
    halves = [_encode(workspace, texts, copies, repeats) for copies in (1, 2)]
    rows += [
        {"way": way, "seconds": seconds, "tokens_per_s": n_tokens / seconds, "times_slower": seconds / halves[0]}
        for way, seconds in zip(("`encode`, all texts different", "`encode`, half of them twice"), halves, strict=True)
    ]
    save(
        "What is each trick worth?",
        "tricks",
        rows,
        f"{len(texts):,} Musical Instruments reviews, {n_tokens:,} tokens, {runtime.detail}, medians of {repeats} "
        "after a warm-up. `times_slower`: than the forward pass alone with everything on; for `encode`, than with "
        "different texts.",
    )
    shutil.rmtree(workspace)


def _open(encoder: EncoderFolder, graph: Path, n_streams: int) -> Runtime:
    return OpenVino(graph, encoder.spec.precision, n_usable_threads(), n_streams)


def _stream(encoder: EncoderFolder, runtime: Runtime, texts: list[str]) -> None:
    for _ in encode_stream(iter([(np.arange(len(texts)), texts)]), encoder.tokenizer(), runtime, Stages()):
        pass


def _forward(runtime: Runtime, batches: Iterator[TokenBatch]) -> None:
    for _ in runtime.run(batches):
        pass


def _in_order(tokens: Tokens, *, by_length: bool, rows: int | None = None) -> Iterator[TokenBatch]:
    """Batches of the engine's budget, or of `rows` texts, each padded to its longest."""
    starts = np.cumsum(tokens.lengths) - tokens.lengths
    order = np.argsort(-tokens.lengths, kind="stable") if by_length else np.arange(len(starts))
    at = 0
    while at < len(order):
        ahead = tokens.lengths[order[at : at + MAX_BATCH_TOKENS]]
        sizes = np.maximum.accumulate(ahead) * np.arange(1, len(ahead) + 1)  # of the first 1, 2, ... texts, padded
        picked = order[at : at + (rows or max(1, int(np.searchsorted(sizes, MAX_BATCH_TOKENS, side="right"))))]
        at += len(picked)
        longest = int(tokens.lengths[picked].max())
        yield padded(picked, tokens.flat_ids, starts[picked], tokens.lengths[picked], longest)


def _whole_last_layer(encoder: EncoderFolder, path: Path) -> Path:
    """The graph that computes the last layer for every token and drops all but CLS."""

    def every(positions, padding, numbers, mask, *, last):
        return EveryToken(positions, padding, numbers)

    with patch.object(transformer, "OneToken", every):
        write_graph(encoder.spec, encoder.tensors(), path)
    return path


def _encode(workspace: Path, texts: list[str], copies: int, repeats: int) -> float:
    """Seconds that `encode` takes for as many rows as there are texts, each text `copies` times."""
    with (workspace / "rows.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["user_id", "item_id", "rating", "text"])
        writer.writerows([f"u{i}", "item", 5, texts[i // copies * copies]] for i in range(len(texts)))
    loid("ingest", str(workspace / "rows.csv"), "-d", "rows", "-w", str(workspace))
    found = []
    for _ in range(repeats):
        shutil.rmtree(workspace / "cache", ignore_errors=True)
        found.append(loid("encode", "-d", "rows", "-w", str(workspace))["seconds"])
    return median(found)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
