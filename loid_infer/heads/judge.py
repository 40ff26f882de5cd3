"""Judges approximate vectors by what matters in the end: the test error of heads trained on them."""

from __future__ import annotations

import numpy as np

from loid_infer.data.splits import split
from loid_infer.encoders.manifest import HeadGate
from loid_infer.evaluation.metrics import clipped, mse
from loid_infer.heads.presets import DEFAULT_OPTIONS
from loid_infer.types import SILENT, Floats, Interactions, Progress

SEEDS = (0, 1, 2, 3, 4)  # of the splits


def judge_by_heads(interactions: Interactions, exact: Floats, approximate: Floats, progress: Progress) -> HeadGate:
    """Fit the default head on both vectors `[n_texts, d]` of the same texts, on five splits, and compare test MSE."""
    from loid_infer.heads.training import fit_head, pairs_of  # torch: seconds that other commands should not pay

    settings, errors = DEFAULT_OPTIONS.settings(), np.zeros((len(SEEDS), 2))
    with progress.task("head gate", errors.size, "fits") as task:
        for i, seed in enumerate(SEEDS):
            parts = split(interactions, "random", seed)
            test, ratings = (
                pairs_of(interactions, parts, parts.test),
                interactions.ratings[parts.test].astype(np.float64),
            )
            for j, vectors in enumerate((exact, approximate)):
                predicted = fit_head(interactions, parts, vectors, settings, seed, SILENT).predictor.predict(test)
                errors[i, j] = mse(clipped(predicted, interactions.rating_range), ratings)
                task.advance(1)
    of_exact, of_approximate = errors.mean(0).tolist()
    return HeadGate(of_exact, of_approximate, of_approximate / of_exact - 1, interactions.n, len(SEEDS))
