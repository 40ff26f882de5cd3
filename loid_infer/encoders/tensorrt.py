"""The TensorRT runtime: the same model.onnx through onnxruntime, as engines that are built for this very GPU.

An engine holds for a range of widths and is slow to build, so there are few, one an octave of widths, built when first
needed and kept. An engine is machine code: it lies in a folder of the user's own, under the digest of the graph it was
built from, never in a workspace and never taken from one.
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
from loid_infer.encoders.onnxruntime import GPU_BATCH_TOKENS, Padded, forward, open_session
from loid_infer.encoders.protocol import GPU_TOKENIZERS, Backend, Runtime
from loid_infer.errors import BadArtifact, RuntimeMissing
from loid_infer.settings import machine_memory
from loid_infer.types import Floats, Ints, TokenBatch

MIN_TOKENS = 16
_INPUTS = ("input_ids", "attention_mask")
_PRIVATE = stat.S_IRWXG | stat.S_IRWXO
_FLAGS = {"fp16": {"trt_fp16_enable": "1"}, "bf16": {"trt_bf16_enable": "1"}}


def backend() -> Backend:
    """TensorRT, through onnxruntime. Norms are computed in float32."""
    return Backend("tensorrt", "onnxruntime", {"cuda": ("bf16", "fp16")}, tensorrt_lacks, _open)


def _open(encoder: EncoderFolder, _: str, n_threads: int) -> Runtime:
    import torch

    from loid_infer.encoders.cuda import gpu_budget

    if encoder.spec.max_tokens < MIN_TOKENS:
        raise RuntimeMissing(
            f"TensorRT takes encoders of {MIN_TOKENS} tokens and more",
            got=f"--max-tokens {encoder.spec.max_tokens}",
            fix="Use --runtime torch.",
        )
    spec, budget = encoder.spec, gpu_budget("tensorrt", encoder.spec, GPU_BATCH_TOKENS)
    name, memory = torch.cuda.get_device_name(), machine_memory().parent
    return TensorRt(checked(encoder.graph), spec.precision, spec.max_tokens, name, memory, budget)


@dataclass(frozen=True, slots=True)
class Profile:
    """The shapes that one engine takes: any number of rows up to `max_rows`, of `min_tokens` to `max_tokens`."""

    min_tokens: int
    max_tokens: int
    best_rows: int  # at `max_tokens`: what it is tuned for
    max_rows: int

    def options(self) -> dict[str, str]:
        """As onnxruntime wants them."""
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
    """One an octave of widths up to `max_tokens`, for batches of up to `max_batch_tokens` with padding.

    The lowest begins at MIN_TOKENS: an engine keeps memory for its most rows of its most tokens.
    """
    found: list[Profile] = []
    low, high = MIN_TOKENS, 2 * MIN_TOKENS
    while not found or low <= max_tokens:
        top = max(low, min(high, max_tokens))
        found.append(Profile(low, top, max(1, max_batch_tokens // top), max(1, max_batch_tokens // low)))
        low, high = high + 1, high * 2
    return tuple(found)


def widened(batch: TokenBatch) -> TokenBatch:
    """`batch`, padded to MIN_TOKENS where it is narrower."""
    more = ((0, 0), (0, max(0, MIN_TOKENS - batch.input_ids.shape[1])))
    ids, mask = (np.pad(part, more) for part in (batch.input_ids, batch.attention_mask))
    return TokenBatch(batch.slots, ids, mask, batch.n_tokens)


class TensorRt:
    """One session a profile; each opened when a batch of its widths comes."""

    name = "tensorrt"
    pads, n_tokenizers = True, GPU_TOKENIZERS

    def __init__(self, graph: Path, precision: str, max_tokens: int, gpu: str, memory: Path, budget: Budget) -> None:
        """Look for TensorRT, and for a private folder to keep engines in.

        Args:
            precision: fp16 | bf16; LayerNorm, one operator in the graph, is computed in float32 all the same.
            max_tokens: the encoder's.
            gpu: its name, which engines are kept under.
            memory: the folder whose `tensorrt` holds engines.
            budget: of a batch with its padding.

        Raises:
            RuntimeMissing: TensorRT cannot run here.
            BadArtifact: others may write to the folder.
        """
        lacks = tensorrt_lacks()
        if lacks:
            raise RuntimeMissing(
                f"TensorRT cannot run here: {lacks}",
                where=str(graph),
                fix="See `loid-infer doctor`, or let --runtime auto choose.",
            )
        try:
            library, _ = (ctypes.CDLL(path, ctypes.RTLD_GLOBAL) for path in tensorrt_libraries())
        except OSError as error:
            raise RuntimeMissing(
                f"TensorRT's library cannot be opened: {error}", where=str(graph), fix="See `loid-infer doctor`."
            ) from error
        self._graph, self._budget, self.max_batch_tokens = graph, budget, budget.max_tokens
        self._profiles = profiles(max_tokens, budget.max_tokens)
        self._sessions: dict[Profile, Any] = {}
        digest = digest_file(graph)
        version = library.getInferLibVersion()
        self._folder = private_folder(
            memory / "tensorrt", f"{digest[:32]}-{version}-{re.sub(r'[^A-Za-z0-9.-]', '_', gpu)}-{precision}"
        )
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
            yield from self._budget.fit(Padded(widened(batch)), self._forward)

    def _forward(self, work: Padded) -> tuple[Ints, Floats]:
        width = work.batch.input_ids.shape[1]
        profile = next(profile for profile in self._profiles if width <= profile.max_tokens)
        if profile in self._sessions:
            return work.batch.slots, forward(self._sessions[profile], work.batch, "cuda")
        prefix = f"tokens{profile.max_tokens}x{profile.max_rows}"
        options = {**self._options, "trt_engine_cache_prefix": prefix, **profile.options()}
        try:
            session = open_session(self._graph, "tensorrt", options, n_threads=1)
        except BadArtifact as error:
            raise RuntimeMissing(
                f"TensorRT cannot build an engine: {error.what}", where=error.where, fix="Let --runtime auto choose."
            ) from error
        vectors = forward(session, work.batch, "cuda")
        if not any(self._folder.glob(f"{prefix}*.engine")):  # onnxruntime gives CUDA whatever TensorRT does not take
            raise RuntimeMissing(
                "TensorRT took no part of the graph", where=str(self._graph), fix="Let --runtime auto choose."
            )
        self._sessions[profile] = session
        return work.batch.slots, vectors


def private_folder(*parts: Path | str) -> Path:
    """A folder that nobody but this user can write to or read, made if it is not there.

    Raises:
        BadArtifact: it is there and others can.
    """
    folder = Path(*parts)
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    for path in (folder.parent, folder):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & _PRIVATE:
            raise BadArtifact(
                "engines are machine code, and others may write to their folder",
                where=str(path),
                expected="a folder of yours with mode 700",
                got=f"mode {stat.S_IMODE(found.st_mode):o} of user {found.st_uid}",
                fix=f"Run `rm -r {path}`; engines are built anew.",
            )
    return folder
