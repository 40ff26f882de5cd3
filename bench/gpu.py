"""How fast is a GPU? Forward alone, from texts into a store, and sentence-transformers on the same GPU.

    python -m bench.gpu [PART ...]          PART: forward, choices, encode, rivals; all of them without one
    python -m bench.gpu --device cpu        the same steps on the CPU with a few texts, to see that they run

It needs nobody while it runs and takes about ten minutes a part on an H200. Each part writes its own file in
bench/results (but for the CPU) as soon as it is measured. Texts are real reviews where they are at hand, repeated with
a number behind; elsewhere words drawn at random, as many as real reviews have tokens. BERT-base has random weights.
"""

import argparse
import gzip
import json
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from msgspec import structs

from bench.forward import flops_a_token, random_bert
from bench.record import median, real_reviews, save, table, work_folder
from loid_infer import encode, export, ingest
from loid_infer.encoders import gpu
from loid_infer.encoders.budget import Budget
from loid_infer.encoders.cuda import MAX_PACK_TOKENS, PackedRuntime
from loid_infer.encoders.folder import EncoderFolder, open_folder
from loid_infer.encoders.opening import load, measure
from loid_infer.encoders.pipeline import Stages, encode_stream
from loid_infer.encoders.protocol import Runtime
from loid_infer.encoders.schedule import token_batches
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.encoders.torch import module_of
from loid_infer.settings import Workspace
from loid_infer.types import TokenBatch

# Tokens of the reviews of Musical Instruments, with [CLS] and [SEP], at every twentieth of them.
LENGTHS = (2, 27, 30, 33, 36, 40, 45, 50, 56, 62, 69, 78, 87, 99, 113, 132, 157, 192, 250, 367, 512)
MAX_TOKENS = 256
WIDTHS = (64, 128, 256, 512)
PARTS = ("forward", "choices", "encode", "rivals")


@dataclass(frozen=True)
class Setting:
    """Where to measure, and how much."""

    device: str
    workspace: Path
    n_forward: int  # texts of a forward pass
    n_encode: tuple[int, ...]  # texts that are stored
    n_rivals: int
    rounds: int

    def finish(self, part: str, question: str, rows: list[dict], notes: str) -> None:
        notes += f" Matrix rate: bf16 products of 8192 x 8192, {matrix_rate(self.device) / 1e12:,.1f} TFLOP/s."
        if self.device == "cpu":
            print(f"\n{question}\n{table(rows)}\n{notes}", flush=True)
        else:
            save(question, f"gpu_{part}", rows, notes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    asked = parser.parse_args()
    if set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(set(asked.parts) - set(PARTS)))}")
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch sees no GPU: {gpu.torch_lacks() or 'see doctor'}. Add --device cpu to see it run.")
    sizes = (40_000, (100_000, 500_000, 2_000_000), 40_000, 5) if asked.device == "cuda" else (12, (50, 80), 40, 1)
    setting = Setting(asked.device, work_folder("gpu"), *sizes)
    random_bert(setting.workspace / "bert-base-shape")
    broken = [part for part in asked.parts or PARTS if not _measured(part, setting)]
    if broken:
        raise SystemExit(f"not all of it ran: {', '.join(broken)}; see above")


