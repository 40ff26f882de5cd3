"""Merging of deltas: dependencies, order and expected values."""

from pathlib import Path

import numpy as np
import pytest

from loid_infer.errors import BadSetting
from loid_infer.plugins.delta import LowRank, delta_digest, fold, read_delta
from loid_infer.plugins.merge import METHODS, Merge, Source, mask, merge_tensor, names_of, squared_loss, truncate
from tests.plugins.toy_plugins import QUERY, merged_state, peft_model, random_delta


def source(seed: int, weight: float = 1.0, **kinds) -> Source:
    delta = random_delta(seed, **kinds)
    return Source(delta_digest(delta), delta, weight)


def merged(sources, how: Merge) -> dict[str, np.ndarray]:
    return {name: merge_tensor(name, sources, how) for name in names_of(sources)}


def as_bytes(delta: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: delta[name].tobytes() for name in sorted(delta)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "config", [{}, {"use_rslora": True, "rank_pattern": {"query": 2}, "alpha_pattern": {"dense": 9}}]
)
def test_a_single_plugin_equals_pefts_merge(toy_base: Path, tmp_path: Path, method: str, config: dict) -> None:
    import transformers

    model = peft_model(toy_base, **config)
    model.save_pretrained(tmp_path)
    delta = read_delta(tmp_path)
    alone = merged([Source("d", delta, 1.0)], Merge(method, 1.0, 3))
    state = {key: t.numpy() for key, t in transformers.AutoModel.from_pretrained(toy_base).state_dict().items()}
    folded, expected = fold(state, [alone]), merged_state(model)
    for name, tensor in expected.items():
        np.testing.assert_allclose(folded[name], tensor, rtol=0, atol=4e-7)
    assert all(np.abs(part).max() > 0.01 for part in alone.values())


@pytest.mark.parametrize("method", METHODS)
def test_order_does_not_matter(method: str) -> None:
    sources, how = [source(seed, 1 + seed / 7) for seed in range(3)], Merge(method, 0.6, 5)
    first = as_bytes(merged(sources, how))
    shuffled = [Source(s.digest, dict(reversed(s.delta.items())), s.weight) for s in reversed(sources)]
    assert as_bytes({name: merge_tensor(name, shuffled, how) for name in reversed(names_of(shuffled))}) == first
    assert merge_tensor(QUERY, sources, how).dtype == np.float32


def test_masks_depend_on_seed_plugin_and_tensor_only() -> None:
    wanted = (3, "a" * 64, "x.weight", (40, 50), 0.5)
    same = mask(*wanted)
    np.random.seed(1)
    assert np.array_equal(mask(*wanted), same)
    others = [(4, *wanted[1:]), (3, "b" * 64, *wanted[2:]), (3, "a" * 64, "y.weight", *wanted[3:])]
    for other in others:
        assert abs(np.mean(mask(*other) == same) - 0.5) < 0.05
    # Must be the same for all versions of numpy and all machines.
    assert np.packbits(mask(0, "0" * 64, QUERY, (8, 8), 0.8)).tobytes().hex() == "ffffff63df7f7ff8"


def test_dare_converges_to_the_sum_and_merging_factors_does_not() -> None:
    sources, seeds = [source(0), source(1)], 200
    exact = sum(s.delta[QUERY].dense64() for s in sources)
    mean = np.zeros_like(exact)
    for seed in range(seeds):
        mean += merge_tensor(QUERY, sources, Merge("dare", 0.8, seed)) / seeds
    # The standard error of an entry is |d| sqrt((1 - q) / q / n), added in squares over plugins: off by 3.5 % of |d|.
    error = np.sqrt(sum(np.square(s.delta[QUERY].dense64()) for s in sources) * (0.2 / 0.8) / seeds)
    assert np.abs((mean - exact) / error).max() < 6
    assert 0.9 < np.sqrt(np.mean(np.square((mean - exact) / error))) < 1.1
    # What add_weighted_adapter does: (B_1 + B_2)(A_1 + A_2) has cross terms that no number of seeds removes.
    rng = np.random.default_rng(0)
    naive = np.zeros_like(exact)
    for _ in range(seeds):
        drawn = [[f * (rng.random(f.shape) < 0.8) / 0.8 for f in (s.delta[QUERY].b, s.delta[QUERY].a)] for s in sources]
        naive += 1.5 * (drawn[0][0] + drawn[1][0]) @ (drawn[0][1] + drawn[1][1]) / seeds
    assert np.linalg.norm(mean - exact) < 0.1 * np.linalg.norm(exact)
    assert np.linalg.norm(naive - exact) > 0.5 * np.linalg.norm(exact)


def test_a_plugin_without_a_tensor_adds_nothing_to_it() -> None:
    full, part = source(0), source(1, modules=("attention.self.query",))
    for method in METHODS:
        how = Merge(method, 0.7, 0)
        both = merged([full, part], how)
        alone = merged([full], how)
        assert both.keys() == alone.keys()
        assert {name for name in both if not np.array_equal(both[name], alone[name])} == {QUERY}


def test_weights_scale_the_merged_deltas() -> None:
    first, second = random_delta(0), random_delta(1)
    how = Merge("linear", 1.0, 0)
    merged_query = merge_tensor(QUERY, [Source("1", first, 0.25), Source("2", second, -2.0)], how)
    np.testing.assert_allclose(merged_query, 0.25 * first[QUERY].dense64() - 2 * second[QUERY].dense64(), atol=1e-5)


def test_different_shapes_are_refused() -> None:
    with pytest.raises(BadSetting, match=f"{QUERY}.*\\(32, 32\\), got \\(8, 8\\)"):
        names_of([source(0), source(1, dim=8)])


def test_rank_truncation_and_its_error() -> None:
    delta = merge_tensor(QUERY, [source(0, rank=3), source(1, rank=3)], Merge("linear", 1.0, 0))
    exact = truncate(QUERY, delta, 6)
    error, total = squared_loss(delta, exact)
    assert (exact.b.shape, exact.a.shape, exact.scale) == ((32, 6), (6, 32), 1.0)
    assert error / total < 1e-12
    values = np.linalg.svd(delta.astype(np.float64), compute_uv=False)
    error, total = squared_loss(delta, truncate(QUERY, delta, 2))
    assert error / total == pytest.approx(np.square(values[2:]).sum() / np.square(values).sum(), rel=1e-5)
    assert isinstance(exact, LowRank)
    with pytest.raises(BadSetting, match="at most 32"):
        truncate(QUERY, delta, 33)
    with pytest.raises(BadSetting, match="a matrix"):
        truncate("x.bias", delta[0], 2)
