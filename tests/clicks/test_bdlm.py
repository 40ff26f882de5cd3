"""Tokens of users and items, and what both sides of BDLM learn from each other."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from loid_infer.clicks.answers import questions_of
from loid_infer.clicks.bdlm import BdlmModel, IdTokens
from loid_infer.clicks.nets import pair_net
from loid_infer.clicks.prompts import Prompts, id_token, id_tokens
from loid_infer.clicks.settings import BdlmSettings
from loid_infer.errors import BadSetting
from loid_infer.graphs.bases import load_base
from loid_infer.graphs.extended import with_tokens, write_base
from loid_infer.plugins.adapter import adapted_encoder
from loid_infer.rankers.settings import RankOptions
from loid_infer.settings import Workspace
from loid_infer.verbs.pairheads import decoder_of
from tests.clicks.test_cora import batch_of, make_decoder
from tests.clicks.worlds import both_needed, write_pairs

TEMPLATE = "{user} {history} the {title} {item} is it good Answer:"
SETTINGS = BdlmSettings(rank=3, precision="fp32", max_tokens=48, joint=0.5)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("bdlm")
    rows, titles = both_needed(n_users=12)
    clicks = write_pairs(Workspace(root / "ws"), "d", rows, titles)
    base = str(make_decoder(root / "base", tie_word_embeddings=True))
    return clicks, [titles[item] for item in clicks.item_ids], base


@pytest.fixture
def opened(world):
    """A model with random weights, its base with tokens of IDs, the first of them, and training questions."""
    clicks, titles, path = world
    torch.manual_seed(0)
    net = pair_net("mf", clicks, RankOptions(dim=6))
    torch.nn.init.normal_(net.item_bias)
    source, first = with_tokens(decoder_of(path), id_tokens(len(clicks.user_ids), len(clicks.item_ids)))
    prompts = Prompts.of(TEMPLATE, titles, source.tokenizer(SETTINGS.max_tokens), 8, with_ids=True)
    yes, no = source.output_rows(prompts.answers())
    spec = source.spec(source.digest, SETTINGS.max_tokens)
    decoder = adapted_encoder(spec, source.tensors, source.model, SETTINGS)
    model = BdlmModel(decoder, yes - no, net, first, SETTINGS)
    return model, source, first, questions_of(clicks, titles, prompts, SETTINGS)[0]


def moved(model):
    """The model with all factors and the mixer changed."""
    for name, part in model.trained().items():
        if name.endswith(".b") or name.startswith("mixer"):
            torch.nn.init.normal_(part, std=0.1)
    return model


def test_a_prompt_has_the_tokens_of_its_user_and_item(opened) -> None:
    model, _, first, questions = opened
    n_users, rows = len(model.tokens.users), [0, 50, 100]
    ids, _ = batch_of(questions, rows)
    for row, tokens in zip(rows, ids.tolist(), strict=True):
        user, item = int(questions.pairs.users[row]), int(questions.pairs.items[row])
        assert [token for token in tokens if token >= first] == [first + user, first + n_users + item]


def test_embeddings_are_those_of_the_decoder_and_projected_vectors(opened) -> None:
    model, source, first, questions = opened
    tokens, words = model.tokens, source.tensors["embed_tokens.weight"]
    ids, _ = batch_of(questions, [3])
    found = tokens(ids)[0]
    for token, vector in zip(ids[0].tolist(), found, strict=True):
        wanted = words[token] if token < first else tokens.rows()[token - first]
        torch.testing.assert_close(vector, wanted)
    spread = tokens.rows()[:-2].std()
    assert 0.7 * words.std() < spread < 1.4 * words.std()
    # They start as the collaborative head's vectors with biases, of mean 0 and variance 1.
    table = torch.cat([model.net.items, model.net.item_bias[:, None]], dim=1).detach()
    centered = table - table.mean(dim=0)
    torch.testing.assert_close(tokens.items.detach(), centered / centered.square().mean().sqrt())


def test_hidden_users_and_items_are_unknown_to_both_sides(opened) -> None:
    model, _, first, questions = opened
    model, rows = moved(model), np.array([3, 40])
    ids, mask = batch_of(questions, rows.tolist())
    pairs, none = questions.pairs.take(rows), np.array([-1, -1])
    n = len(model.tokens.users) + len(model.tokens.items)
    replaced = model.tokens.unknown(ids, torch.tensor([[True, False], [False, True]]))
    assert replaced[0][ids[0] >= first].tolist()[0] == first + n
    assert replaced[1][ids[1] >= first].tolist()[1] == first + n + 1
    assert (replaced != ids).sum() == 2
    with torch.inference_mode():
        hidden = model.both(ids, mask, pairs, np.array([[True, True], [True, True]]))
        gone = model.tokens.unknown(ids, torch.ones(2, 2, dtype=torch.bool))
        unknown = model.both(gone, mask, type(pairs)(none, none, pairs.histories))
    for a, b in zip(hidden, unknown, strict=True):
        torch.testing.assert_close(a, b)


def test_losses_are_those_of_both_sides_and_of_the_distance_to_shared_vectors(opened) -> None:
    model, _, _, questions = opened
    model, rows = moved(model), np.array([3, 40, 41])
    torch.nn.init.normal_(model.shared_users)
    torch.nn.init.normal_(model.shared_items)
    ids, mask = batch_of(questions, rows.tolist())
    pairs, labels = questions.pairs.take(rows), torch.from_numpy(questions.labels[rows])
    wanted = sum(
        functional.binary_cross_entropy_with_logits(side, labels, reduction="sum")
        for side in model.both(ids, mask, pairs)
    )
    net, tokens = model.net, model.tokens
    for name, codes in (("user", pairs.users), ("item", pairs.items)):
        table = torch.cat([getattr(net, f"{name}s"), getattr(net, f"{name}_bias")[:, None]], dim=1)
        scaled = (table - getattr(model, f"{name}s_center")) / getattr(model, f"{name}s_spread")
        for code in codes.tolist():
            shared = getattr(model, f"shared_{name}s")[code]
            wanted += 0.5 * (getattr(tokens, f"{name}s")[code] - shared).square().mean()
            wanted += 0.5 * (scaled[code] - shared).square().mean()
    torch.testing.assert_close(model.losses(ids, mask, pairs, labels, None), wanted)


def test_the_collaborative_side_starts_as_fitted_and_does_not_train_the_decoder(opened) -> None:
    model, _, _, questions = opened
    rows = np.array([3, 40, 41])
    ids, mask = batch_of(questions, rows.tolist())
    pairs = questions.pairs.take(rows)
    users, items, net = pairs.users, pairs.items, model.net
    fitted = net.bias + net.user_bias[users] + net.item_bias[items] + (net.users[users] * net.items[items]).sum(dim=1)
    torch.testing.assert_close(model(ids, mask, pairs), fitted)
    moved(model).both(ids, mask, pairs)[1].sum().backward()
    trained = {
        name.split(".")[0] for name, part in model.trained().items() if part.grad is not None and part.grad.any()
    }
    assert trained == {"net", "mixer"}


def test_the_written_base_computes_the_same_states(opened, tmp_path) -> None:
    model, source, first, questions = opened
    model = moved(model)
    from loid_infer.architectures.transformer import Transformer
    from loid_infer.plugins.delta import fold

    tensors = fold(source.arrays(), [model.decoder.delta()])
    write_base(tmp_path / "extended", source, tensors, model.tokens.rows().numpy(), first)
    base = load_base(str(tmp_path / "extended"), normalize=False)
    assert base.tokenizer(48).id_of(id_token("item", 0)) == first + len(model.tokens.users)
    ids, mask = batch_of(questions, [3, 40, 41])
    rows = np.array([3, 40, 41])
    with torch.inference_mode():
        states = Transformer(base.spec(base.digest, 48), base.tensors)(ids, mask)
        wanted = model.both(ids, mask, questions.pairs.take(rows))[0]
    torch.testing.assert_close(states @ model.direction, wanted, atol=1e-4, rtol=1e-4)
    with pytest.raises(BadSetting, match=r"has tokens of IDs already.*user 0"):
        with_tokens(base, [id_token("user", 0)])


def test_vectors_that_are_not_loaded_are_random_and_ids_can_be_left_out(opened, world) -> None:
    model, source, _, _ = opened
    clicks = world[0]
    net = pair_net("mf", clicks, RankOptions(dim=6))
    spec = source.spec(source.digest, SETTINGS.max_tokens)

    def made(**changes):
        decoder = adapted_encoder(spec, source.tensors, decoder_of(world[2]).model, SETTINGS)
        settings = BdlmSettings(rank=3, precision="fp32", max_tokens=48, **changes)
        return BdlmModel(decoder, model.direction, net, -1 if changes.get("no_tokens") else 400, settings)

    loaded, fresh = made().tokens.users, made(random_tokens=True).tokens.users
    assert abs(float(np.corrcoef(loaded.detach().ravel(), fresh.detach().ravel())[0, 1])) < 0.3
    assert made(no_tokens=True).tokens is None
    assert not {"shared_users", "tokens.users"} & made(no_tokens=True).trained().keys()
    assert "shared_users" not in made(joint=0.0).trained()
    assert isinstance(loaded, torch.nn.Parameter)
    assert isinstance(made().tokens, IdTokens)
