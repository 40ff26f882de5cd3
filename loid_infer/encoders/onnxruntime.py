"""The onnxruntime runtime: model.onnx on the CPU, in the precision it was written in, or on a GPU.

The provider is named, and checked after loading: onnxruntime itself takes the CPU in silence where a library of the
GPU's is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loid_infer.encoders import gpu
from loid_infer.encoders.budget import Budget, DeviceFull, is_full, no_memory
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.encoders.graph import checked, other_taken, refused
from loid_infer.encoders.protocol import GPU_TOKENIZERS, Backend, Runtime
from loid_infer.encoders.schedule import MAX_BATCH_TOKENS
from loid_infer.errors import RuntimeMissing
from loid_infer.types import Floats, Ints, TokenBatch

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
GPU_BATCH_TOKENS = 32_768  # of a batch on a GPU, while it has memory for it


def backend() -> Backend:
    """onnxruntime. fp16 and bf16 are computed in float32 on a processor, and in TF32 on a GPU."""
    precisions = {"cpu": ("fp32", "fp16", "int8"), "cuda": ("fp32", "bf16", "fp16")}
    return Backend("onnxruntime", "onnxruntime", precisions, gpu.onnxruntime_lacks, _open)


def _open(encoder: EncoderFolder, device: str, n_threads: int) -> Runtime:
    budget = None
    if device == "cuda":
        from loid_infer.encoders.cuda import gpu_budget

        budget = gpu_budget("onnxruntime", encoder.spec, GPU_BATCH_TOKENS)
    return OnnxRuntime(checked(encoder.graph), encoder.spec.precision, device, n_threads, budget)


class OnnxRuntime:
    """One session, one batch at a time."""

    name = "onnxruntime"
    pads = True

    def __init__(self, graph: Path, precision: str, device: str, n_threads: int, budget: Budget | None = None) -> None:
        """Load `graph`, which holds float32, or int8 beside it.

        Args:
            precision: fp32, or int8 where the graph is; on a GPU also fp16 or bf16: products are computed in TF32
                then, whose inputs have the bits of fp16 and more than those of bf16. With fp32 they never are.
            device: cpu | cuda.
            budget: of a batch with its padding; for a GPU.

        Raises:
            BadArtifact: it cannot be loaded.
            RuntimeMissing: the session runs on another provider than the one asked for.
        """
        self._device, self._budget = device, budget or Budget(sys.maxsize)
        self.max_batch_tokens, self.n_tokenizers = (
            (budget.max_tokens, GPU_TOKENIZERS) if budget else (MAX_BATCH_TOKENS, 1)
        )
        options = {"use_tf32": str(int(precision != "fp32")), "arena_extend_strategy": "kSameAsRequested"}
        self._session = open_session(graph, device, options if device == "cuda" else {}, n_threads)
        where, computed = (f"CPU, {n_threads} threads", "fp32") if device == "cpu" else ("CUDA", "TF32")
        self.detail = f"{where}, {precision}" + (f" with {computed}" if precision in ("fp16", "bf16") else "")

    def run(self, batches: Iterable[TokenBatch]) -> Generator[tuple[Ints, Floats]]:
        """See `Runtime.run`."""
        for batch in batches:
            yield from self._budget.fit(Padded(batch), self._forward)

    def _forward(self, work: Padded) -> tuple[Ints, Floats]:
        return work.batch.slots, forward(self._session, work.batch, self._device)


def open_session(graph: Path, provider: str, options: dict[str, str], n_threads: int) -> Any:
    """A session of `graph` on one of PROVIDERS; see `OnnxRuntime`. TensorRT leaves to CUDA what it cannot compute."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = n_threads
    settings.log_severity_level = 3
    # The arena keeps the largest batch ever run and never shrinks; without it memory follows the batch.
    settings.enable_cpu_mem_arena = False
    asked = PROVIDERS[provider]
    if asked not in onnxruntime.get_available_providers():
        raise RuntimeMissing(
            "this onnxruntime is not built for a GPU",
            where=str(graph),
            expected=asked,
            got=", ".join(onnxruntime.get_available_providers()),
            fix="pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'loid-infer[gpu]'.",
        )
    wanted: list[Any] = [(asked, options)]
    if provider == "tensorrt":
        wanted.append(PROVIDERS["cuda"])
    try:
        with redirect_stdout(sys.stderr):  # it prints, and stdout is data
            if provider != "cpu":
                onnxruntime.preload_dlls()  # CUDA and cuDNN, out of the packages that torch brings along
            session = onnxruntime.InferenceSession(str(graph), settings, providers=wanted, enable_fallback=0)
    except Exception as error:
        if is_full(error):
            raise no_memory("the encoder's weights") from error
        raise refused("onnxruntime", graph, error) from error
    if session.get_providers()[0] != asked:
        raise other_taken("onnxruntime took another provider", graph, asked, ", ".join(session.get_providers()))
    return session


def forward(session: Any, batch: TokenBatch, device: str) -> Floats:
    """The vectors `[n, d]` of a batch, its ids and vectors bound to the memory of `place` (cpu | cuda).

    Raises:
        DeviceFull: there was too little of it.
    """
    import onnxruntime

    bound = session.io_binding()
    try:
        for name, ids in (("input_ids", batch.input_ids), ("attention_mask", batch.attention_mask)):
            bound.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(ids, device, 0))
        bound.bind_output("cls", device)
        session.run_with_iobinding(bound)
        vectors: Floats = bound.copy_outputs_to_cpu()[0]
    except Exception as error:
        if device != "cpu" and is_full(error):
            raise DeviceFull from error
        raise
    return vectors


@dataclass(frozen=True, slots=True)
class Padded:
    """A batch as a GPU counts it."""

    batch: TokenBatch

    @property
    def n_texts(self) -> int:
        """Rows."""
        return len(self.batch.slots)

    @property
    def n_tokens(self) -> int:
        """With padding."""
        return int(self.batch.input_ids.size)

    def halves(self) -> tuple[Padded, Padded]:
        """The upper and the lower rows."""
        return self._rows(slice(None, self.n_texts // 2)), self._rows(slice(self.n_texts // 2, None))

    def _rows(self, rows: slice) -> Padded:
        ids, mask = (np.ascontiguousarray(part[rows]) for part in (self.batch.input_ids, self.batch.attention_mask))
        return Padded(TokenBatch(self.batch.slots[rows], ids, mask, int(mask.sum())))
