"""Trained rankers on sequences of known structure."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from loid_infer.data.sequences import before, split_sequences
from loid_infer.errors import BadSetting
from loid_infer.evaluation.ranking import ndcg, recall
from loid_infer.kernels.threads import Workers
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.rankers.factors import fit_factors
from loid_infer.rankers.models import fit_model, restored, state
from loid_infer.rankers.network import SequenceNet, Whitening
from loid_infer.rankers.ranking import target_ranks
from loid_infer.rankers.settings import RankOptions
from loid_infer.rankers.texts import TextRanker, TextVectors, unit
from loid_infer.rankers.training import _Run, fit_sequence
from loid_infer.types import SILENT
from tests.rankers.worlds import chains, clusters

SMALL = RankOptions(
    dim=32, layers=1, attention_heads=1, dropout=0.1, epochs=25, batch=64, learning_rate=5e-3, averaging=0.9
)


@pytest.fixture(scope="module")
def chain():
    sequences = chains()
    return sequences, split_sequences(sequences, "leave-one-out")


def test_a_sequence_network_learns_what_follows_what(chain) -> None:
    sequences, split = chain
    fitted = fit_sequence(sequences, split, SMALL, None, ids=True, seed=0, progress=SILENT)
    assert ndcg(target_ranks(fitted.ranker, sequences, split.test), 10).mean() > 0.95
    assert min(fitted.history.eval_errors) < 0.05


def test_drawn_negatives_learn_the_same(chain) -> None:
    sequences, split = chain
    options = replace(SMALL, negatives=10)
    fitted = fit_sequence(sequences, split, options, None, ids=True, seed=0, progress=SILENT)
    assert ndcg(target_ranks(fitted.ranker, sequences, split.test), 10).mean() > 0.95


def test_a_score_depends_on_the_history_only(chain) -> None:
    sequences, split = chain
    net = SequenceNet(SMALL, sequences.n_items, ids=True, text_dim=0)
    from loid_infer.rankers.network import SequenceRanker

    ranker = SequenceRanker(net, 5, None, None)
    histories = before(sequences, split.test)
    together = ranker.scores(histories)
    for row in (0, 7, 100):
        alone = ranker.scores(histories.rows(np.array([row])))
        assert together[row] == pytest.approx(alone[0], abs=1e-5)
    # Only the last five items count, and an item in front of them does not.
    assert ranker.scores(histories.last(5)) == pytest.approx(together, abs=1e-5)
    assert (ranker.scores(histories.last(0)) == 0).all()


def test_a_network_does_not_see_what_comes_later(chain) -> None:
    sequences, split = chain
    net = SequenceNet(SMALL, sequences.n_items, ids=True, text_dim=0).eval()
    batch = torch.from_numpy(before(sequences, split.test).padded())
    with torch.inference_mode():
        states = net(batch, net.items(None))
        cut = net(batch[:, :3], net.items(None))
    assert torch.allclose(states[:, :3], cut, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_last_states_alone_are_those_of_all_positions(layers) -> None:
    net = SequenceNet(replace(SMALL, layers=layers), 9, ids=True, text_dim=0).eval()
    rows = torch.tensor([[1, 2, 3, 4], [5, -1, -1, -1], [6, 7, -1, -1]])
    lengths = (rows >= 0).sum(dim=1)
    with torch.inference_mode():
        items = net.items(None)
        states = net(rows, items)[torch.arange(3), lengths - 1]
        torch.testing.assert_close(net.last(rows, lengths, items), states, atol=1e-5, rtol=0)


def test_training_is_reproducible_and_resumes_to_the_same_weights(chain, tmp_path) -> None:
    sequences, split = chain
    options = replace(SMALL, epochs=4)

    def weights(options, checkpoint=None):
        fitted = fit_sequence(sequences, split, options, None, ids=True, seed=3, progress=SILENT, checkpoint=checkpoint)
        return {name: tensor.clone() for name, tensor in fitted.ranker.net.state_dict().items()}

    whole = weights(options)
    again = weights(options)
    weights(replace(options, epochs=2), Checkpoint(tmp_path / "c", "run", 0.0))
    resumed = weights(options, Checkpoint(tmp_path / "c", "run", 0.0))
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, resumed[name])


def test_drawn_negatives_stand_for_all_items() -> None:
    """The sum over drawn negatives, with its correction, has the mean of the sum over all other items."""
    sequences = clusters(n_users=20, n_clusters=1, size=6, length=4)
    split = split_sequences(sequences, "leave-one-out")
    net = SequenceNet(SMALL, sequences.n_items, ids=True, text_dim=0)
    items, state = torch.randn(6, 32), torch.randn(1, 32)
    run = _Run(sequences, split, replace(SMALL, negatives=3), net, None, None, 0, Workers())
    wanted = torch.tensor([2])
    logits = state @ items.T / 8
    own = float(logits[0, 2].exp())
    estimates = [
        float(torch.exp(run._cross_entropy(state / 8, wanted, items, 0, 6, number) + logits[0, 2]))
        - float(logits[0, 2].exp())
        for number in range(4000)
    ]
    others = float(logits.exp().sum()) - own
    assert np.mean(estimates) == pytest.approx(others, rel=0.05)


def test_factors_find_planted_clusters() -> None:
    sequences = clusters()
    split = split_sequences(sequences, "leave-one-out")
    options = RankOptions(dim=16, epochs=40, patience=40, learning_rate=2e-2, weight_decay=0.1)
    ranker, _ = fit_factors("mf", sequences, split, options, seed=0, progress=SILENT)
    ranks = target_ranks(ranker, sequences, split.test)
    assert recall(ranks, 12).mean() > 0.95  # a user has 6 of the 12 items of the cluster
    scores = ranker.scores(replace(before(sequences, split.test), users=np.full(split.test.n, -1)))
    assert (scores == scores[0]).all()  # an unknown user


def texts_of(sequences, seed: int = 0):
    """Vectors in which items of a cluster are alike."""
    rng = np.random.default_rng(seed)
    cluster = np.array([int(item[1]) for item in sequences.item_ids])
    return (rng.normal(size=(6, 24))[cluster] * 2 + rng.normal(size=(len(cluster), 24))).astype(np.float32)


def test_texts_rank_without_training_and_shuffled_ones_do_not() -> None:
    sequences = clusters(length=4)
    split = split_sequences(sequences, "leave-one-out")
    vectors = texts_of(sequences)
    shuffled = vectors[np.random.default_rng(1).permutation(len(vectors))]
    found = []
    for given in (vectors, shuffled):
        ranker = TextRanker(unit(Whitening.of(given)(given)), np.ones(len(given), bool))
        found.append(recall(target_ranks(ranker, sequences, split.test), 10).mean())
    chance = 10 / (sequences.n_items - 3)
    assert found[0] > 4 * chance
    assert found[1] < 1.6 * chance


def test_settings_that_cannot_be_trained_are_refused_before_training(chain) -> None:
    sequences, split = chain
    for options in (replace(SMALL, attention_heads=3), replace(SMALL, dim=30, attention_heads=5, trials=4)):
        with pytest.raises(BadSetting, match="no multiple of the attention heads"):
            fit_model("sasrec", sequences, split, options, None, seed=0, progress=SILENT)
    three = chains(length=3)
    with pytest.raises(BadSetting, match="no user has two interactions"):
        fit_model("sasrec", three, split_sequences(three, "leave-one-out"), SMALL, None, seed=0, progress=SILENT)


@pytest.mark.parametrize("ids", [True, False])
def test_a_sequence_network_on_texts_ranks_items_it_has_not_seen(ids) -> None:
    sequences = clusters(n_users=400, length=5)
    cold = np.array([item.endswith(("10", "11")) for item in sequences.item_ids])
    # Cold items are only ever targets of the test part.
    keep = ~cold[sequences.items] | (np.arange(sequences.n) == sequences.starts[sequences.users + 1] - 1)
    moved = np.append(0, np.cumsum(keep))
    sequences = replace(
        sequences, starts=moved[sequences.starts], items=sequences.items[keep], times=sequences.times[keep]
    )
    split = split_sequences(sequences, "leave-one-out")
    targets = split.test.where(cold[sequences.items[split.test.at]])
    assert targets.n > 30
    vectors = texts_of(sequences)
    options = replace(SMALL, epochs=15)
    text = fit_model(
        "sequence+id" if ids else "sequence",
        sequences,
        split,
        options,
        TextVectors(vectors, np.ones(len(vectors), bool)),
        seed=0,
        progress=SILENT,
    )
    by_ids = fit_model("sasrec", sequences, split, options, None, seed=0, progress=SILENT)
    assert recall(target_ranks(text.ranker, sequences, targets), 20).mean() > 0.5
    assert recall(target_ranks(by_ids.ranker, sequences, targets), 20).mean() == 0


@pytest.mark.parametrize(
    "model", ["popularity", "recent", "cooccurrence", "mf", "lightgcn", "sasrec", "text", "sequence", "sequence+id"]
)
def test_a_restored_model_gives_the_same_scores(model) -> None:
    sequences = clusters()
    split = split_sequences(sequences, "leave-one-out")
    vectors = texts_of(sequences) if model.startswith(("text", "sequence")) else None
    texts = None if vectors is None else TextVectors(vectors, np.arange(len(vectors)) != 3)
    options = replace(SMALL, epochs=2, trials=2)
    fitted = fit_model(model, sequences, split, options, texts, seed=0, progress=SILENT)
    assert len(fitted.trials) == {"popularity": 1, "text": 3}.get(model, 2)
    assert fitted.ndcg == max(trial.ndcg for trial in fitted.trials)
    tensors = {name: np.asarray(tensor) for name, tensor in state(fitted).items()}
    sizes = sequences.n_users, sequences.n_items
    again = restored(model, fitted.options, *sizes, tensors, texts)
    histories = before(sequences, split.test)
    assert np.array_equal(fitted.ranker.scores(histories), again.scores(histories))
    if model == "text":
        assert (again.scores(histories)[:, 3] == -np.inf).all()


def test_whitened_vectors_have_equal_variances() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(5000, 6)) @ rng.normal(size=(6, 6)) + 3).astype(np.float32)
    white = Whitening.of(vectors)(vectors)
    assert white.mean(axis=0) == pytest.approx(np.zeros(6), abs=1e-4)
    covariance = np.cov(white.T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-3
    assert np.diag(covariance) == pytest.approx(np.ones(6), rel=0.1)
