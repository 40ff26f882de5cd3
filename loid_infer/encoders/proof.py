"""Whether a runtime computes what the weights say: its vectors of the probes against the float32 reference."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from loid_infer.encoders.folder import Probes
from loid_infer.encoders.manifest import Parity
from loid_infer.encoders.protocol import Runtime
from loid_infer.encoders.schedule import MAX_BATCH_TOKENS, padded, token_batches
from loid_infer.errors import ParityError
from loid_infer.kernels.cosine import row_cosines
from loid_infer.types import Array, TokenBatch

_N_MIXED = 8
_MAX_RATIO = 0.1  # that lengths may differ by in the middle; int8 is the farthest, at a few percent


def measure(runtime: Runtime, probes: Probes) -> Parity:
    """Run the probes, once sorted by length and some of them mixed, and compare.

    Raises:
        ParityError: the runtime gives vectors of another shape than the reference.
    """
    worst: Array = np.ones(len(probes.lengths))
    seen: Array = np.zeros(len(worst), np.bool_)
    ratios: Array = np.ones(len(worst))  # of lengths, which a cosine does not see: a lost normalization
    max_abs = 0.0
    for slots, vectors in runtime.run(_batches(probes)):
        expected = probes.cls[slots]
        if vectors.shape != expected.shape:
            raise ParityError(
                f"{runtime.name} gives vectors of another shape than the encoder's",
                expected=str(expected.shape),
                got=str(vectors.shape),
                fix="Export the encoder again.",
            )
        cosines = np.nan_to_num(row_cosines(vectors, expected), nan=-1.0)
        worst[slots] = np.minimum(worst[slots], cosines)
        ratios[slots] = np.linalg.norm(vectors, axis=1) / np.maximum(np.linalg.norm(expected, axis=1), 1e-30)
        seen[slots] = True
        max_abs = max(max_abs, float(np.abs(vectors - expected).max()))
    worst[~seen] = -1.0  # a text that never came back
    if not abs(np.median(ratios) - 1) <= _MAX_RATIO:
        worst[:] = -1.0
    return Parity(float(worst.min()), float(worst.mean()), max_abs, len(worst))


def _batches(probes: Probes) -> Iterator[TokenBatch]:
    slots, longest = np.arange(len(probes.lengths)), int(probes.lengths.max())
    yield from token_batches(slots, probes.flat_ids, probes.lengths, MAX_BATCH_TOKENS, longest)
    # The longest and the shortest side by side: a runtime that ignores the mask shows here.
    by_length = np.argsort(probes.lengths, kind="stable")
    mixed = np.concatenate([by_length[: _N_MIXED // 2], by_length[-_N_MIXED // 2 :]])
    starts = np.cumsum(probes.lengths) - probes.lengths
    yield padded(mixed, probes.flat_ids, starts[mixed], probes.lengths[mixed], longest)
