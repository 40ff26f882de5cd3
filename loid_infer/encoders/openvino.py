"""The OpenVINO runtime: model.onnx compiled for the CPU, with several batches computed at once.

The inference precision is always set: on a processor with bfloat16 the default is not float32.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from loid_infer.artifact import versions
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.encoders.graph import checked, load_error
from loid_infer.encoders.machine import Streams, shape_key
from loid_infer.encoders.processor import has_amx, has_bf16, model, n_usable_threads
from loid_infer.encoders.protocol import Backend, Runtime
from loid_infer.encoders.schedule import MAX_BATCH_TOKENS
from loid_infer.errors import RuntimeMissing
from loid_infer.settings import machine_memory
from loid_infer.types import Floats, Ints, TokenBatch


def backend() -> Backend:
    """OpenVINO. fp16 is computed in float32, which is more exact."""
    return Backend("openvino", "openvino", {"cpu": ("fp32", "bf16", "fp16", "int8")}, _open)


def _open(encoder: EncoderFolder, _: str, n_threads: int, n_streams: int | None) -> Runtime:
    graph, precision = checked(encoder.graph), encoder.spec.precision
    if precision == "bf16" and not has_bf16():  # emulated bf16 is far slower than float32
        raise RuntimeMissing(
            "OpenVINO computes bf16 only on processors that support it natively",
            where=encoder.name,
            got=model(),
            fix="Use --runtime auto, or run `loid-infer export --precision fp32`.",
        )
    version = versions("openvino").get("openvino")
    key = f"streams of {model()}, {n_threads} threads, openvino {version}, {precision}, {shape_key(encoder.spec)}"

    return Streams(key, n_threads, lambda n: OpenVino(graph, precision, n_threads, n), machine_memory(), n_streams)


_IMPORTING = threading.Lock()


def _imported() -> Any:
    """The module `openvino`, without its telemetry: its import would send an event, and so start a process."""
    telemetry = "openvino_telemetry"
    with _IMPORTING:
        known = sys.modules.pop(telemetry, None)
        sys.modules[telemetry] = None  # type: ignore[assignment] # cannot be imported: openvino then uses a stub that sends nothing
        try:
            import openvino
        finally:
            del sys.modules[telemetry]
            if known is not None:
                sys.modules[telemetry] = known
    return openvino


class OpenVino:
    """A compiled model. Threads are divided among streams, each of which computes one batch at a time."""

    name = "openvino"
    pads, n_tokenizers = True, 1

    def __init__(self, graph: Path, precision: str, n_threads: int, n_streams: int) -> None:
        """Compile `graph` for `precision` (fp32 | bf16 | fp16 | int8).

        Raises:
            BadArtifact: the graph cannot be compiled.
            RuntimeMissing: OpenVINO uses another precision than requested.
        """
        openvino = _imported()
        # The floating-point part of an int8 graph is computed in bf16 where that is native.
        hint = "bf16" if precision == "bf16" or (precision == "int8" and has_bf16()) else "f32"
        # Where products are fast it shows that attention takes longer over other widths, and bf16 over 2,048 tokens.
        self.tile = 16 if hint == "bf16" and has_amx() else 1
        self.max_batch_tokens = 1792 if precision == "bf16" and has_amx() else MAX_BATCH_TOKENS
        options = {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": str(n_streams),
            "INFERENCE_NUM_THREADS": str(n_threads),
            # Every process would bind its threads to the first processors, also where others are free.
            "ENABLE_CPU_PINNING": "YES" if n_threads >= n_usable_threads() else "NO",
        }
        core = openvino.Core()
        try:
            self._model = core.compile_model(str(graph), "CPU", options)
        except RuntimeError as error:
            raise load_error(self.name, graph, error) from error
        # One request more than streams, so that the next batch is ready when a stream finishes.
        self._requests = openvino.AsyncInferQueue(self._model, n_streams + 1)
        actual = self._model.get_property("INFERENCE_PRECISION_HINT").to_string()
        if actual != hint:
            what, fix = "OpenVINO uses another precision", "Run `loid-infer doctor`."
            raise RuntimeMissing(what, where=str(graph), expected=hint, got=actual, fix=fix)
        products = f" with {hint}" if precision in ("int8", "fp16") else ""
        self.detail = f"CPU, {n_threads} threads in {n_streams} streams, {precision}{products}"

    def run(self, batches: Iterable[TokenBatch]) -> Generator[tuple[Ints, Floats]]:
        """See `Runtime.run`."""
        done: deque[tuple[Ints, Floats]] = deque()

        def finished(request: Any, slots: Ints) -> None:
            done.append((slots, request.get_output_tensor(0).data.copy()))

        self._requests.set_callback(finished)
        try:
            for batch in batches:
                feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
                self._requests.start_async(feed, batch.slots)  # blocks until a request is idle
                while done:
                    yield done.popleft()
        finally:
            self._requests.wait_all()
        yield from done
