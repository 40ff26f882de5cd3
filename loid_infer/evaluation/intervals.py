"""Paired differences of two systems with their 95 % confidence intervals."""

from __future__ import annotations

import math

import numpy as np

from loid_infer.types import Floats

_NORMAL = 1_000  # degrees of freedom from which Student's t equals the normal distribution to three digits


def paired(differences: Floats, test_share: float = 0.0) -> tuple[float, float | None, float | None]:
    """Mean of `differences [n]` and both ends of its 95 % interval, which are None if n = 1.

    For one difference per split this is the corrected resampled t interval (Nadeau & Bengio 2003, section 3, estimator
    7): random splits overlap, so the variance of the mean is `s^2 (1/n + n_test/n_train)`. With `test_share` 0 it is
    Student's t interval, for one difference per test example.

    Args:
        test_share: `n_test / n_train`, 1/8 for a split of 8:1:1.
    """
    n, mean = len(differences), float(np.mean(differences, dtype=np.float64))
    if n < 2:
        return mean, None, None
    variance = float(np.var(differences.astype(np.float64), ddof=1))
    half_width = student_975(min(n - 1, _NORMAL)) * math.sqrt(variance * (1 / n + test_share))
    return mean, mean - half_width, mean + half_width


def student_975(freedom: int) -> float:
    """The 97.5 % quantile of Student's t with `freedom >= 1` degrees of freedom, by bisection.

    The distribution function is Abramowitz & Stegun 26.7.3 and 26.7.4.
    """
    low, high = 0.0, 13.0  # 12.706 for one degree, smaller for more
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _two_sided(middle, freedom) < 0.95 else (low, middle)
    return (low + high) / 2


def _two_sided(t: float, freedom: int) -> float:
    theta = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(theta) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for j in range(3 if odd else 2, freedom - 1, 2):
        term *= (j - 1) / j * math.cos(theta) ** 2
        total += term
    return 2 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total