def _measured(part: str, setting: Setting) -> bool:
    """Measure a part and save what there is of it; whether that is all."""
    print(f"\n== {part}", flush=True)
    measure_part, question, notes = {
        "forward": (
            forward,
            "How fast is the forward pass on a GPU?",
            (
                f"Ids in main memory -> vectors in main memory, {setting.n_forward:,} texts, medians of "
                f"{setting.rounds}; real tokens, the FLOPs that CLS needs, parity over 64 probes."
            ),
        ),
        "choices": (
            choices,
            "How many tokens should a pack have, and does torch.compile pay?",
            (
                f"The real mix of lengths, up to {MAX_TOKENS}; medians of {setting.rounds}. `first_s`: the first "
                "pass, with all that is compiled then."
            ),
        ),
        "encode": (
            encoded,
            "How fast do texts come into a store through a GPU?",
            (
                f"`loid-infer encode`, texts of up to {MAX_TOKENS} tokens, {_source()}. Stages overlap; "
                "`tokenize_s` adds up threads."
            ),
        ),
        "rivals": (
            rivals,
            "Texts to vectors: how far from sentence-transformers on the same GPU?",
            (
                f"{setting.n_rivals:,} texts, {_source()}, up to {MAX_TOKENS} tokens, tokenizing included; "
                "sentence-transformers: own pooling, SDPA, the fastest of batches of 128, 512, 1,024."
            ),
        ),
    }[part]
    rows: list[dict] = []
    try:
        for row in measure_part(setting):
            rows.append(row)
            print(json.dumps(row), flush=True)
    except Exception:  # noqa: BLE001 - a GPU may be there for minutes only: what is measured is kept, and the next part runs
        traceback.print_exc()
        return False
    finally:
        if rows:
            setting.finish(part, question, rows, notes)
    return True


def forward(setting: Setting) -> Iterator[dict]:
    """Every shape, precision and runtime, on the real mix of lengths and on texts of one length."""
    for name in ("torch", "onnxruntime", "tensorrt"):  # the last builds engines for minutes
        for shape, encoder in encoders(setting):
            for precision in ("fp16", "bf16"):
                spec = structs.replace(encoder.spec, precision=precision, max_tokens=max(WIDTHS))
                for row in _forward_rows(setting, replace(encoder, spec=spec), name):
                    yield {"encoder": shape, "precision": precision, "runtime": name, **row}


def choices(setting: Setting) -> Iterator[dict]:
    """How many tokens a pack should have, and whether torch.compile pays."""
    sizes = (16_384, 32_768, 65_536, 131_072) if setting.device == "cuda" else (4096,)
    for shape, encoder in encoders(setting):
        for precision in ("fp16", "bf16"):
            for tokens, compiled in [*((size, False) for size in sizes), (min(MAX_PACK_TOKENS, sizes[-1]), True)]:
                runtime = packed_runtime(setting, encoder, precision, tokens, compiled=compiled)
                parts = batches(lengths_of(setting, "mix"), runtime.max_batch_tokens)
                speed, seconds = tokens_per_s(runtime, parts, setting.rounds)
                yield {
                    "encoder": shape,
                    "precision": precision,
                    "compiled": "yes" if compiled else "no",
                    "pack_tokens": tokens,
                    "tokens_per_s": speed,
                    "first_s": seconds,
                }


def encoded(setting: Setting) -> Iterator[dict]:
    """Texts into a store, more and more of them."""
    workspace = Workspace(setting.workspace)
    for n in setting.n_encode:
        write_table(setting, n)
        for shape, base in bases(setting):
            for precision in ("fp16", "bf16") if n == setting.n_encode[0] else ("fp16",):
                name = f"{shape.lower()}-{precision}"
                if not workspace.encoder(name).exists():
                    export(name, base=base, precision=precision, max_tokens=MAX_TOKENS, workspace=workspace)
                _emptied(setting.device)
                found = encode(f"texts-{n}", encoder=name, device=setting.device, workspace=workspace)
                yield {
                    "encoder": shape,
                    "precision": precision,
                    "texts": found.n_encoded,
                    "tokens_per_s": found.tokens_per_s,
                    "texts_per_s": found.texts_per_s,
                    "seconds": found.seconds,
                    "setup_s": found.setup_s,
                    "read_s": found.stages.read_s,
                    "tokenize_s": found.stages.tokenize_s,
                    "forward_s": found.stages.forward_s,
                    "commit_s": found.stages.commit_s,
                    "peak_rss_gib": found.peak_rss_bytes / 2**30,
                    "gpu_gib": _gpu_gib(setting.device),
                }
                for stored in workspace.cache.glob("*/data.mdb"):
                    stored.unlink()
                    stored.with_name("lock.mdb").unlink(missing_ok=True)
                    stored.with_name("card.json").unlink(missing_ok=True)


