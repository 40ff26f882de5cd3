"""AdamW row by row, against torch's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import Loss, Training, train
from loid_infer.types import SILENT
from tests.learning.test_loop import COMMON

N, D = 6, 3


def make_training(batches: list[list[int]], *, by_row: bool, **settings) -> Training:
    """A table whose rows approach targets, one loss a batch of rows; and a dense weight beside it."""
    torch.manual_seed(1)
    table, scale = nn.Embedding(N, D, sparse=by_row), nn.Parameter(torch.ones(()))
    targets = torch.randn(N, D)

    def step(rows: list[int], number: int) -> Loss:
        index = torch.tensor(rows)
        squared = (scale * table(index) - targets[index]).square().sum()
        return Loss(squared, squared.detach(), len(rows), len(rows))

    common = COMMON | {"weight_decay": 0.3, "averaging": 0.9, "averaging_lead": 1, "epochs": 4} | settings
    return Training(
        parameters={"table": table.weight, "scale": scale},
        batches=lambda _, position: iter(batches[position:]),
        n_batches=len(batches),
        n_samples=sum(map(len, batches)),
        step=step,
        validate=lambda: 1.0 / (1.0 + sum(float(part.detach().abs().sum()) for part in (table.weight, scale))),
        task=("train", "rows"),
        own_weight_decay={"table": 2.0},
        by_row=["table"] if by_row else [],
        **common,
    )


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_with_every_row_in_every_batch_it_is_torchs_adamw(averaging):
    batches = [[0, 1, 2, 3, 4, 5, 3, 3], [5, 4, 3, 2, 1, 0, 0, 1]]
    results = []
    for by_row in (False, True):
        training = make_training(batches, by_row=by_row, averaging=averaging)
        train(training, None, SILENT)
        results.append(training.parameters)
    for name, expected in results[0].items():
        np.testing.assert_allclose(results[1][name].detach(), expected.detach(), rtol=2e-5, atol=1e-6)


def test_a_row_moves_in_its_own_batches_only():
    batches = [[0, 1], [1, 1, 2], [4]]
    training = make_training(batches, by_row=True)
    before = training.parameters["table"].detach().clone()
    train(training, None, SILENT)
    moved = (training.parameters["table"].detach() != before).any(1)
    assert moved.tolist() == [True, True, True, False, True, False]
    alone, other = (
        make_training(batches, by_row=True, epochs=1) for batches in ([[4], [4]], [[4], [0], [1], [4], [2]])
    )
    for each in (alone, other):
        each.parameters["scale"].requires_grad_(False)
        train(each, None, SILENT)
    assert torch.equal(alone.parameters["table"][4], other.parameters["table"][4])  # no other row's batch counts


class KilledError(Exception):
    pass


def test_a_killed_and_resumed_run_ends_with_the_same_weights(tmp_path):
    batches = [[0, 1], [1, 1, 2], [4], [0, 5]]
    uninterrupted = make_training(batches, by_row=True)
    expected = train(uninterrupted, None, SILENT)

    def killed(rows, number):
        if number == 7:
            raise KilledError
        return doomed.step(rows, number)

    doomed = make_training(batches, by_row=True)
    with pytest.raises(KilledError):
        train(replace(doomed, step=killed), Checkpoint(tmp_path / "c", "run", 0.0), SILENT)
    resumed = make_training(batches, by_row=True)
    assert train(resumed, Checkpoint(tmp_path / "c", "run", 0.0), SILENT) == expected
    for name, parameter in uninterrupted.parameters.items():
        assert torch.equal(resumed.parameters[name], parameter)
