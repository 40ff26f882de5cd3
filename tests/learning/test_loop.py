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


class RecordingProgress(type(SILENT)):
    def __init__(self) -> None:
        self.lines = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def make_training(*, noise=0.0, errors=(), kill_at=-1, weights_log=None, **settings) -> Training:
    """Least squares, optionally with noise from torch's generator.

    Args:
        errors: returned by the first validations; later ones return the true error.
        kill_at: the step that raises.
        weights_log: receives the first weight before each step.
    """
    weights = {name: nn.Parameter(torch.zeros(())) for name in ("a", "b", "unused")}
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(N_BATCHES, BATCH))).float()
    turns = iter(errors)

    def batches(epoch: int, position: int):
        yield from np.random.default_rng(epoch).permutation(N_BATCHES)[position:]

    def step(batch: int, number: int) -> Loss:
        if number == kill_at:
            raise KilledError
        if weights_log is not None:
            weights_log.append(weights["a"].item())
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
        **COMMON | settings,
    )


def values(training: Training) -> list[float]:
    return [weight.item() for weight in training.parameters.values()]


def test_training_reduces_the_error():
    training = make_training(epochs=40, validations=2)
    history = train(training, None, SILENT)
    assert values(training) == pytest.approx([2, 1, 0], abs=0.05)
    assert len(history.losses) == history.step == 40 * N_BATCHES
    assert history.eval_steps[:4] == [2, 5, 7, 10]  # evenly spaced
    assert history.losses[-1] < 0.1 * history.losses[0]
    assert (history.n_samples, history.n_units) == (40 * N_BATCHES * BATCH, 40 * N_BATCHES * 10)
    assert history.units_per_s == pytest.approx(history.n_units / history.seconds)


def test_by_epoch_the_curve_has_one_loss_per_epoch_and_there_are_no_messages():
    log_by_step, log_by_epoch = RecordingProgress(), RecordingProgress()
    by_step = train(make_training(), None, log_by_step)
    by_epoch = train(make_training(by_epoch=True), None, log_by_epoch)
    means = np.reshape(by_step.losses, (3, N_BATCHES)).mean(1)
    assert by_epoch.losses == pytest.approx(means.tolist())
    assert by_epoch.eval_steps == [20, 40, 60] and by_step.eval_steps == [5, 10, 15]
    assert by_epoch.eval_errors == by_step.eval_errors
    assert len(log_by_step.lines) == 3 and log_by_epoch.lines == []
    assert log_by_step.lines[0].startswith("epoch 1.00 of 3, step 5: training MSE ")


def test_best_weights_are_kept_and_patience_stops_the_run():
    weights_log = []
    training = make_training(epochs=9, patience=2, errors=[3.0, 2.0, 2.5, math.nan, 1.0], weights_log=weights_log)
    history = train(training, None, SILENT)
    assert len(history.eval_errors) == 4 and history.best == 1
    assert values(training)[0] == weights_log[2 * N_BATCHES]  # as after the second epoch
    assert train(make_training(patience=None, errors=[1.0, 2.0, 3.0]), None, SILENT).epoch == 3


def test_without_a_finite_validation_error_the_initial_weights_are_kept():
    training = make_training(errors=[math.nan] * 3)
    assert train(training, None, SILENT).best == -1
    assert values(training) == [0, 0, 0]


def test_learning_rate_schedule():
    """The size of Adam's first step is the learning rate; later steps are bounded by it."""
    constant, warm = [], []
    train(make_training(weights_log=constant), None, SILENT)
    train(make_training(weights_log=warm, warmup=0.5), None, SILENT)
    assert constant[1] == pytest.approx(0.1, rel=1e-4)
    assert warm[1] == pytest.approx(0.1 * 1e-3 / 0.5, rel=1e-3)
    steps = np.abs(np.diff(warm))
    assert steps[-1] < 0.5 * steps.max() and steps.argmax() in range(5, 10)


def test_gradients_are_clipped():
    free, clipped = [], []
    for weights_log, clip in ((free, None), (clipped, 1e-9)):
        train(make_training(weights_log=weights_log, clip=clip), None, SILENT)
    assert 0 < clipped[1] < 0.1 * free[1]  # so small that Adam's epsilon counts


def test_averaged_weights_are_validated_and_kept():
    weights_log = []
    training = make_training(epochs=1, averaging=0.9, weights_log=weights_log)
    history = train(training, None, SILENT)
    ahead = make_training(epochs=1, averaging=0.9, averaging_lead=1)
    train(ahead, None, SILENT)
    plain = make_training(epochs=1)
    train(plain, None, SILENT)
    for lead, result in ((0, training), (1, ahead)):
        mean = 0.0
        for number, weight in enumerate([*weights_log[1:], values(plain)[0]]):
            decay = min(0.9, (1 + number + lead) / (10 + number + lead))
            mean += (weight - mean) * (1 - decay)
        assert values(result)[0] == pytest.approx(mean, rel=1e-5)
    a, b, _ = values(training)
    assert history.eval_errors[0] == pytest.approx((a - 2) ** 2 + (b - 1) ** 2, rel=1e-5)


def test_weight_decay_per_parameter():
    shrunk, free = make_training(own_weight_decay={"a": 3.0}), make_training()
    for training in (shrunk, free):
        train(training, None, SILENT)
    assert 0 < values(shrunk)[0] < 0.8 * values(free)[0]


@pytest.mark.parametrize("settings", [{"by_epoch": True}, {"validations": 2, "warmup": 0.1}, {"averaging": 0.9}])
@pytest.mark.parametrize("kill_at", [3, 5, 8, 14])
def test_a_killed_and_resumed_run_ends_with_the_same_weights(tmp_path, kill_at, settings):
    noise = 1.0 if "by_epoch" in settings else 0.0
    uninterrupted = make_training(noise=noise, **settings)
    expected = train(uninterrupted, None, SILENT)
    with pytest.raises(KilledError):
        train(make_training(noise=noise, kill_at=kill_at, **settings), Checkpoint(tmp_path / "c", "run", 0.0), SILENT)
    resumed, progress = make_training(noise=noise, **settings), RecordingProgress()
    assert train(resumed, Checkpoint(tmp_path / "c", "run", 0.0), progress) == expected
    assert values(resumed) == values(uninterrupted)
    if kill_at == 8:
        assert progress.lines[0] == ("resuming after epoch 1" if "by_epoch" in settings else "resuming from step 8")


def test_a_finished_run_is_not_repeated_and_the_global_generator_is_unchanged(tmp_path):
    checkpoint = Checkpoint(tmp_path / "c", "run", 1e9)
    torch.manual_seed(7)
    expected = train(make_training(noise=1.0), checkpoint, SILENT)
    drawn = float(torch.rand(()))
    torch.manual_seed(7)
    assert drawn == float(torch.rand(()))
    again = make_training(noise=1.0, kill_at=15)
    assert train(again, checkpoint, SILENT) == expected