def rivals(setting: Setting) -> Iterator[dict]:
    """Texts to vectors in main memory: ours, and sentence-transformers with the batch size that suits it best."""
    texts = list(texts_of(setting.n_rivals))
    for (shape, encoder), (_, base) in zip(encoders(setting), bases(setting), strict=True):
        tokenizer = encoder.tokenizer()
        n_tokens = int(np.sum(tokenizer(texts).lengths))
        for precision in ("fp16", "bf16"):
            runtime = packed_runtime(setting, encoder, precision, MAX_PACK_TOKENS)
            ours = median([_ours(tokenizer, runtime, texts) for _ in range(setting.rounds + 1)][1:])
            theirs, size = _sentence_transformers(setting, base, precision, texts)
            for label, seconds, batch in (("loid-infer", ours, "-"), ("sentence-transformers", theirs, str(size))):
                yield {
                    "encoder": shape,
                    "precision": precision,
                    "library": label,
                    "batch": batch,
                    "tokens_per_s": n_tokens / seconds,
                    "times": theirs / seconds,
                }


def _forward_rows(setting: Setting, encoder: EncoderFolder, name: str) -> Iterator[dict]:
    """A row a kind of length, or one that says why there is none."""
    row = {
        "tokens": "-",
        "tokens_per_s": None,
        "tflop_per_s": None,
        "of_rate": None,
        "cos_min": None,
        "gpu_gib": None,
        "not_run": "-",
    }
    try:
        runtime: Runtime = (
            packed_runtime(setting, encoder, encoder.spec.precision, MAX_PACK_TOKENS)
            if name == "torch"
            else load(name, encoder, setting.device, 1)
        )
        cos_min = measure(runtime, encoder.probes()).cos_min
    except Exception as error:  # noqa: BLE001 - whatever it is, the next runtime is measured
        yield row | {"not_run": f"{type(error).__name__}: {error}"[:300]}
        return
    rate = matrix_rate(setting.device)
    for length in ("mix", *WIDTHS):
        lengths = lengths_of(setting, length)
        _emptied(setting.device)
        speed, _ = tokens_per_s(runtime, batches(lengths, runtime.max_batch_tokens), setting.rounds)
        needed = sum(flops_a_token(encoder.spec, int(n)) * n for n in lengths) / lengths.sum()
        yield row | {
            "tokens": str(length),
            "tokens_per_s": speed,
            "tflop_per_s": speed * needed / 1e12,
            "of_rate": speed * needed / rate,
            "cos_min": cos_min,
            "gpu_gib": _gpu_gib(setting.device),
        }


def packed_runtime(
    setting: Setting, encoder: EncoderFolder, precision: str, max_tokens: int, *, compiled: bool = False
) -> PackedRuntime:
    return PackedRuntime(
        module_of(encoder), precision, setting.device, Budget(max_tokens), half=True, compiled=compiled
    )


