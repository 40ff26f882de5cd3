"""What every runtime is: a stream of token batches in, CLS vectors out.

A runtime knows ids and masks; not texts, tokenizers, stores or the order the caller wants.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Protocol, TypeAlias

from loid_infer.errors import BadArtifact
from loid_infer.types import Floats, Ints, TokenBatch

CARD_TOKENIZERS = 4  # threads that make tokens for a card; beside a processor's runtime one is enough

Graph: TypeAlias = Path | bytes  # an ONNX file, or the content of one that is in no file


def where_of(graph: Graph) -> str:
    """The place of `graph`, for messages."""
    return "joined graphs" if isinstance(graph, bytes) else str(graph)


def refused(runtime: str, graph: Graph, error: Exception) -> BadArtifact:
    """What to raise where a runtime cannot load `graph`."""
    reason = str(error).strip().splitlines()[-1][:300] if str(error).strip() else type(error).__name__
    return BadArtifact(f"{runtime} cannot load the graph: {reason}", where=where_of(graph),
                       mend="Export the encoder again.")  # fmt: skip


class Runtime(Protocol):
    """One way to compute an encoder's vectors, or those of several side by side: then d is the sum of their widths. A
    vector depends on its own row of the batch only."""

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
        """Threads that should make tokens for it: one beside a processor's runtime, several beside a card."""

    def run(self, batches: Iterable[TokenBatch]) -> Generator[tuple[Ints, Floats]]:
        """The slots `[n]` of one or several batches and their CLS vectors `[n, d]`, in float32 or, where it says so in
        `detail`, float16; in any order.

        Batches are pulled as the runtime has room for them, so several may be under way at once. Closing the generator
        waits for those and drops them.
        """
