"""The index, compared with a brute-force search."""

import numpy as np
import pytest

from loid_infer.neighbors import MIN_RECALL, Index, build, directions


def brute_force(vectors, center, direction, n):
    """Brute force: row numbers and cosines of the nearest vectors."""
    cosines = []
    for vector in vectors.astype(np.float64) - center:
        length = np.linalg.norm(vector)
        cosines.append(vector @ direction / length if length else 0.0)
    return np.argsort(-np.array(cosines), kind="stable")[:n], np.sort(cosines)[::-1][:n]


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 1, (60, 16))
    return (centers[rng.integers(60, size=3_000)] + rng.normal(0, 0.4, (3_000, 16)) + 2).astype(np.float16)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_an_exact_index_equals_brute_force(vectors, dtype):
    some = vectors[:300].astype(dtype)
    center = some.mean(0, dtype=np.float64)
    index = build(some, center)
    assert (index.kind, index.recall, index.n) == ("exact", 1.0, 300)
    direction = directions(some[7:8], center)[0]
    numbers, cosines = index.search(direction, 10)
    expected, values = brute_force(some, center, direction, 10)
    assert numbers[0] == 7
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_allclose(cosines, values, atol=1e-5)


def test_the_reported_recall_of_inverted_lists_is_the_true_recall(vectors):
    center = vectors.mean(0, dtype=np.float64)
    index = build(vectors, center, exact_rows=1_000)
    assert index.kind == "inverted lists"
    assert MIN_RECALL <= index.recall <= 1
    assert index.faiss_index.nprobe < index.faiss_index.nlist  # not all lists are searched
    shares = []
    for number in range(0, 3_000, 60):
        direction = directions(vectors[number : number + 1], center)[0]
        shares.append(len({*index.search(direction, 10)[0]} & {*brute_force(vectors, center, direction, 10)[0]}) / 10)
    assert np.mean(shares) == pytest.approx(index.recall, abs=0.02)


def test_a_loaded_index_gives_the_same_results(vectors, tmp_path):
    center = vectors.mean(0, dtype=np.float64)
    for exact_rows in (1_000, 10_000):
        index = build(vectors, center, exact_rows=exact_rows)
        index.save(tmp_path / "index")
        loaded = Index.load(tmp_path / "index", index.kind, index.recall)
        direction = directions(vectors[5:6], center)[0]
        for before, after in zip(index.search(direction, 20), loaded.search(direction, 20), strict=True):
            np.testing.assert_array_equal(before, after)


def test_n_is_limited_by_the_size_of_the_index_and_a_vector_at_the_mean_has_cosine_0():
    vectors = np.array([[1, 0], [0, 1], [0, 0]], np.float32)
    index = build(vectors, np.zeros(2))
    numbers, cosines = index.search(np.array([1, 0]), 10)
    assert set(numbers.tolist()) == {0, 1, 2}
    np.testing.assert_allclose(cosines, [1, 0, 0], atol=1e-6)


def test_recall_stays_high_for_many_neighbors(vectors):
    center = vectors.mean(0, dtype=np.float64)
    index = build(vectors, center, exact_rows=1_000)
    direction = directions(vectors[9:10], center)[0]
    for n in (10, 200, 3_000, 5_000):
        numbers, cosines = index.search(direction, n)
        assert len(set(numbers.tolist())) == min(n, 3_000)
        assert len({*numbers} & {*brute_force(vectors, center, direction, n)[0]}) >= 0.95 * min(n, 3_000)
        assert (np.diff(cosines) <= 1e-6).all()
    assert len(build(np.zeros((0, 4), np.float32), np.zeros(4)).search(np.ones(4), 5)[0]) == 0


@pytest.mark.parametrize("exact_rows", [100, 10_000])
def test_equal_vectors_come_in_the_order_of_rows_however_many_are_asked_for(vectors, exact_rows):
    some = vectors[:500].copy()
    some[[3, 90, 91, 200, 201, 444]] = some[7]
    equal = [3, 7, 90, 91, 200, 201, 444]
    center = some.mean(0, dtype=np.float64)
    index = build(some, center, exact_rows=exact_rows)
    direction = directions(some[7:8], center)[0]
    for n in range(1, 8):
        assert index.search(direction, n)[0].tolist() == equal[:n]
