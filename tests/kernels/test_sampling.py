import numpy as np

from loid_infer.kernels import sampling


def splitmix(state: int) -> int:
    """The published routine, with Python integers."""
    mask = (1 << 64) - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_mix_is_splitmix64():
    assert splitmix(0) == 0xE220A8397B1DCDAF  # the generator's published first output for the seed 0
    states = np.array([0, 1, 2**63, 2**64 - 1, 1234567], np.uint64)
    assert sampling.mix(states).tolist() == [splitmix(int(state)) for state in states]


def test_words_are_the_published_stream():
    first = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert sampling.words(0, 4).tolist() == first
    long = sampling.words(2**64 - 5, 40_000)
    golden = 0x9E3779B97F4A7C15
    assert [int(long[i]) for i in (0, 1, 16_384, 39_999)] == [
        splitmix((2**64 - 5 + i * golden) % 2**64) for i in (0, 1, 16_384, 39_999)
    ]
    assert np.array_equal(long[:17_000], sampling.words(2**64 - 5, 17_000))


def test_keys_depend_on_every_part_and_on_their_order():
    codes = np.arange(50)
    grids = [
        sampling.keys(seed, a, b, epoch)
        for seed in (0, 1, -1)
        for a, b in ((codes, codes + 1), (codes + 1, codes))
        for epoch in (0, 1, -1)
    ]
    assert len({int(key) for grid in grids for key in grid}) == 50 * len(grids)


def test_keys_do_not_depend_on_the_rows_around():
    users, items = np.arange(20), np.arange(20)[::-1]
    all_keys = sampling.keys(3, users, items, 1)
    assert sampling.keys(3, users[7:8], items[7:8], 1)[0] == all_keys[7]


def test_uniform_and_below_are_uniform():
    key = sampling.keys(0, np.arange(200_000))
    values = sampling.uniform(key)
    assert values.min() >= 0 and values.max() < 1 and abs(values.mean() - 0.5) < 0.003
    counts = np.bincount(sampling.below(key, np.full(len(key), 7)), minlength=7)
    assert len(counts) == 7 and abs(counts / len(key) - 1 / 7).max() < 0.005


def test_choose_takes_all_of_small_sets_and_distinct_ones_of_large_sets():
    sizes = np.array([0, 1, 3, 4, 5, 40])
    chosen = sampling.choose(sampling.keys(0, sizes), sizes, 4)
    assert chosen[:4].tolist() == [[-1, -1, -1, -1], [0, -1, -1, -1], [0, 1, 2, -1], [0, 1, 2, 3]]
    for row, size in zip(chosen[4:], sizes[4:], strict=True):
        assert len(set(row.tolist())) == 4 and row.min() >= 0 and row.max() < size


def test_every_subset_is_equally_likely():
    n = 60_000
    chosen = sampling.choose(sampling.keys(1, np.arange(n)), np.full(n, 5), 3)
    names, counts = np.unique(np.sort(chosen, axis=1), axis=0, return_counts=True)
    assert len(names) == 10 and abs(counts / n - 0.1).max() < 0.006
