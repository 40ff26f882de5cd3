"""Training an encoder to rank next items."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from loid_infer.architectures.family import TARGETS
from loid_infer.data.sequences import Sequences, split_sequences
from loid_infer.errors import BadSetting
from loid_infer.graphs.bases import Base, load_base
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.plugins import ranking
from loid_infer.plugins.adapter import adapted_encoder
from loid_infer.plugins.ranking import RankingData, train_ranking
from loid_infer.plugins.settings import RankTrainSettings
from loid_infer.rankers.joined import JoinedTexts
from loid_infer.types import SILENT
from tests.conftest import WORDS
from tests.rankers.worlds import chains, events, sequences_of

SETTINGS = RankTrainSettings(
    rank=4, targets=tuple(TARGETS), epochs=3, learning_rate=1e-2, batch=16, max_tokens=64, precision="fp32", evals=2
)


@pytest.fixture
def base(toy_base) -> Base:
    return load_base(str(toy_base), "mean")  # per test, since peft changes the module


def data_of(base: Base, sequences: Sequences, titles: list[str]) -> RankingData:
    tokenizer = base.tokenizer(SETTINGS.max_tokens)
    split = split_sequences(sequences, "leave-one-out")
    return RankingData(sequences, split, JoinedTexts.of(titles, tokenizer, 40), tokenizer)


def model_of(base: Base, settings: RankTrainSettings = SETTINGS):
    spec = base.spec("", settings.max_tokens)
    return adapted_encoder(spec, base.tensors, base.model, settings)


def run_of(base: Base, sequences: Sequences, titles: list[str], settings: RankTrainSettings = SETTINGS):
    return ranking._Run(model_of(base, settings), data_of(base, sequences, titles), settings)


def chained(base: Base) -> RankingData:
    """Every item is one word, and the last one of a history decides the next."""
    sequences = chains(n_users=160, n_items=12, length=6)
    return data_of(base, sequences, [f"{word}; " for word in WORDS[:12]])


def test_training_learns_which_title_follows(base) -> None:
    data, model = chained(base), model_of(base)
    settings = replace(SETTINGS, epochs=12, evals=1, patience=12)
    before = ranking._Run(model, data, settings).validate()
    history = train_ranking(model, data, settings, None, SILENT)
    assert before > 0.4
    assert min(history.eval_errors) < 0.2
    assert np.mean(history.losses[-5:]) < 0.5 * np.mean(history.losses[:5])


def test_a_resumed_run_ends_with_the_same_weights(base, toy_base, tmp_path) -> None:
    data, whole = chained(base), model_of(base)
    train_ranking(whole, data, SETTINGS, None, SILENT)

    class Stop(BaseException):
        pass

    class Once(Checkpoint):
        def save(self, tensors, state) -> None:
            super().save(tensors, state)
            if state["step"] > 12:
                raise Stop

    again = load_base(str(toy_base), "mean")
    first = model_of(again)
    with pytest.raises(Stop):
        train_ranking(first, data, SETTINGS, Once(tmp_path / "c", "run", 0.0), SILENT)
    second = model_of(load_base(str(toy_base), "mean"))
    train_ranking(second, data, SETTINGS, Checkpoint(tmp_path / "c", "run", 1e9), SILENT)
    for name, factor in whole.factors().items():
        assert torch.equal(factor, second.factors()[name]), name


def test_with_all_items_as_candidates_the_loss_is_the_full_cross_entropy(base) -> None:
    """With many draws every item is there with probability 1, and nothing is corrected."""
    data, settings = chained(base), replace(SETTINGS, negatives=500)
    run = ranking._Run(model_of(base, settings), data, settings)
    at = next(run.batches(0, 0))
    loss = run.step(at, 0)
    sequences, n_items = data.sequences, data.sequences.n_items
    with torch.no_grad():
        histories = ranking.Histories(sequences.users[at], sequences.starts[sequences.users[at]], at, sequences.items)
        vectors, _ = run._encode(histories, np.arange(n_items))
    scores = (vectors[: len(at)] @ vectors[len(at) :].T / settings.temperature).double().numpy()
    for row in range(len(at)):
        had = sequences.items[histories.starts[row] : at[row]]
        scores[row, had[had != sequences.items[at[row]]]] = -np.inf
    wanted = scores[np.arange(len(at)), sequences.items[at]]
    expected = np.log(np.exp(scores).sum(axis=1)) - wanted
    assert float(loss.error) == pytest.approx(expected.mean(), rel=1e-5)


@pytest.mark.parametrize("negatives", [0, 1])
def test_the_sum_over_candidates_estimates_the_one_over_all_items(base, negatives) -> None:
    """Bengio & Senecal 2008, eq. 9: the mean over steps of the corrected sum over other items is that over all of them.

    A few users have many items of their own, and most have few popular ones.
    """
    rng = np.random.default_rng(0)
    rows = [(f"few{user}", f"p{item}", at) for user in range(90) for at, item in enumerate(rng.permutation(6)[:5])]
    rows += [(f"many{user}", f"q{item:02}", at) for user in range(10) for at, item in enumerate(rng.permutation(20))]
    sequences = sequences_of({"both": events(rows)}, 0)
    titles = [f"{WORDS[i % 20]} {i}; " for i in range(sequences.n_items)]
    settings = replace(SETTINGS, negatives=negatives, batch=10)
    run = run_of(base, sequences, titles, settings)
    scores = np.exp(rng.normal(size=sequences.n_items))
    popular = np.array([name.startswith("p") for name in sequences.item_ids])
    found = {True: [], False: []}
    full = {True: [], False: []}
    for epoch in range(600):
        for number, at in enumerate(run.batches(epoch, 0)):
            wanted = sequences.items[at]
            candidates = run._among(wanted, 0, 10 * epoch + number)
            nothing = ranking.Histories(sequences.users[at], at, at, sequences.items)
            weights = np.exp(run._corrections(nothing, wanted, candidates, 0).numpy().astype(float))
            for of_kind in (True, False):  # of the first row
                others = (candidates != wanted[0]) & (popular[candidates] == of_kind)
                found[of_kind].append((scores[candidates] * weights[0])[others].sum())
                every = (np.arange(sequences.n_items) != wanted[0]) & (popular == of_kind)
                full[of_kind].append(scores[every].sum())
    for of_kind in (True, False):
        assert np.mean(found[of_kind]) == pytest.approx(np.mean(full[of_kind]), rel=0.04), of_kind


def test_only_earlier_items_are_known_to_the_training(base) -> None:
    """What a user has after a target may be among its negatives: excluding it would tell the future."""
    sequences = chains(n_users=40, n_items=12, length=6)
    settings = replace(SETTINGS, negatives=100)
    run = run_of(base, sequences, [f"{word}; " for word in WORDS[:12]], settings)
    at = next(run.batches(0, 0))
    users, wanted = sequences.users[at], sequences.items[at]
    histories = ranking.Histories(users, sequences.starts[users], at, sequences.items)
    candidates = run._among(wanted, 0, 0)
    added = run._corrections(histories, wanted, candidates, 0).numpy()
    for row, user in enumerate(users.tolist()):
        past = {*sequences.items[sequences.starts[user] : at[row]].tolist()} - {int(wanted[row])}
        assert {int(candidates[column]) for column in np.flatnonzero(np.isneginf(added[row]))} == past & {
            *candidates.tolist()
        }
        assert at[row] < run.data.split.train_ends[user]


def test_targets_and_negatives_are_items_with_a_text_of_the_own_domain(base) -> None:
    rows = [(f"u{user}", f"{'ab'[at % 2]}{(user + at) % 6}", at) for user in range(30) for at in range(8)]
    domains = {
        name: events([row for row in rows if row[1][0] == letter], digest=letter)
        for name, letter in (("first", "a"), ("second", "b"))
    }
    sequences = sequences_of(domains, 0)
    titles = [f"{WORDS[i]}; " for i in range(sequences.n_items)]
    titles[0] = titles[4] = ""
    run = run_of(base, sequences, titles)
    for number, at in enumerate(run.batches(0, 0)):
        wanted = sequences.items[at]
        assert all(titles[item] for item in wanted.tolist())
        assert (sequences.users[at] == sequences.users[at - 1]).all()
        for domain in (0, 1):
            candidates = run._among(wanted[sequences.item_domains[wanted] == domain], domain, number)
            assert (sequences.item_domains[candidates] == domain).all()
            assert all(titles[item] for item in candidates.tolist())
        assert torch.isfinite(run.step(at, number).objective)
    assert {*np.concatenate([*run.batches(1, 0)]).tolist()} != {*np.concatenate([*run.batches(0, 0)]).tolist()}


def test_without_texts_or_histories_there_is_nothing_to_train(base) -> None:
    sequences = chains(n_users=10, n_items=5, length=3)
    with pytest.raises(BadSetting, match="no user has two training interactions with texts"):
        run_of(base, sequences, ["guitar; ", *[""] * 4])


def test_a_rate_that_diverges_is_an_error(base) -> None:
    data, settings = chained(base), replace(SETTINGS, learning_rate=1e30, clip=1e30)
    with pytest.raises(BadSetting, match="diverged"):
        train_ranking(model_of(base, settings), data, settings, None, SILENT)
