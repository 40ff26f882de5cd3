"""The mean pairwise cosine, compared with a double loop."""

import numpy as np

from loid_infer.kernels.cosine import mean_pairwise_cosine


def double_loop(a, b) -> float:
    pairs = [x @ y / (np.sqrt(x @ x) * np.sqrt(y @ y)) for x in a.astype(float) for y in b.astype(float)]
    return sum(pairs) / len(pairs)


def test_the_mean_over_all_pairs_equals_a_double_loop() -> None:
    rng = np.random.default_rng(0)
    # Very different norms, so that a mean of vectors that are not normalized would differ.
    a = (rng.normal(0.5, 1, (7, 5)) * rng.geometric(0.2, (7, 1))).astype(np.float32)
    b = (rng.normal(0.2, 1, (4, 5)) * rng.geometric(0.2, (4, 1))).astype(np.float32)
    assert abs(mean_pairwise_cosine(a, b) - double_loop(a, b)) < 1e-12
    assert mean_pairwise_cosine(a, b) == mean_pairwise_cosine(b, a)


def test_known_values() -> None:
    axes = np.eye(3, dtype=np.float32)
    assert mean_pairwise_cosine(axes[:1], 5 * axes[:1]) == 1
    assert mean_pairwise_cosine(axes[:1], -axes[:1]) == -1
    assert mean_pairwise_cosine(axes[:1], axes[1:]) == 0
    assert mean_pairwise_cosine(axes[:2], axes[:2]) == 0.5


def test_a_row_of_zeros_has_cosine_0() -> None:
    axes = np.eye(2, dtype=np.float32)
    assert mean_pairwise_cosine(axes * [[1], [0]], axes[:1]) == (1 + 0) / 2
