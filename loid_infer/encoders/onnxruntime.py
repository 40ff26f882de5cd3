"""The onnxruntime runtime: model.onnx on the CPU or on a GPU.

The provider is checked after loading, since onnxruntime silently falls back to the CPU if a GPU library is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from loid_infer.encoders.budget import Budget, is_full, no_memory
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.encoders.graph import checked, load_error
from loid_infer.encoders.protocol import GPU_TOKENIZERS, Backend, Runtime
from loid_infer.encoders.schedule import MAX_BATCH_TOKENS
from loid_infer.errors import RuntimeMissing
from loid_infer.types import Floats, Ints, TokenBatch

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
GPU_BATCH_TOKENS = 32_768  # per batch on a GPU, if its memory suffices


def backend() -> Backend:
    """onnxruntime. fp16 and bf16 are computed in float32 on a CPU and in TF32 on a GPU."""
    precisions = {"cpu": ("fp32", "fp16", "int8"), "cuda": ("fp32", "bf16", "fp16")}
    return Backend("onnxruntime", "onnxruntime", precisions, _open)


def _open(encoder: EncoderFolder, device: str, n_threads: int, _: int | None) -> Runtime:
    budget = None
    if device == "cuda":
        from loid_infer.encoders.cuda import gpu_budget

        budget = gpu_budget("onnxruntime", encoder.spec, GPU_BATCH_TOKENS)
    return OnnxRuntime(checked(encoder.graph), encoder.spec.precision, device, n_threads, budget)


class OnnxRuntime:
    """One session, one batch at a time."""

    name = "onnxruntime"
    max_batch_tokens, pads, tile, n_tokenizers = MAX_BATCH_TOKENS, True, 1, 1

    def __init__(self, graph: Path, precision: str, device: str, n_threads: int, budget: Budget | None = None) -> None:
        """Load `graph`, whose weights are float32 or int8.

        Args:
            precision: on a GPU, fp16 and bf16 use TF32 products, whose inputs have the mantissa of fp16; fp32 does not.
            device: cpu | cuda.
            budget: of a batch with its padding; for a GPU.

        Raises:
            BadArtifact: the graph cannot be loaded.
            RuntimeMissing: the session runs on another provider than requested.
        """
        self._device, self._budget = device, budget
        if budget:
            self.max_batch_tokens, self.n_tokenizers = budget.max_tokens, GPU_TOKENIZERS
        options = {"use_tf32": str(int(precision != "fp32")), "arena_extend_strategy": "kSameAsRequested"}
        self._session = open_session(graph, device, options if device == "cuda" else {}, n_threads)
        target, products = (f"CPU, {n_threads} threads", "fp32") if device == "cpu" else ("CUDA", "TF32")
        self.detail = f"{target}, {precision}" + (f" with {products}" if precision in ("fp16", "bf16") else "")

    def run(self, batches: Iterable[TokenBatch]) -> Generator[tuple[Ints, Floats]]:
        """See `Runtime.run`."""
        for batch in batches:
            if self._budget is None:
                yield self._forward(batch)
            else:
                yield from self._budget.fit(batch, self._forward, padded_size, halves)

    def _forward(self, batch: TokenBatch) -> tuple[Ints, Floats]:
        return batch.slots, forward(self._session, batch, self._device)


def open_session(graph: Path, provider: str, options: dict[str, str], n_threads: int) -> Any:
    """A session of `graph` on one of PROVIDERS; see `OnnxRuntime`. CUDA computes what TensorRT cannot."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = n_threads
    settings.log_severity_level = 3
    # The arena never shrinks below the largest batch; without it memory follows the current batch.
    settings.enable_cpu_mem_arena = False
    name = PROVIDERS[provider]
    if name not in onnxruntime.get_available_providers():
        raise RuntimeMissing(
            "this onnxruntime is not built for a GPU",
            where=str(graph),
            expected=name,
            got=", ".join(onnxruntime.get_available_providers()),
            fix="Run `pip uninstall -y onnxruntime onnxruntime-gpu`, then `pip install 'loid-infer[gpu]'`.",
        )
    providers: list[Any] = [(name, options)]
    if provider == "tensorrt":
        providers.append(PROVIDERS["cuda"])
    try:
        with redirect_stdout(sys.stderr):  # onnxruntime prints to stdout, which is for results
            if provider != "cpu":
                onnxruntime.preload_dlls()  # CUDA and cuDNN from the packages of torch
            session = onnxruntime.InferenceSession(str(graph), settings, providers=providers, enable_fallback=0)
    except Exception as error:
        if is_full(error):
            raise no_memory("the encoder's weights") from error
        raise load_error("onnxruntime", graph, error) from error
    if session.get_providers()[0] != name:
        what, got = "onnxruntime uses another provider", ", ".join(session.get_providers())
        raise RuntimeMissing(what, where=str(graph), expected=name, got=got, fix="Run `loid-infer doctor`.")
    return session


def forward(session: Any, batch: TokenBatch, device: str) -> Floats:
    """The vectors `[n, d]` of a batch; inputs and outputs are in the memory of `device` (cpu | cuda)."""
    import onnxruntime

    binding = session.io_binding()
    for name, ids in (("input_ids", batch.input_ids), ("attention_mask", batch.attention_mask)):
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(ids, device, 0))
    binding.bind_output("cls", device)
    session.run_with_iobinding(binding)
    vectors: Floats = binding.copy_outputs_to_cpu()[0]
    return vectors


def padded_size(batch: TokenBatch) -> int:
    """Number of tokens, with padding."""
    return int(batch.input_ids.size)


def halves(batch: TokenBatch) -> tuple[TokenBatch, TokenBatch]:
    """The first and the second half of the rows."""
    n = len(batch.slots) // 2
    return _rows(batch, slice(None, n)), _rows(batch, slice(n, None))


def _rows(batch: TokenBatch, rows: slice) -> TokenBatch:
    ids, mask = (np.ascontiguousarray(part[rows]) for part in (batch.input_ids, batch.attention_mask))
    return TokenBatch(batch.slots[rows], ids, mask, int(mask.sum()))
