"""The registry of metrics. A metric has one value per test example, in float64; a system's result is the mean."""

from __future__ import annotations

import math

import numpy as np

from loid_infer.types import Floats


def squared_errors(predictions: Floats, truth: Floats) -> Floats:
    """Squared errors `[n]`; their mean is the MSE (LoID eq. 4, eq. 10 and table 1)."""
    return (predictions.astype(np.float64) - truth.astype(np.float64)) ** 2


def absolute_errors(predictions: Floats, truth: Floats) -> Floats:
    """Absolute errors `[n]`; their mean is the MAE."""
    return np.abs(predictions.astype(np.float64) - truth.astype(np.float64))


METRICS = {"mse": squared_errors, "mae": absolute_errors}


def clipped(predictions: Floats, rating_range: tuple[float, float]) -> Floats:
    """Predictions `[n]` clipped to the rating range, float64."""
    return np.clip(predictions.astype(np.float64), *rating_range)


def mse(predictions: Floats, truth: Floats) -> float:
    """Mean squared error; nan without examples."""
    return float(np.mean(squared_errors(predictions, truth))) if len(truth) else math.nan
