"""Compares approximate with exact vectors by the test error of heads trained on them."""

from __future__ import annotations

import numpy as np

from loid_infer.data.splits import split
from loid_infer.encoders.manifest import HeadGate
from loid_infer.evaluation.metrics import clipped, mse
from loid_infer.heads.presets import DEFAULT_OPTIONS
from loid_infer.heads.units import Unit
from loid_infer.types import SILENT, Floats, Interactions, Progress

SEEDS = (0, 1, 2, 3, 4)  # of the splits


def judge_by_heads(interactions: Interactions, exact: Floats, approximate: Floats, progress: Progress) -> HeadGate:
    """Fit the default head on both kinds of vectors `[n_texts, d]` on five splits and compare test MSE."""
    from loid_infer.heads.training import fit_head, pairs_of  # imports torch, which takes seconds

    settings, errors = DEFAULT_OPTIONS.settings(), np.zeros((len(SEEDS), 2))
    with progress.task("head gate", errors.size, "fits") as task:
        for i, seed in enumerate(SEEDS):
            parts = split(interactions, "random", seed)
            test = pairs_of(interactions, parts, parts.test)
            ratings = interactions.ratings[parts.test]
            for j, vectors in enumerate((exact, approximate)):
                predicted = fit_head(interactions, parts, vectors, settings, seed, SILENT).predictor.predict(test)
                errors[i, j] = mse(clipped(predicted, interactions.rating_range), ratings)
                task.advance(1)
    exact_mse, approximate_mse = errors.mean(0).tolist()
    change = (approximate_mse - exact_mse) / max(exact_mse, 1e-9 * Unit.of(interactions.rating_range).size ** 2)
    return HeadGate(exact_mse, approximate_mse, change, interactions.n, len(SEEDS))
