"""Training of the network: resuming and the learning curve."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from loid_infer.data.splits import split
from loid_infer.heads.presets import HeadOptions
from loid_infer.heads.training import Fitted, fit_head
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.types import SILENT, Progress
from tests.heads.domains import noisy_ratings


class Killed(Exception):
    """Raised to simulate a kill."""


class KillingProgress:
    """Raises Killed after a number of training pairs; is its own task and context."""

    def __init__(self, n_pairs: int) -> None:
        self.remaining, self.messages = n_pairs, []

    def task(self, name: str, total: int | None, unit: str) -> "KillingProgress":
        return self

    def say(self, line: str) -> None:
        self.messages.append(line)

    def advance(self, n: int) -> None:
        self.remaining -= n
        if self.remaining < 0:
            raise Killed

    def __enter__(self) -> "KillingProgress":
        return self

    def __exit__(self, *exc: object) -> None:
        pass


SETTINGS = replace(HeadOptions(epochs=5).settings(), batch=64)


def fit(checkpoint: Checkpoint | None, progress: Progress = SILENT, settings=SETTINGS, seed: int = 0) -> Fitted:
    data, vectors = noisy_ratings()
    return fit_head(data, split(data, "random", 0), vectors, settings, seed, progress, checkpoint)


def weights(fitted: Fitted) -> dict[str, torch.Tensor]:
    return fitted.head.net.state_dict()


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, preset):
    settings = replace(HeadOptions(preset, epochs=4).settings(), batch=64)
    uninterrupted = fit(None, settings=settings)
    data, _ = noisy_ratings()
    n_train = int(split(data, "random", 0).train.sum())
    checkpoint = Checkpoint(tmp_path / "run.safetensors", "this run", every_s=0)
    with pytest.raises(Killed):
        fit(checkpoint, KillingProgress(int(2.5 * n_train)), settings)
    progress = KillingProgress(10**9)
    resumed = fit(Checkpoint(tmp_path / "run.safetensors", "this run", every_s=0), progress, settings)
    assert progress.messages == ["resuming after epoch 2"]
    assert resumed.history == uninterrupted.history
    assert resumed.head.share == uninterrupted.head.share
    for name, tensor in weights(uninterrupted).items():
        assert torch.equal(weights(resumed)[name], tensor), name


def test_the_checkpoint_of_another_run_is_ignored(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.safetensors", "this run", every_s=0)
    with pytest.raises(Killed):
        fit(checkpoint, KillingProgress(3_000))
    other = fit(Checkpoint(tmp_path / "run.safetensors", "that run", every_s=0), seed=1)
    alone = fit(None, seed=1)
    assert all(torch.equal(weights(other)[name], tensor) for name, tensor in weights(alone).items())


def test_the_learning_curve_is_by_epoch():
    fitted = fit(None)
    history = fitted.history
    data, _ = noisy_ratings()
    n_train = int(split(data, "random", 0).train.sum())
    assert history.eval_steps == [n_train * epoch for epoch in range(1, 6)]
    assert len(history.losses) == len(history.eval_errors) == 5
    assert history.best == int(np.argmin(history.eval_errors))
    assert history.losses[-1] < history.losses[0]
