"""The onnxruntime runtime: model.onnx on the CPU, in the precision it was written in.

The provider is named, and checked after loading.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable

from loid_infer.encoders.protocol import Graph, refused, where_of
from loid_infer.errors import RuntimeMissing
from loid_infer.types import Floats, Ints, TokenBatch

_PROVIDER = "CPUExecutionProvider"


class OnnxRuntime:
    """One session; its threads work on one batch at a time."""

    name = "onnxruntime"

    def __init__(self, graph: Graph, precision: str, n_threads: int) -> None:
        """Load `graph`, whose own precision (fp32 | int8) is the one it is computed in.

        Raises:
            BadArtifact: it cannot be loaded.
            RuntimeMissing: the session runs on another provider than the one asked for.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.log_severity_level = 3
        # The arena keeps the largest batch ever run and never shrinks; without it memory follows the batch.
        options.enable_cpu_mem_arena = False
        content = graph if isinstance(graph, bytes) else str(graph)
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=[_PROVIDER])
        except Exception as error:
            raise refused(self.name, graph, error) from error
        if self._session.get_providers() != [_PROVIDER]:
            raise RuntimeMissing(
                "onnxruntime took another provider",
                where=where_of(graph),
                expected=_PROVIDER,
                got=", ".join(self._session.get_providers()),
                mend="See `loid-infer doctor`.",
            )
        self.detail = f"CPU, {n_threads} threads, {precision}"

    def run(self, batches: Iterable[TokenBatch]) -> Generator[tuple[Ints, Floats]]:
        """See `Runtime.run`."""
        for batch in batches:
            feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
            yield batch.slots, self._session.run(["cls"], feed)[0]
