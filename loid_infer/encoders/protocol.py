"""What every runtime is: a stream of token batches in, vectors out; and what makes one, a backend.

A runtime knows ids and masks; not texts, tokenizers, stores or the order the caller wants.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from loid_infer.encoders.folder import EncoderFolder
from loid_infer.encoders.processor import installed
from loid_infer.types import Floats, Ints, TokenBatch

GPU_TOKENIZERS = 4  # threads that make tokens for a GPU; beside a processor's runtime one is enough


class Runtime(Protocol):
    """One way to compute an encoder's vectors. A vector depends on its own row of the batch only."""

    @property
    def name(self) -> str:
        """torch | onnxruntime | openvino | tensorrt | fake."""

    @property
    def detail(self) -> str:
        """Device, threads, streams and precision, for people."""

    @property
    def max_batch_tokens(self) -> int:
        """Tokens of a batch, padding included, that it computes fastest; it takes any number."""

    @property
    def pads(self) -> bool:
        """Whether it computes padding."""

    @property
    def n_tokenizers(self) -> int:
        """Threads that should make tokens for it: one beside a processor's runtime, several beside a GPU."""

    def run(self, batches: Iterable[TokenBatch]) -> Generator[tuple[Ints, Floats]]:
        """The slots `[n]` of one or several batches and their vectors `[n, d]`, in float32 or, where it says so in
        `detail`, float16; in any order.

        Batches are pulled as the runtime has room for them, so several may be under way at once. Closing the generator
        waits for those and drops them.
        """


@dataclass(frozen=True, slots=True)
class Backend:
    """How a runtime is made."""

    name: str
    package: str  # that must be installed
    precisions: Mapping[str, tuple[str, ...]]  # that it computes, by device: cpu | cuda
    gpu_lacks: Callable[[], str]  # why it computes on no GPU here; empty where it can
    open: Callable[[EncoderFolder, str, int], Runtime]  # (encoder, device, threads)

    @property
    def installed(self) -> bool:
        """Whether its package is there; it is not imported."""
        return installed(self.package)

    def computes(self, device: str, precision: str) -> bool:
        """Whether it has this precision on that device."""
        return precision in self.precisions.get(device, ())
