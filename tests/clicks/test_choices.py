"""Prompts with candidates: what stands in them, how training lists are drawn, and what is learned from them."""

from contextlib import suppress
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.nn import functional

from loid_infer.clicks.bdlm import BdlmModel
from loid_infer.clicks.candidates import log_odds
from loid_infer.clicks.choices import by_user, choices_of, n_candidates, valid_lists
from loid_infer.clicks.nets import pair_net
from loid_infer.clicks.prompts import Prompts, id_tokens
from loid_infer.clicks.settings import BdlmSettings
from loid_infer.data.clicks import TRAIN, VALID, Pairs
from loid_infer.data.sequences import Histories
from loid_infer.errors import BadSetting
from loid_infer.graphs.extended import with_tokens
from loid_infer.plugins.adapter import adapted_encoder
from loid_infer.rankers.settings import RankOptions
from loid_infer.settings import Workspace
from loid_infer.types import SILENT
from loid_infer.verbs.pairheads import decoder_of
from tests.clicks.test_cora import batch_of, make_decoder
from tests.clicks.worlds import both_needed, latecomers, write_pairs

TEMPLATE = "{user} {history} {candidates} Answer:"
SETTINGS = BdlmSettings(task="choose", rank=3, precision="fp32", max_tokens=64, joint=0.5)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("choices")
    rows, titles = latecomers(12)
    clicks = write_pairs(Workspace(root / "ws"), "d", rows, titles)
    base = make_decoder(root / "base", tie_word_embeddings=True)
    return clicks, [titles[item] for item in clicks.item_ids], str(base)


@pytest.fixture
def opened(world):
    """A model, its prompts, the token of the first user, and questions of training and validation."""
    clicks, titles, path = world
    torch.manual_seed(0)
    net = pair_net("mf", clicks, RankOptions(dim=6))
    source, first = with_tokens(decoder_of(path), id_tokens(len(clicks.user_ids), len(clicks.item_ids)))
    prompts = Prompts.of(TEMPLATE, titles, source.tokenizer(64), 8, with_ids=True, candidates=n_candidates(clicks))
    decoder = adapted_encoder(source.spec(source.digest, 64), source.tensors, source.model, SETTINGS)
    model = BdlmModel(decoder, torch.zeros(source.shape.hidden_dim), net, first, SETTINGS)
    for name, part in model.trained().items():
        if name.endswith(".b") or name.startswith(("mixer", "output")):
            torch.nn.init.normal_(part, std=0.1)
    return model, prompts, first, choices_of(clicks, titles, prompts, SETTINGS, SILENT)


def test_a_list_has_its_target_and_items_that_no_pair_of_the_user_has(world, opened) -> None:
    clicks, train = world[0], opened[3][0]
    items, labels, users = (part.reshape(-1, 4) for part in (train.pairs.items, train.labels, train.pairs.users))
    liked = clicks.rows(TRAIN)[clicks.labels[clicks.rows(TRAIN)]]
    assert train.examples.n == len(liked)
    assert (labels == [1, 0, 0, 0]).all()
    np.testing.assert_array_equal(users[:, 0], clicks.users[liked])
    np.testing.assert_array_equal(items[:, 0], clicks.items[liked])
    for user, row in zip(users, items, strict=True):
        assert len({*user.tolist()}) == 1
        assert len({*row.tolist()}) == 4
        assert not {*row[1:].tolist()} & {*clicks.items[clicks.users == user[0]].tolist()}
    # They are drawn as often as they stand in negative pairs.
    negatives = clicks.rows(TRAIN)[~clicks.labels[clicks.rows(TRAIN)]]
    counts, found = (
        np.bincount(part, minlength=len(clicks.item_ids)) for part in (clicks.items[negatives], items[:, 1:].ravel())
    )
    assert not found[counts == 0].any()
    assert np.corrcoef(counts, found)[0, 1] > 0.5


def test_a_prompt_lists_the_candidates_in_an_order_that_tells_nothing(opened) -> None:
    model, prompts, first, (train, _) = opened
    ids, _ = batch_of(train, range(train.examples.n))
    n_users, places = len(model.tokens.users), []
    for row, tokens in enumerate(ids.tolist()):
        listed = [token - first for token in tokens if token >= first]
        pairs = train.pairs.take(train.rows(np.array([row])))
        assert listed[0] == pairs.users[0]
        assert sorted(listed[1:]) == sorted(n_users + pairs.items)
        places.append(listed[1:].index(n_users + pairs.items[0]))
    assert min(np.bincount(places)) > len(places) * 0.12  # the target stands in each of the four places
    pairs, turned = train.pairs.take(slice(0, 4)), train.pairs.take(np.array([3, 1, 0, 2]))
    titles = [f"great number {item}" for item in pairs.items.tolist()]
    starts = np.array([0, 4])
    assert prompts(pairs, titles, starts) == prompts(turned, [titles[row] for row in (3, 1, 0, 2)], starts)


