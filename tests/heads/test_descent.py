"""A network's training goes on after a kill as if nothing had happened."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from loid_infer.data.splits import split
from loid_infer.heads.presets import HeadOptions
from loid_infer.heads.training import Fitted, fit_head
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.types import SILENT, Progress
from tests.heads.worlds import telling


class Killed(Exception):
    """The power went."""


class Dying:
    """Progress that dies after so many pairs of training; its own task and context."""

    def __init__(self, n_pairs: int) -> None:
        self.left, self.said = n_pairs, []

    def task(self, name: str, total: int | None, unit: str) -> "Dying":
        return self

    def say(self, line: str) -> None:
        self.said.append(line)

    def advance(self, n: int) -> None:
        self.left -= n
        if self.left < 0:
            raise Killed

    def __enter__(self) -> "Dying":
        return self

    def __exit__(self, *exc: object) -> None:
        pass


SETTINGS = replace(HeadOptions(epochs=5).settings(), batch=64)


def fit(checkpoint: Checkpoint | None, progress: Progress = SILENT, settings=SETTINGS, seed: int = 0) -> Fitted:
    data, vectors = telling()
    return fit_head(data, split(data, "random", 0), vectors, settings, seed, progress, checkpoint)


def weights(fitted: Fitted) -> dict[str, torch.Tensor]:
    return fitted.head.net.state_dict()


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_run_that_was_broken_off_goes_on_as_if_nothing_had_happened(tmp_path, preset):
    settings = replace(HeadOptions(preset, epochs=4).settings(), batch=64)
    whole = fit(None, settings=settings)
    data, _ = telling()
    n_train = int(split(data, "random", 0).train.sum())
    checkpoint = Checkpoint(tmp_path / "run.safetensors", "this run", every_s=0)
    with pytest.raises(Killed):
        fit(checkpoint, Dying(int(2.5 * n_train)), settings)
    dying = Dying(10**9)
    rest = fit(Checkpoint(tmp_path / "run.safetensors", "this run", every_s=0), dying, settings)
    assert dying.said == ["going on after epoch 2"]
    assert rest.history == whole.history
    assert rest.head.share == whole.head.share
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(rest)[name], tensor), name


def test_another_runs_checkpoint_is_not_taken_up(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.safetensors", "this run", every_s=0)
    with pytest.raises(Killed):
        fit(checkpoint, Dying(3_000))
    other = fit(Checkpoint(tmp_path / "run.safetensors", "that run", every_s=0), seed=1)
    alone = fit(None, seed=1)
    assert all(torch.equal(weights(other)[name], tensor) for name, tensor in weights(alone).items())


def test_the_history_is_by_epoch_and_the_best_one_is_kept():
    fitted = fit(None)
    history = fitted.history
    data, _ = telling()
    n_train = int(split(data, "random", 0).train.sum())
    assert history.eval_steps == [n_train * epoch for epoch in range(1, 6)]
    assert len(history.losses) == len(history.eval_errors) == 5
    assert history.best == int(np.argmin(history.eval_errors))
    assert history.losses[-1] < history.losses[0]
