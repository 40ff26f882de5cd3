"""How near is the forward pass to the processor's own matrix rate, and what do longer texts cost?

Batches of one width through the runtime, nothing around it: no table, no tokenizer, no store. FLOPs are those that CLS
needs, padding not counted; the rate is torch's on a product of the same shape as the largest one of a layer.

    python -m bench.forward
"""

import json
import shutil
import time

import numpy as np

from bench.record import loid, median, save, work_folder
from loid_infer.encoders.folder import EncoderFolder, open_folder
from loid_infer.encoders.opening import open_runtime
from loid_infer.encoders.processor import has_bf16
from loid_infer.encoders.protocol import Runtime
from loid_infer.encoders.schedule import MAX_BATCH_TOKENS
from loid_infer.settings import Workspace
from loid_infer.types import SILENT, Spec, TokenBatch

WIDTHS = (16, 32, 64, 128, 256, 512)
_ROUNDS = 3


def main() -> None:
    workspace = work_folder("forward")
    bert = random_bert(workspace / "bert-base-shape")
    rows = []
    for shape, base in (("MiniLM-L6", "default"), ("BERT-base", str(bert))):
        for precision in ("fp32", "bf16") if has_bf16() else ("fp32",):
            name = f"{shape.lower()}-{precision}"
            loid(
                "export",
                "--name",
                name,
                "--base",
                base,
                "--precision",
                precision,
                "--max-tokens",
                "512",
                "-w",
                str(workspace),
            )
            encoder = open_folder(Workspace(workspace).encoder(name), name)
            rows += _rows(shape, encoder)
    save(
        "How near is the forward pass to the processor's matrix rate?",
        "forward",
        rows,
        f"Batches of about {MAX_BATCH_TOKENS:,} tokens of one width, no padding, medians of {_ROUNDS}; GFLOP counted "
        "as needed for CLS. `of_rate`: of torch's rate, measured between the runs, on tokens x hidden x feed-forward "
        "in the same precision. BERT-base has random weights.",
    )
    shutil.rmtree(workspace)


def _rows(shape: str, encoder: EncoderFolder) -> list[dict]:
    runtime = open_runtime(encoder, runtime="auto", device="cpu", n_threads=None, progress=SILENT)
    rows = []
    for width in WIDTHS:
        found, rates = [], []
        for _ in range(_ROUNDS):
            rates.append(matrix_rate(encoder.spec))
            found.append(tokens_per_s(runtime, width, 12 if shape == "MiniLM-L6" else 4))
        speed, needed = median(found), flops_a_token(encoder.spec, width)
        rows.append(
            {
                "encoder": shape,
                "precision": encoder.spec.precision,
                "runtime": runtime.name,
                "tokens": width,
                "tokens_per_s": speed,
                "texts_per_s": speed / width,
                "gflop_per_s": speed * needed / 1e9,
                "of_rate": speed * needed / median(rates),
            }
        )
    return rows


def flops_a_token(spec: Spec, width: int) -> float:
    """Floating-point operations that one token of a text of `width` tokens needs, the text's own share included."""
    d, inner, heads, layers = spec.dim, spec.feed_forward_dim, spec.n_heads, spec.n_layers
    full = 2 * (4 * d * d + 2 * d * inner) + 4 * d * width  # products with weights; scores and their sums
    last_a_token = 4 * heads * d
    last_a_text = 2 * (4 * d * d + 2 * d * inner)  # query, key on the query, value on the sum, output, feed-forward
    return (layers - 1) * full + last_a_token + last_a_text / width


def matrix_rate(spec: Spec) -> float:
    """FLOP/s of torch, all threads, on a product of a layer's shape; bf16 unless the spec says fp32."""
    import torch

    kind = torch.float32 if spec.precision == "fp32" else torch.bfloat16
    rows, d, inner = 4096, spec.dim, spec.feed_forward_dim
    left, right = torch.ones(rows, d, dtype=kind), torch.ones(d, inner, dtype=kind)
    times = []
    for _ in range(12):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return 2 * rows * d * inner / median(times[2:])


def tokens_per_s(runtime: Runtime, width: int, n_batches: int) -> float:
    n = max(1, MAX_BATCH_TOKENS // width)
    ids = np.random.default_rng(0).integers(1000, 20_000, (n, width))
    batch = TokenBatch(np.arange(n), ids, np.ones_like(ids), ids.size)
    list(runtime.run([batch] * 3))
    start = time.perf_counter()
    list(runtime.run([batch] * n_batches))
    return n_batches * ids.size / (time.perf_counter() - start)


def random_bert(folder):
    """BERT-base's shape with random weights and the bundled tokenizer: no hub is needed for its speed."""
    import torch
    import transformers

    from loid_infer.graphs.bases import find_base

    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig()).save_pretrained(folder)
    bundled = find_base("default")[1]
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (bundled / name).is_file():
            shutil.copy(bundled / name, folder)
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 768
    return folder


if __name__ == "__main__":
    main()