def test_losses_are_the_cross_entropy_of_candidates_on_both_sides(opened) -> None:
    model, _, _, (train, _) = opened
    slots = np.array([3, 20, 21])
    ids, mask = batch_of(train, slots.tolist())
    pairs, labels = train.pairs.take(train.rows(slots)), torch.from_numpy(train.labels[train.rows(slots)])
    sides = model.both(ids, mask, pairs)
    states = model.decoder(ids, mask)
    rows = model.tokens.items[pairs.items].view(3, 4, -1) @ model.output.T
    torch.testing.assert_close(sides[0].view(3, 4), (rows @ states[:, :, None])[:, :, 0])
    wanted = sum(functional.cross_entropy(side.view(3, 4), torch.zeros(3).long(), reduction="sum") for side in sides)
    for name, codes in (("users", pairs.users), ("items", pairs.items)):
        for mine in (getattr(model.tokens, name), model._scaled(name)):
            distances = (mine - getattr(model, f"shared_{name}"))[codes].square().mean(dim=1)
            wanted = wanted + 0.5 * distances.view(3, 4).mean(dim=1).sum()
    torch.testing.assert_close(model.losses(ids, mask, pairs, labels, None), wanted)
    hidden = np.array([[True, False, True], [True, True, True]])
    of_users = model.losses(ids, mask, pairs, labels, hidden & [[True], [False]])
    torch.testing.assert_close(model.losses(ids, mask, pairs, labels, hidden), of_users)
    assert not torch.isclose(of_users, wanted)


def test_log_odds_are_of_probabilities_within_a_list() -> None:
    logits = np.array([1.0, 2.0, -1.0, 3.0, 3.0, 500.0, -500.0, 7.0], np.float32)
    starts = np.array([0, 3, 5, 7, 8])
    found = 1 / (1 + np.exp(-log_odds(logits, starts).astype(np.float64)))
    wanted = np.concatenate([functional.softmax(torch.tensor(part), dim=0) for part in ([1.0, 2, -1], [3.0, 3])])
    np.testing.assert_allclose(found[:5], wanted, rtol=1e-5)
    np.testing.assert_allclose(found[5:], [1, 0, 1], atol=1e-6)


def test_lists_of_users_are_put_together_and_taken_apart(world) -> None:
    clicks = world[0]
    rows = np.random.default_rng(0).permutation(clicks.rows(VALID))
    seen = []

    def choose(pairs, titles, starts):
        seen.extend(starts.tolist())
        assert all(len({*pairs.users[start : start + 4].tolist()}) == 1 for start in starts[:-1])
        assert titles == [str(item) for item in pairs.items.tolist()]
        return pairs.items * 1.0

    pairs = clicks.pairs(rows)
    found = by_user(choose)(pairs, [str(item) for item in pairs.items.tolist()])
    assert seen == [*range(0, 49, 4)]
    np.testing.assert_array_equal(found, pairs.items)
    assert len(valid_lists(clicks, 0)) == 48


def test_what_has_no_candidates_cannot_be_chosen_from(world, tmp_path) -> None:
    assert n_candidates(world[0]) == 4
    rows = latecomers(12)[0]
    last = next(row for row in reversed(rows) if row[2] == 0)
    refused = {
        "labeled": both_needed(n_users=12)[0],
        "uneven": [row for row in rows if row != last],
        # What was liked before the later candidate is liked: a history would show it.
        "later": [(*row[:3], row[3] + 1, row[4]) if row == last else row for row in rows],
    }
    for domain, given in refused.items():
        with pytest.raises(BadSetting, match=f"no candidates to choose from .*at one time.* pairs --domain {domain}"):
            n_candidates(write_pairs(Workspace(tmp_path), domain, given))


def test_users_who_met_nearly_all_items_are_left_out_of_training(world, opened, tmp_path) -> None:
    clicks, titles, path = world
    prompts = Prompts.of(TEMPLATE, titles, decoder_of(path).tokenizer(2048), 8, with_ids=True, candidates=70)
    with pytest.raises(BadSetting, match=r"no user has enough items that it never met .*at least 69.*--negatives"):
        choices_of(clicks, titles, prompts, SETTINGS, SILENT)
    rows, names = latecomers(12)
    met = {row[1] for row in rows if row[0] == "u002"}
    rest = [("u002", item, 0, 1, "train") for item in sorted(names) if item not in met][2:]
    clicks = write_pairs(Workspace(tmp_path), "full", [*rows, *rest], names)
    progress = Mock()
    titles = [names[item] for item in clicks.item_ids]
    train = choices_of(clicks, titles, opened[1], SETTINGS, progress)[0]
    of_user = opened[3][0].pairs.users == 2
    assert train.examples.n == opened[3][0].examples.n - of_user.sum() // 4
    assert 2 not in train.pairs.users
    n_left = of_user.sum() // 4
    progress.say.assert_called_once_with(f"{n_left} liked pairs are left out: their users met nearly all items")


def test_a_prompt_that_is_too_long_or_incomplete_is_refused(world) -> None:
    _, titles, path = world
    tokenizer = decoder_of(path).tokenizer(24)
    with pytest.raises(BadSetting, match=r"leaves no tokens for a history.*--max-tokens"):
        Prompts.of(TEMPLATE, titles, tokenizer, 8, candidates=20)
    # Items without a title have a text that is longer than these.
    short = ["a", "b", ""]
    for n in range(40, 200):
        tokenizer = decoder_of(path).tokenizer(n)
        with suppress(BadSetting):
            prompts = Prompts.of(TEMPLATE, short, tokenizer, 8, candidates=3)
            break
    none = np.array([-1, -1, -1])
    pairs = Pairs(none, none, Histories(none, none * 0, none * 0 + 3, np.arange(3)))
    assert int(tokenizer(prompts(pairs, ["", "", ""], np.array([0, 3]))).lengths[0]) <= n
    with pytest.raises(BadSetting, match=r"\{user\} and \{history\} and \{candidates\}, once each"):
        Prompts.of("{user} {history} {title} Answer:", titles, tokenizer, 8, candidates=4)