def tokens_per_s(runtime: Runtime, parts: list[TokenBatch], rounds: int) -> tuple[float, float]:
    """Real tokens a second, the median of `rounds` passes; and the seconds of a first one that is not counted."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for _ in runtime.run(parts):
            pass
        seconds.append(time.perf_counter() - start)
    return sum(part.n_tokens for part in parts) / median(seconds[1:]), seconds[0]


def batches(lengths, max_batch_tokens: int) -> list[TokenBatch]:
    ids = np.random.default_rng(0).integers(1000, 20_000, int(lengths.sum()))
    return list(token_batches(np.arange(len(lengths)), ids, lengths, max_batch_tokens, int(lengths.max())))


def lengths_of(setting: Setting, length: object):
    """Tokens of each text: all the same, or as real reviews have."""
    if length != "mix":
        n_tokens = setting.n_forward * 100
        return np.full(max(2, n_tokens // int(str(length))), int(str(length)), np.int64)
    drawn = np.random.default_rng(1).uniform(0, len(LENGTHS) - 1, setting.n_forward)
    return np.minimum(np.interp(drawn, np.arange(len(LENGTHS)), LENGTHS), MAX_TOKENS).astype(np.int64)


def matrix_rate(device: str) -> float:
    """FLOP/s of torch on a bf16 product of random numbers."""
    n = 8192 if device == "cuda" else 1024
    left, right = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    seconds = []
    for _ in range(23):
        wait()
        start = time.perf_counter()
        left @ right
        wait()
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / median(seconds[3:])


def bases(setting: Setting) -> list[tuple[str, str]]:
    return [("MiniLM-L6", "default"), ("BERT-base", str(setting.workspace / "bert-base-shape"))]


def encoders(setting: Setting) -> Iterator[tuple[str, EncoderFolder]]:
    workspace = Workspace(setting.workspace)
    for shape, base in bases(setting):
        name = f"{shape.lower()}-fp16"
        if not workspace.encoder(name).exists():
            export(name, base=base, precision="fp16", max_tokens=MAX_TOKENS, workspace=workspace)
        yield shape, open_folder(workspace.encoder(name), name)


def texts_of(n: int) -> Iterator[str]:
    """`n` different texts."""
    source = real_reviews()
    if source is not None:
        with gzip.open(source, "rt") as lines:
            real = list(dict.fromkeys(json.loads(line)["reviewText"] for line in lines))
        yield from (real[i % len(real)] + (f" {i}" if i >= len(real) else "") for i in range(n))
        return
    from loid_infer.graphs.bases import find_base

    vocabulary = json.loads((find_base("default")[1] / "tokenizer.json").read_text())["model"]["vocab"]
    words = np.array([word for word in vocabulary if word.isalpha() and word.isascii()], object)
    rng = np.random.default_rng(2)
    drawn = np.interp(rng.uniform(0, len(LENGTHS) - 1, n), np.arange(len(LENGTHS)), LENGTHS).astype(int)
    for i, length in enumerate(drawn):
        yield " ".join([*words[rng.integers(0, len(words), max(1, length - 3))], str(i)])


def write_table(setting: Setting, n: int) -> None:
    """`n` texts as the domain `texts-n`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    users, items = [f"u{i}" for i in range(n)], [f"i{i % 5000}" for i in range(n)]
    columns = {"user_id": users, "item_id": items, "rating": [5.0] * n, "text": list(texts_of(n))}
    path = setting.workspace / f"texts-{n}.parquet"
    pq.write_table(pa.table(columns), path)
    ingest([path], domain=f"texts-{n}", workspace=Workspace(setting.workspace))
    path.unlink()


def _source() -> str:
    return "real reviews" if real_reviews() else "random words"


def _ours(tokenizer: Tokenizer, runtime: Runtime, texts: list[str]) -> float:
    start = time.perf_counter()
    for _ in encode_stream(iter([(np.arange(len(texts)), texts)]), tokenizer, runtime, Stages()):
        pass
    return time.perf_counter() - start


def _sentence_transformers(setting: Setting, base: str, precision: str, texts: list[str]) -> tuple[float, int]:
    """Seconds, and the batch size they were reached with."""
    from sentence_transformers import SentenceTransformer

    from loid_infer.graphs.bases import find_base

    options = {"dtype": {"fp16": torch.float16, "bf16": torch.bfloat16}[precision], "attn_implementation": "sdpa"}
    model = SentenceTransformer(str(find_base(base)[1]), device=setting.device, model_kwargs=options)
    model.max_seq_length = MAX_TOKENS
    found = {}
    for size in (128, 512, 1024) if setting.device == "cuda" else (32,):
        seconds = []
        for _ in range(2 + (setting.rounds > 1)):
            start = time.perf_counter()
            model.encode(texts, batch_size=size, show_progress_bar=False)
            seconds.append(time.perf_counter() - start)
        found[size] = min(seconds[1:])
    best = min(found, key=lambda size: found[size])
    return found[best], best


def _gpu_gib(device: str) -> float | None:
    """What is taken of the GPU's memory, by whatever library."""
    if device != "cuda":
        return None
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**30


def _emptied(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
