"""The training loop on a model of two weights."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import Loss, Training, train
from loid_infer.types import SILENT

N_BATCHES, BATCH = 5, 4
COMMON = {"epochs": 3, "learning_rate": 0.1, "weight_decay": 0.0, "averaging": 0.0, "patience": None, "seed": 0}


class KilledError(Exception):
    pass


class Told(type(SILENT)):
    def __init__(self) -> None:
        self.lines = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def made(*, noise=0.0, errors=(), kill_at=-1, seen=None, **settings) -> Training:
    """Least squares, with noise from torch's generator if asked for.

    Args:
        errors: of the validations, in turn; then the true one.
        kill_at: the step that fails.
        seen: gets the first weight before each step.
    """
    weights = {name: nn.Parameter(torch.zeros(())) for name in ("a", "b", "unused")}
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(N_BATCHES, BATCH))).float()
    turns = iter(errors)

    def batches(epoch: int, position: int):
        yield from np.random.default_rng(epoch).permutation(N_BATCHES)[position:]

    def step(batch: int, number: int) -> Loss:
        if number == kill_at:
            raise KilledError
        if seen is not None:
            seen.append(weights["a"].item())
        target = 2 * x[batch] + 1 + noise * torch.rand(BATCH)
        squared = (weights["a"] * x[batch] + weights["b"] - target).square().mean()
        return Loss(squared, squared.detach(), BATCH, 10)

    def validate() -> float:
        return next(turns, None) or (weights["a"].item() - 2) ** 2 + (weights["b"].item() - 1) ** 2

    return Training(
        parameters=weights,
        batches=batches,
        n_batches=N_BATCHES,
        n_samples=N_BATCHES * BATCH,
        step=step,
        validate=validate,
        task=("train", "samples"),
        metric="MSE",
        **COMMON | settings,
    )


def values(training: Training) -> list[float]:
    return [weight.item() for weight in training.parameters.values()]


def test_steps_reduce_the_error_and_the_curve_counts_them():
    training = made(epochs=40, validations=2)
    history = train(training, None, SILENT)
    assert values(training) == pytest.approx([2, 1, 0], abs=0.05)
    assert len(history.losses) == history.step == 40 * N_BATCHES
    assert history.eval_steps[:4] == [2, 5, 7, 10]  # evenly, the last at the end of the epoch
    assert history.losses[-1] < 0.1 * history.losses[0]
    assert (history.n_samples, history.n_units) == (40 * N_BATCHES * BATCH, 40 * N_BATCHES * 10)
    assert history.units_per_s == pytest.approx(history.n_units / history.seconds)


def test_by_epoch_the_curve_has_a_point_for_each_and_nothing_is_said():
    told, other = Told(), Told()
    by_step, by_epoch = train(made(), None, told), train(made(by_epoch=True), None, other)
    means = np.reshape(by_step.losses, (3, N_BATCHES)).mean(1)
    assert by_epoch.losses == pytest.approx(means.tolist())
    assert by_epoch.eval_steps == [20, 40, 60] and by_step.eval_steps == [5, 10, 15]
    assert by_epoch.eval_errors == by_step.eval_errors
    assert len(told.lines) == 3 and other.lines == []
    assert told.lines[0].startswith("epoch 1.00 of 3, step 5: training MSE ")


def test_the_best_validation_is_kept_and_patience_ends_the_run():
    seen = []
    training = made(epochs=9, patience=2, errors=[3.0, 2.0, 2.5, math.nan, 1.0], seen=seen)
    history = train(training, None, SILENT)
    assert len(history.eval_errors) == 4 and history.best == 1
    assert values(training)[0] == seen[2 * N_BATCHES]  # as after the second epoch
    assert train(made(patience=None, errors=[1.0, 2.0, 3.0]), None, SILENT).epoch == 3


def test_without_a_finite_validation_the_weights_stay_as_they_were():
    training = made(errors=[math.nan] * 3)
    assert train(training, None, SILENT).best == -1
    assert values(training) == [0, 0, 0]


def test_the_rate_rises_and_falls_by_the_samples_seen():
    """Adam's first step is as long as the rate, whatever the gradient; the rest are bounded by it."""
    constant, warm = [], []
    train(made(seen=constant), None, SILENT)
    train(made(seen=warm, warmup=0.5), None, SILENT)
    assert constant[1] == pytest.approx(0.1, rel=1e-4)
    assert warm[1] == pytest.approx(0.1 * 1e-3 / 0.5, rel=1e-3)
    steps = np.abs(np.diff(warm))
    assert steps[-1] < 0.5 * steps.max() and steps.argmax() in range(5, 10)


def test_a_gradient_is_clipped_before_its_step():
    free, clipped = [], []
    for seen, clip in ((free, None), (clipped, 1e-9)):
        train(made(seen=seen, clip=clip), None, SILENT)
    assert 0 < clipped[1] < 0.1 * free[1]  # so small that Adam's epsilon counts


def test_the_mean_of_the_weights_is_validated_and_kept():
    seen = []
    training = made(epochs=1, averaging=0.9, seen=seen)
    history = train(training, None, SILENT)
    ahead = made(epochs=1, averaging=0.9, averaging_lead=1)
    train(ahead, None, SILENT)
    plain = made(epochs=1)
    train(plain, None, SILENT)
    for lead, result in ((0, training), (1, ahead)):
        mean = 0.0
        for number, weight in enumerate([*seen[1:], values(plain)[0]]):
            decay = min(0.9, (1 + number + lead) / (10 + number + lead))
            mean += (weight - mean) * (1 - decay)
        assert values(result)[0] == pytest.approx(mean, rel=1e-5)
    a, b, _ = values(training)
    assert history.eval_errors[0] == pytest.approx((a - 2) ** 2 + (b - 1) ** 2, rel=1e-5)


def test_a_parameter_may_have_a_weight_decay_of_its_own():
    shrunk, free = made(own_weight_decay={"a": 3.0}), made()
    for training in (shrunk, free):
        train(training, None, SILENT)
    assert 0 < values(shrunk)[0] < 0.8 * values(free)[0]


@pytest.mark.parametrize("settings", [{"by_epoch": True}, {"validations": 2, "warmup": 0.1}, {"averaging": 0.9}])
@pytest.mark.parametrize("kill_at", [3, 5, 8, 14])
def test_a_killed_run_ends_in_the_same_weights(tmp_path, kill_at, settings):
    noise = 1.0 if "by_epoch" in settings else 0.0
    whole = made(noise=noise, **settings)
    expected = train(whole, None, SILENT)
    with pytest.raises(KilledError):
        train(made(noise=noise, kill_at=kill_at, **settings), Checkpoint(tmp_path / "c", "run", 0.0), SILENT)
    rest, told = made(noise=noise, **settings), Told()
    assert train(rest, Checkpoint(tmp_path / "c", "run", 0.0), told) == expected
    assert values(rest) == values(whole)
    if kill_at == 8:
        assert told.lines[0] == ("going on after epoch 1" if "by_epoch" in settings else "going on from step 8")


def test_a_finished_run_is_not_trained_again_and_random_numbers_of_others_are_left_alone(tmp_path):
    checkpoint = Checkpoint(tmp_path / "c", "run", 1e9)
    torch.manual_seed(7)
    expected = train(made(noise=1.0), checkpoint, SILENT)
    drawn = float(torch.rand(()))
    torch.manual_seed(7)
    assert drawn == float(torch.rand(()))
    again = made(noise=1.0, kill_at=15)
    assert train(again, checkpoint, SILENT) == expected
