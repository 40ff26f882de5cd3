"""Compares a runtime's vectors of the parity probes with the float32 reference."""

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
_MAX_NORM_CHANGE = 0.1  # of the median norm; int8 changes it most, by a few percent


def measure(runtime: Runtime, probes: Probes) -> Parity:
    """Run the probes in batches by length, and some of mixed lengths in one batch, and compare.

    A text without a vector has cosine -1, and so have all texts if the norms are wrong.

    Raises:
        ParityError: the vectors have another shape than the reference.
    """
    worst: Array = np.ones(len(probes.lengths))
    computed: Array = np.zeros(len(worst), np.bool_)
    norm_ratios: Array = np.ones(len(worst))  # a cosine does not show a missing normalization
    max_abs = 0.0
    for slots, vectors in runtime.run(_batches(probes)):
        expected = probes.cls[slots]
        if vectors.shape != expected.shape:
            raise ParityError(
                f"{runtime.name} computes vectors of another shape than the encoder's",
                expected=str(expected.shape),
                got=str(vectors.shape),
                fix="Export the encoder again.",
            )
        cosines = np.nan_to_num(row_cosines(vectors, expected), nan=-1.0)
        worst[slots] = np.minimum(worst[slots], cosines)
        norms = np.maximum(np.linalg.norm(expected, axis=1), 1e-30)
        norm_ratios[slots] = np.linalg.norm(vectors, axis=1) / norms
        computed[slots] = True
        max_abs = max(max_abs, float(np.abs(vectors - expected).max()))
    worst[~computed] = -1.0
    if not abs(np.median(norm_ratios) - 1) <= _MAX_NORM_CHANGE:  # true for NaN
        worst[:] = -1.0
    return Parity(float(worst.min()), float(worst.mean()), max_abs, len(worst))


def _batches(probes: Probes) -> Iterator[TokenBatch]:
    slots, longest = np.arange(len(probes.lengths)), int(probes.lengths.max())
    yield from token_batches(slots, probes.flat_ids, probes.lengths, MAX_BATCH_TOKENS, longest)
    # The longest and the shortest in one batch: shows a runtime that ignores the mask.
    by_length = np.argsort(probes.lengths, kind="stable")
    mixed = np.concatenate([by_length[: _N_MIXED // 2], by_length[-_N_MIXED // 2 :]])
    starts = np.cumsum(probes.lengths) - probes.lengths
    yield padded(mixed, probes.flat_ids, starts[mixed], probes.lengths[mixed], longest)
