"""The TensorRT runtime: model.onnx through onnxruntime, compiled to engines for this GPU.

An engine covers a range of widths and is slow to build, so there is one per octave of widths, built on first use and
cached. Engines are machine code: they are kept in a private folder of the user, by the digest of their graph, and never
read from a workspace.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import stat
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loid_infer.artifact import digest_file
from loid_infer.encoders.budget import Budget
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.encoders.gpu import tensorrt_lacks, tensorrt_libraries
from loid_infer.encoders.graph import checked
from loid_infer.encoders.onnxruntime import GPU_BATCH_TOKENS, forward, halves, open_session, padded_size
from loid_infer.encoders.protocol import GPU_TOKENIZERS, Backend, Runtime
from loid_infer.errors import BadArtifact, NoSpace, RuntimeMissing
from loid_infer.settings import machine_memory, make_folder
from loid_infer.types import Floats, Ints, TokenBatch

MIN_TOKENS = 16
_INPUTS = ("input_ids", "attention_mask")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_NO_FOLDER = "Name a writable folder in the variable XDG_CACHE_HOME, or use --runtime auto."
_FLAGS = {"fp16": {"trt_fp16_enable": "1"}, "bf16": {"trt_bf16_enable": "1"}}


def backend() -> Backend:
    """TensorRT, through onnxruntime."""
    return Backend("tensorrt", "onnxruntime", {"cuda": ("bf16", "fp16")}, _open)


def _open(encoder: EncoderFolder, _: str, n_threads: int, __: int | None) -> Runtime:
    import torch

    from loid_infer.encoders.cuda import gpu_budget

    spec = encoder.spec
    if spec.max_tokens < MIN_TOKENS:
        what = f"TensorRT needs a maximum length of at least {MIN_TOKENS} tokens"
        raise RuntimeMissing(what, got=f"--max-tokens {spec.max_tokens}", fix="Use --runtime torch.")
    memory = machine_memory()
    if memory is None:
        raise RuntimeMissing("TensorRT has no folder for its engines", got="no home folder", fix=_NO_FOLDER)
    name, budget = torch.cuda.get_device_name(), gpu_budget("tensorrt", spec, GPU_BATCH_TOKENS)
    return TensorRt(checked(encoder.graph), spec.precision, spec.max_tokens, name, memory.parent, budget)


@dataclass(frozen=True, slots=True)
class Profile:
    """The shapes of one engine: up to `max_rows` rows of `min_tokens` to `max_tokens` tokens."""

    min_tokens: int
    max_tokens: int
    best_rows: int  # the engine is tuned for this number of rows of `max_tokens`
    max_rows: int

    def options(self) -> dict[str, str]:
        """The options of onnxruntime's TensorRT provider."""
        shapes = {
            "min": (1, self.min_tokens),
            "opt": (self.best_rows, self.max_tokens),
            "max": (self.max_rows, self.max_tokens),
        }
        return {
            f"trt_profile_{which}_shapes": ",".join(f"{name}:{rows}x{tokens}" for name in _INPUTS)
            for which, (rows, tokens) in shapes.items()
        }


