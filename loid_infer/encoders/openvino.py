"""The OpenVINO runtime: the same model.onnx, compiled for the CPU, several batches under way at once.

The inference precision is set, never left to the plugin: on a processor with bfloat16 its default is not float32.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from loid_infer.errors import RuntimeMissing
from loid_infer.types import Floats, Ints, TokenBatch

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVino:
    """A compiled model with one stream a thread: on few cores streams beat threads that share a batch."""

    name = "openvino"

    def __init__(self, graph: Path, precision: str, n_threads: int) -> None:
        """Compile `graph` for `precision` (fp32 | bf16).

        Raises:
            RuntimeMissing: the plugin took another precision.
        """
        import openvino

        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": str(n_threads),
            "INFERENCE_NUM_THREADS": str(n_threads),
        }
        self._model = openvino.Core().compile_model(str(graph), "CPU", options)
        # One request more than streams: the next batch waits inside the plugin, not outside.
        self._requests = openvino.AsyncInferQueue(self._model, n_threads + 1)
        taken = self._model.get_property("INFERENCE_PRECISION_HINT").to_string()
        if taken != _HINTS[precision]:
            raise RuntimeMissing(
                "OpenVINO took another precision",
                where=str(graph),
                expected=_HINTS[precision],
                got=taken,
                mend="See `loid-infer doctor`.",
            )
        self.detail = f"CPU, {n_threads} streams, {precision}"

    def run(self, batches: Iterable[TokenBatch]) -> Generator[tuple[Ints, Floats]]:
        """See `Runtime.run`."""
        done: deque[tuple[Ints, Floats]] = deque()

        def finished(request: Any, slots: Ints) -> None:
            done.append((slots, request.get_output_tensor(0).data.copy()))

        self._requests.set_callback(finished)
        try:
            for batch in batches:
                feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
                self._requests.start_async(feed, batch.slots)  # waits until a request is idle
                while done:
                    yield done.popleft()
        finally:
            self._requests.wait_all()
        yield from done
