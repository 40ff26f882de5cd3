"""Collaborative models on labeled pairs with planted clusters."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from loid_infer.clicks.nets import MODELS, PairBatch, empty_net, pair_net
from loid_infer.clicks.training import auc, fit_pairs, logits
from loid_infer.data.clicks import TEST, TRAIN, Pairs
from loid_infer.data.sequences import Histories
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.rankers.settings import RankOptions
from loid_infer.settings import Workspace
from loid_infer.types import SILENT
from tests.clicks.worlds import clusters, write_pairs

QUICK = RankOptions(dim=8, layers=1, epochs=30, patience=30, learning_rate=2e-2, weight_decay=1e-2, averaging=0.9)
RUN = {"seed": 0, "progress": SILENT}


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    return write_pairs(Workspace(tmp_path_factory.mktemp("ws")), "clusters", clusters())


@pytest.mark.parametrize("model", MODELS)
def test_every_model_finds_the_clusters(clicks, model) -> None:
    options = replace(QUICK, dropout=0.1)
    net, history = fit_pairs(model, clicks, options, checkpoint=None, **RUN)
    rows = clicks.rows(TEST)
    scores = logits(net, clicks.pairs(rows), options.max_length)
    assert auc(scores, clicks.labels[rows]) > 0.95
    assert history.eval_errors[history.best] < 0.05
    # Saved and loaded, it is the same.
    again = empty_net(model, len(clicks.user_ids), len(clicks.item_ids), options)
    again.load_state_dict(net.state_dict())
    assert logits(again, clicks.pairs(rows), options.max_length).tolist() == scores.tolist()


@pytest.mark.parametrize("model", MODELS)
def test_unknown_users_and_items_get_the_biases_of_what_is_known(clicks, model) -> None:
    torch.manual_seed(0)
    net = pair_net(model, clicks, replace(QUICK, dropout=0.0)).eval()
    for bias in (net.bias, net.user_bias, net.item_bias):
        torch.nn.init.normal_(bias)
    pairs = clicks.pairs(clicks.rows(TEST)[:1])
    nothing = np.zeros(1, np.int64)
    unknown = Pairs(np.array([-1]), np.array([-1]), Histories(np.array([-1]), nothing, nothing, nothing[:0]))
    user, item = net.vectors(PairBatch.of(unknown, 5), net.tables())
    assert not user.any()
    assert not item.any()
    with torch.inference_mode():
        none, known = (float(net(PairBatch.of(some, 5))) for some in (unknown, pairs))
        of_nothing = net.interaction(user, item).item()
    assert none == pytest.approx(net.bias.item() + of_nothing, abs=1e-6)
    assert none != known


def test_the_logit_of_factors_is_that_of_the_formula(clicks) -> None:
    torch.manual_seed(0)
    net = pair_net("mf", clicks, QUICK)
    torch.nn.init.normal_(net.user_bias)
    torch.nn.init.normal_(net.item_bias)
    pairs = clicks.pairs(np.arange(50))
    users, items = pairs.users, pairs.items
    wanted = (net.users[users] * net.items[items]).sum(dim=1) + net.user_bias[users] + net.item_bias[items] + net.bias
    torch.testing.assert_close(net(PairBatch.of(pairs, 5)), wanted)


def test_the_graph_has_the_positive_training_pairs_only(clicks) -> None:
    net = pair_net("lightgcn", clicks, QUICK)
    degrees = net.graph.degrees.numpy()
    liked = clicks.labels & (clicks.parts == TRAIN)
    assert degrees[: len(clicks.user_ids)].tolist() == np.bincount(clicks.users[liked], minlength=120).tolist()
    assert degrees.sum() == 2 * liked.sum()
    final = net.final()
    pairs = PairBatch.of(clicks.pairs(np.arange(20)), 5)
    torch.testing.assert_close(final(pairs), net(pairs))


@pytest.mark.parametrize("model", MODELS)
def test_a_resumed_training_ends_the_same(clicks, model, tmp_path) -> None:
    run = {**RUN, "checkpoint": Checkpoint(tmp_path / "c", "run", 0.0)}
    fit_pairs(model, clicks, replace(QUICK, epochs=2), **run)
    resumed, _ = fit_pairs(model, clicks, replace(QUICK, epochs=4), **run)
    whole, _ = fit_pairs(model, clicks, replace(QUICK, epochs=4), checkpoint=None, **RUN)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