def profiles(max_tokens: int, max_batch_tokens: int) -> tuple[Profile, ...]:
    """One profile per octave of widths up to `max_tokens`, for batches of up to `max_batch_tokens` with padding.

    The smallest width is MIN_TOKENS, because an engine reserves memory for `max_rows` x `max_tokens`.
    """
    result: list[Profile] = []
    low, high = MIN_TOKENS, 2 * MIN_TOKENS
    while not result or low <= max_tokens:
        top = max(low, min(high, max_tokens))
        result.append(Profile(low, top, max(1, max_batch_tokens // top), max(1, max_batch_tokens // low)))
        low, high = high + 1, high * 2
    return tuple(result)


class TensorRt:
    """One session per profile, opened for the first batch of its widths."""

    name = "tensorrt"
    pads, tile, n_tokenizers = True, 1, GPU_TOKENIZERS

    def __init__(self, graph: Path, precision: str, max_tokens: int, gpu: str, memory: Path, budget: Budget) -> None:
        """Load TensorRT's libraries and create the folder for engines.

        Args:
            precision: fp16 | bf16; LayerNorm, a single operator of the graph, is computed in float32.
            gpu: name of the GPU, part of the folder's name.
            memory: engines are cached in its subfolder `tensorrt`.
            budget: of a batch with its padding.

        Raises:
            RuntimeMissing: TensorRT cannot be used here.
            BadArtifact: other users may write to the folder.
        """
        lacks = tensorrt_lacks()
        if lacks:
            fix = "Run `loid-infer doctor`, or use --runtime auto."
            raise RuntimeMissing(f"TensorRT cannot run here: {lacks}", where=str(graph), fix=fix)
        try:
            library, _ = (ctypes.CDLL(path, ctypes.RTLD_GLOBAL) for path in tensorrt_libraries())
        except OSError as error:
            what = f"TensorRT's library cannot be opened: {error}"
            raise RuntimeMissing(what, where=str(graph), fix="Run `loid-infer doctor`.") from error
        self._graph, self._budget, self.max_batch_tokens = graph, budget, budget.max_tokens
        self._profiles = profiles(max_tokens, budget.max_tokens)
        self._sessions: dict[Profile, Any] = {}
        version, gpu_slug = library.getInferLibVersion(), re.sub(r"[^A-Za-z0-9.-]", "_", gpu)
        name = f"{digest_file(graph)[:32]}-{version}-{gpu_slug}-{precision}"
        self._folder = private_folder(memory / "tensorrt", name)
        self._options = {
            **_FLAGS[precision],
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(self._folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(self._folder),
        }
        self.detail = f"TensorRT {version} on {gpu}, {precision}, {len(self._profiles)} engines"

    def run(self, batches: Iterable[TokenBatch]) -> Generator[tuple[Ints, Floats]]:
        """See `Runtime.run`."""
        for batch in batches:
            padding = ((0, 0), (0, max(0, MIN_TOKENS - batch.input_ids.shape[1])))
            ids, mask = (np.pad(part, padding) for part in (batch.input_ids, batch.attention_mask))
            widened = TokenBatch(batch.slots, ids, mask, batch.n_tokens)
            yield from self._budget.fit(widened, self._forward, padded_size, halves)

    def _forward(self, batch: TokenBatch) -> tuple[Ints, Floats]:
        width = batch.input_ids.shape[1]
        profile = next(profile for profile in self._profiles if width <= profile.max_tokens)
        if profile in self._sessions:
            return batch.slots, forward(self._sessions[profile], batch, "cuda")
        prefix = f"tokens{profile.max_tokens}x{profile.max_rows}"
        options = {**self._options, "trt_engine_cache_prefix": prefix, **profile.options()}
        try:
            session = open_session(self._graph, "tensorrt", options, n_threads=1)
        except BadArtifact as error:
            what = f"TensorRT cannot build an engine: {error.what}"
            raise RuntimeMissing(what, where=error.where, fix="Use --runtime auto.") from error
        vectors = forward(session, batch, "cuda")
        if not any(self._folder.glob(f"{prefix}*.engine")):  # onnxruntime falls back to CUDA
            what = "TensorRT computes no part of the graph"
            raise RuntimeMissing(what, where=str(self._graph), fix="Use --runtime auto.")
        self._sessions[profile] = session
        return batch.slots, vectors


def private_folder(*parts: Path | str) -> Path:
    """A folder that only this user can read and write; created if missing.

    Raises:
        BadArtifact: the folder exists and other users have access.
        RuntimeMissing: it cannot be created.
    """
    folder = Path(*parts)
    for path in (folder.parent, folder):
        try:
            make_folder(path.parent)
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
        except (OSError, NoSpace) as error:
            raise RuntimeMissing("TensorRT has no folder for its engines", got=str(error), fix=_NO_FOLDER) from error
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & _OTHERS:
            raise BadArtifact(
                "engines are machine code, and others may write to their folder",
                where=str(path),
                expected="your own folder with mode 700",
                got=f"mode {stat.S_IMODE(status.st_mode):o} of user {status.st_uid}",
                fix=f"Run `rm -r {path}`; engines will be built again.",
            )
    return folder
