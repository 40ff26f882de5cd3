"""The interface of a runtime, which turns token batches into vectors, and of a backend, which opens one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from loid_infer.encoders.folder import EncoderFolder
from loid_infer.encoders.processor import installed
from loid_infer.types import Floats, Ints, TokenBatch

GPU_TOKENIZERS = 4  # tokenizer threads for a GPU; for a CPU one is enough


class Runtime(Protocol):
    """Computes an encoder's vectors. A vector depends on its own row of the batch only."""

    name: str  # torch | onnxruntime | openvino | tensorrt | fake
    detail: str  # device, threads, streams and precision, for people
    max_batch_tokens: int  # the fastest batch size in tokens, padding included; other sizes work too
    pads: bool  # whether it computes padding
    tile: int  # multiples of it are its fastest widths, see `schedule.padded_lengths`; 1: none are
    n_tokenizers: int  # tokenizer threads it needs

    def run(self, batches: Iterable[TokenBatch]) -> Generator[tuple[Ints, Floats]]:
        """The slots `[n]` of one or several batches and their vectors `[n, d]`, float32 or float16, in any order.

        Several batches may be computed at once. Closing the generator waits for them and drops their results.
        """


@dataclass(frozen=True, slots=True)
class Backend:
    """Describes and opens a runtime."""

    name: str
    package: str  # required Python package
    precisions: Mapping[str, tuple[str, ...]]  # supported precisions by device: cpu | cuda
    open: Callable[[EncoderFolder, str, int, int | None], Runtime]  # (encoder, device, threads, streams)

    @property
    def installed(self) -> bool:
        """Whether the package is installed, without importing it."""
        return installed(self.package)

    def computes(self, device: str, precision: str) -> bool:
        """Whether it supports `precision` on `device`."""
        return precision in self.precisions.get(device, ())
