"""LightGCN against matrices written out, and on planted clusters."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from loid_infer.data.sequences import Histories, before, split_sequences
from loid_infer.evaluation.ranking import recall
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.rankers.factors import fit_factors
from loid_infer.rankers.graph import Graph, GraphNet
from loid_infer.rankers.ranking import target_ranks
from loid_infer.rankers.settings import RankOptions
from loid_infer.types import SILENT
from tests.rankers.worlds import clusters


@pytest.fixture(scope="module")
def world():
    sequences = clusters()
    return sequences, split_sequences(sequences, "leave-one-out")


@pytest.fixture
def net(world):
    sequences, split = world
    torch.manual_seed(0)
    return GraphNet(Graph.of(sequences, split), sequences.n_users, 8, layers=2)


def matrix(sequences, split):
    """`D^-1/2 A D^-1/2`, dense, from the training pairs."""
    n = sequences.n_users + sequences.n_items
    adjacency = torch.zeros(n, n, dtype=torch.float64)
    for at in np.flatnonzero(split.train(sequences)):
        user, item = sequences.users[at], sequences.n_users + sequences.items[at]
        adjacency[user, item] = adjacency[item, user] = 1
    scale = adjacency.sum(dim=1).clamp(min=1).rsqrt()
    return scale[:, None] * adjacency * scale


def test_final_vectors_and_their_gradient_are_those_of_the_matrix(world, net) -> None:
    dense = matrix(*world)
    nodes = net.nodes.detach().double().requires_grad_()
    expected = (nodes + dense @ nodes + dense @ dense @ nodes) / 3
    users, items = torch.tensor([0, 3, 3]), torch.tensor([[1, 2], [5, 0], [7, 7]])
    wanted = (expected[users][:, None] * expected[world[0].n_users + items]).sum(dim=2)
    scores = net(users, items)
    torch.testing.assert_close(scores.double(), wanted, atol=1e-6, rtol=1e-5)
    wanted.sin().sum().backward()
    scores.sin().sum().backward()
    torch.testing.assert_close(net.nodes.grad.double(), nodes.grad, atol=1e-6, rtol=1e-4)


def test_the_training_history_of_a_user_gives_the_vector_of_its_node(world, net) -> None:
    sequences, split = world
    known = split.counts(sequences) > 0
    ranker = net.ranker(known)
    trained = before(sequences, split.valid)  # the training part
    final = net.mean(net.propagated()).detach()
    wanted = final[trained.users] @ final[sequences.n_users :].T
    scores = ranker.scores(trained)
    assert scores[:, known] == pytest.approx(wanted.numpy()[:, known], abs=1e-6)
    assert (scores[:, ~known] == -np.inf).all()
    # An item twice counts once.
    first = trained.rows(np.array([0])).flat()[1]
    doubled = Histories(trained.users[:1], np.array([0]), np.array([2 * len(first)]), np.concatenate([first, first]))
    assert ranker.scores(doubled)[:, known] == pytest.approx(scores[:1, known], abs=1e-6)


def test_lightgcn_finds_planted_clusters_for_unknown_users_too(world, tmp_path) -> None:
    sequences, split = world
    options = RankOptions(dim=16, epochs=40, patience=40, learning_rate=2e-2)
    ranker, _ = fit_factors("lightgcn", sequences, split, options, seed=0, progress=SILENT)
    assert recall(target_ranks(ranker, sequences, split.test), 12).mean() > 0.95
    run = {"seed": 0, "progress": SILENT, "checkpoint": Checkpoint(tmp_path / "c", "run", 0.0)}
    fit_factors("lightgcn", sequences, split, replace(options, epochs=15), **run)
    again, _ = fit_factors("lightgcn", sequences, split, options, **run)  # continues
    for name, tensor in ranker.tensors().items():
        assert np.array_equal(tensor, again.tensors()[name])
    strangers = before(sequences, split.test)
    strangers = replace(strangers, users=np.full(strangers.n, -1))
    first = ranker.scores(strangers).argsort(axis=1)[:, -12:]
    wanted = sequences.items[split.test.at]
    assert (first == wanted[:, None]).any(axis=1).mean() > 0.9
    late = replace(
        split, train_ends=np.where(np.arange(sequences.n_users) == 1, sequences.starts[:-1], split.train_ends)
    )
    untrained = GraphNet(Graph.of(sequences, late), sequences.n_users, 8, 2).ranker(late.counts(sequences) > 0)
    assert (untrained.users[1] == 0).all() and (untrained.users[0] != 0).any()
    nothing = Histories(np.array([-1]), np.array([0]), np.array([0]), np.zeros(0, np.int64))
    assert (ranker.scores(nothing)[:, ranker.known] == 0).all()
