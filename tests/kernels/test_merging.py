"""Merging, compared with loops over entries."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loid_infer.kernels import merging, sampling

# Few values, so that ties, zeros and canceling sums are common.
ENTRIES = st.sampled_from([0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -3.0])
WEIGHTS = st.sampled_from([1.0, 0.5, 2.0, -1.0])
DENSITIES = st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.8, 1.0])
MERGES = st.integers(1, 4).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(ENTRIES, min_size=6, max_size=6), min_size=n, max_size=n),
        st.lists(WEIGHTS, min_size=n, max_size=n),
    )
)


def loop_trim(delta: list[float], density: float) -> list[float]:
    hundredths = round(density * 100)
    n_kept = -(-hundredths * len(delta) // 100)
    order = sorted(range(len(delta)), key=lambda i: (-abs(delta[i]), i))
    return [value if i in order[:n_kept] else 0.0 for i, value in enumerate(delta)]


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def loop_elect(parts: list[list[float]], weights: list[float]) -> list[float]:
    merged = []
    for entries in zip(*parts, strict=True):
        weighted = [weight * entry for weight, entry in zip(weights, entries, strict=True)]
        g = sign(sum(weighted))
        if g == 0:
            merged.append(0.0)
            continue
        agreeing = [i for i, value in enumerate(weighted) if sign(value) == g]
        merged.append(sum(weighted[i] for i in agreeing) / sum(abs(weights[i]) for i in agreeing))
    return merged


@given(st.lists(ENTRIES, min_size=1, max_size=30), DENSITIES)
def test_trim_equals_the_loop(delta: list[float], density: float) -> None:
    array = np.array(delta, np.float32)
    assert merging.trim(array, density).tolist() == loop_trim(delta, density)


def test_trim_keeps_exactly_the_ceiling_in_row_major_order() -> None:
    delta = np.ones((10, 10), np.float32)
    for density, n_kept in ((0.07, 7), (0.29, 29), (0.071, 8), (0.8, 80), (1.0, 100), (1e-9, 1)):
        trimmed = merging.trim(delta, density)
        assert (trimmed.shape, trimmed.dtype) == ((10, 10), np.float32)
        assert trimmed.reshape(-1).tolist() == [1.0] * n_kept + [0.0] * (100 - n_kept)


@given(MERGES)
def test_elect_equals_the_loop(case) -> None:
    parts, weights = case
    result = merging.elect([np.array(part, np.float32) for part in parts], weights)
    assert result.dtype == np.float64
    assert result.tolist() == loop_elect(parts, weights)


def test_elect_of_a_worked_example() -> None:
    parts = [np.array([[3.0, -1.0, 1.0, 0.0]]), np.array([[1.0, 2.0, -1.0, 0.0]]), np.array([[-1.0, 0.0, 0.0, 5.0]])]
    # Sums 3, 1, 0, 5: means of the agreeing 3 and 1, of 2, nothing, of 5.
    assert merging.elect(parts, [1, 1, 1]).tolist() == [[2.0, 2.0, 0.0, 5.0]]


@given(MERGES)
def test_linear_equals_the_loop(case) -> None:
    parts, weights = case
    result = merging.linear([np.array(part, np.float32) for part in parts], weights)
    expected = [
        sum(w * entry for w, entry in zip(weights, entries, strict=True)) for entries in zip(*parts, strict=True)
    ]
    assert result.tolist() == expected


def test_linear_sums_in_float64_in_the_order_given() -> None:
    big, small = np.array([1e20], np.float32), np.array([1.0], np.float32)
    assert merging.linear([big, -big, small], [1, 1, 1])[0] == 1
    assert merging.linear([big, small, -big], [1, 1, 1])[0] == 0
    assert merging.linear([small, small], [1, 2.0**-40])[0] == 1 + 2.0**-40


@settings(max_examples=30)
@given(st.integers(0, 2**64 - 1), DENSITIES)
def test_drop_equals_the_loop(key: int, density: float) -> None:
    words = sampling.words(key, 50)
    delta = np.linspace(-1, 1, 50, dtype=np.float32)
    keep = [(int(word) >> 11) / 2**53 < density for word in words]
    result = merging.drop_and_rescale(delta, merging.kept(words, density), density)
    assert result.tolist() == [float(d) / density if k else 0.0 for d, k in zip(delta, keep, strict=True)]


@pytest.mark.parametrize("density", [0.05, 0.5, 0.8])
def test_the_share_kept_is_the_density(density: float) -> None:
    n = 400_000
    share = merging.kept(sampling.words(7, n), density).mean()
    assert abs(share - density) < 5 * math.sqrt(density * (1 - density) / n)
    assert merging.kept(sampling.words(7, n), 1.0).all()
