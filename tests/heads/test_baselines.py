import numpy as np
import pytest

from loid_infer.data.histories import CodePairs
from loid_infer.heads.baselines import Ratings, fit_baselines, fit_bias, out_of_fold_biases
from tests.heads.domains import pairs


def ratings(seed=0, n_users=60, n_items=40, per_user=8) -> Ratings:
    rng = np.random.default_rng(seed)
    users, items = pairs(n_users, n_items, per_user, rng)
    level = rng.normal(0, 0.7, n_users)[users] + rng.normal(0, 0.7, n_items)[items]
    return Ratings(users, items, 3.5 + level + rng.normal(0, 0.5, len(users)), n_users, n_items)


def test_biases_are_the_ridge_solution():
    data = ratings()
    design = np.zeros((len(data.values), 100))
    design[np.arange(len(design)), data.users] = 1
    design[np.arange(len(design)), 60 + data.items] = 1
    penalty = np.diag([4.0] * 60 + [9.0] * 40)
    expected = np.linalg.solve(design.T @ design + penalty, design.T @ (data.values - data.values.mean()))
    model = fit_bias(data, 4.0, 9.0)
    np.testing.assert_allclose(model.user_bias[:60], expected[:60], atol=2e-3)
    np.testing.assert_allclose(model.item_bias[:40], expected[60:], atol=2e-3)


def test_unknown_users_and_items_have_no_bias():
    model = fit_bias(ratings(), 4.0, 4.0)
    unknown = np.array([-1])
    assert model.predict(CodePairs(unknown, unknown, unknown))[0] == model.mean


def test_out_of_fold_biases_do_not_depend_on_their_rating():
    data = ratings()
    model = fit_bias(data, 4.0, 9.0)
    before = out_of_fold_biases(data, model, 0)
    changed = data.values.copy()
    changed[17] = 1000.0
    after = out_of_fold_biases(Ratings(data.users, data.items, changed, 60, 40), model, 0)
    # The mean of the other folds is what it was, to the bit: nothing of rating 17 reaches row 17.
    assert before[0][17] == after[0][17] and before[1][17] == after[1][17]
    neighbors = (data.users == data.users[17]) & (np.arange(len(changed)) != 17)
    assert (np.abs(before[0] - after[0])[neighbors] > 1).any()


def test_row_order_does_not_matter():
    data = ratings()
    order = np.random.default_rng(0).permutation(len(data.values))
    moved = Ratings(data.users[order], data.items[order], data.values[order], 60, 40)
    model = fit_bias(data, 4.0, 9.0)
    for original, permuted in zip(out_of_fold_biases(data, model, 0), out_of_fold_biases(moved, model, 0), strict=True):
        np.testing.assert_allclose(original[order], permuted, atol=1e-9)


def test_baselines_recover_planted_factors():
    rng = np.random.default_rng(1)
    users, items = pairs(200, 100, 20, rng)
    taste, kind = rng.normal(0, 1, (200, 2)), rng.normal(0, 1, (100, 2))
    values = 3 + (taste[users] * kind[items]).sum(1) + rng.normal(0, 0.3, len(users))
    data = Ratings(users, items, values, 200, 100)
    valid = rng.random(len(users)) < 0.2
    test = Ratings(users[valid], items[valid], values[valid], 200, 100)
    models = fit_baselines(data.where(~valid), test, (-100, 100), 0)
    queries = CodePairs(test.users, test.items, test.users)
    errors = [
        np.mean((model.predict(queries) - test.values) ** 2) for model in (models.mean, models.bias, models.factors)
    ]
    assert errors[0] == pytest.approx(np.var(test.values), rel=0.05)
    assert errors[2] < 0.5 * errors[1]
