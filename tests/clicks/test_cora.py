"""CoRA's increments against weights written out, and its decoder against transformers."""

import numpy as np
import pytest
import torch

from loid_infer.clicks.answers import CoraModel, answered, questions_of
from loid_infer.clicks.nets import pair_net
from loid_infer.clicks.prompts import Prompts
from loid_infer.clicks.settings import CoraSettings
from loid_infer.data.clicks import Pairs
from loid_infer.data.sequences import Histories
from loid_infer.errors import BadSetting
from loid_infer.graphs.bases import load_base
from loid_infer.plugins.adapter import module_names
from loid_infer.rankers.settings import RankOptions
from loid_infer.settings import Workspace
from loid_infer.verbs.pairheads import decoder_of
from tests.clicks.worlds import both_needed, write_pairs
from tests.families import make_family, write_tokenizer

TEMPLATE = "{history} the {title} is it good Answer:"
SETTINGS = CoraSettings(rank=3, targets=("query", "value"), dim=8, precision="fp32", max_tokens=48)


def make_decoder(folder, name="llama", **config):
    """A small decoder whose tokenizer has Yes and No as tokens."""
    make_family(folder, name, seed=3)
    words = ["the case great awful sound guitar cable is it good Answer: Yes No nothing yet; an item without a title"]
    n_words = write_tokenizer(folder, "", "", words * 20, 340)
    model = __import__("transformers").AutoModel.from_pretrained(folder)
    model.resize_token_embeddings(n_words)
    for key, value in config.items():
        setattr(model.config, key, value)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return decoder_of(str(make_decoder(tmp_path_factory.mktemp("decoder") / "base", tie_word_embeddings=True)))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    rows, titles = both_needed(n_users=12)
    clicks = write_pairs(Workspace(tmp_path_factory.mktemp("ws")), "d", rows, titles)
    return clicks, [titles[item] for item in clicks.item_ids]


@pytest.fixture
def cora(decoder, world):
    clicks, titles = world
    torch.manual_seed(0)
    net = pair_net("mf", clicks, RankOptions(dim=6))
    prompts = Prompts.of(TEMPLATE, titles, decoder.tokenizer(SETTINGS.max_tokens), 8)
    yes, no = decoder.output_rows(prompts.answers())
    spec = decoder.spec(decoder.digest, SETTINGS.max_tokens)
    model = CoraModel(spec, decoder.tensors, yes - no, net, SETTINGS, 5)
    return model, questions_of(clicks, titles, prompts, SETTINGS)[0]


def moved(model):
    """The model with increments that are not 0."""
    for right in model.generator.right.values():
        torch.nn.init.normal_(right, std=0.3)
    return model


def pairs_of(histories):
    return Pairs(histories.users, histories.users, histories)


def batch_of(questions, rows):
    examples = questions.examples.take(np.array(rows), np.zeros(len(rows)))
    (batch,) = examples.padded([np.arange(len(rows))], SETTINGS.max_tokens)
    return torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)


def test_it_starts_as_the_decoder_whose_logits_are_those_of_transformers(cora, decoder) -> None:
    import transformers

    model, questions = cora
    ids, mask = batch_of(questions, [0, 40, 80])
    with torch.inference_mode():
        logits = model(ids, mask, questions.pairs.take(np.array([0, 40, 80])))
        plain = model.plain(ids, mask)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(decoder.path)
        last = theirs(input_ids=ids, attention_mask=mask).logits[torch.arange(3), mask.sum(1) - 1]
    yes, no = (decoder.tokenizer(20)([text]).flat_ids[-1] for text in ("Answer: Yes", "Answer: No"))
    torch.testing.assert_close(logits, plain, atol=0, rtol=0)
    torch.testing.assert_close(plain, last[:, yes] - last[:, no], atol=2e-4, rtol=1e-4)


def test_increments_are_those_of_weights_written_out(cora, decoder) -> None:
    model, questions = cora
    model = moved(model)
    row = np.array([30])
    ids, mask = batch_of(questions, row.tolist())
    with torch.inference_mode():
        logit = model(ids, mask, questions.pairs.take(row))
        vectors = model.generator(*model.read(questions.pairs.take(row)))
        tensors = {name: tensor.clone() for name, tensor in decoder.tensors.items()}
        spec = decoder.spec(decoder.digest, SETTINGS.max_tokens)
        for layer in range(spec.n_layers):
            for part, name in module_names(spec, layer, SETTINGS.targets).items():
                left, right = model.generator.increment(vectors, layer, part)
                tensors[f"{name}.weight"] += (left[0] @ right).T
        written = CoraModel(spec, tensors, model.direction, model.net, SETTINGS, 5).plain(ids, mask)
    torch.testing.assert_close(logit, written, atol=1e-4, rtol=1e-4)


def test_a_logit_does_not_depend_on_the_other_pairs_of_the_batch(cora) -> None:
    model, questions = cora
    model = moved(model)
    together = answered(model, questions, SETTINGS)
    for row in (3, 100):
        ids, mask = batch_of(questions, [row])
        with torch.inference_mode():
            alone = model(ids, mask, questions.pairs.take(np.array([row])))
        assert float(alone) == pytest.approx(together[row], abs=1e-4)
    # Nor does the plain decoder remember the increments of the batch before.
    with torch.inference_mode():
        plain = model.plain(ids, mask)
    for right in model.generator.right.values():
        torch.nn.init.zeros_(right)
    with torch.inference_mode():
        torch.testing.assert_close(plain, model(ids, mask, questions.pairs.take(np.array([100]))))


def test_only_the_generator_has_gradients_and_layers_below_are_not_changed(decoder, world, cora) -> None:
    model, questions = cora
    ids, mask = batch_of(questions, [0, 1])
    moved(model)(ids, mask, questions.pairs.take(np.array([0, 1]))).sum().backward()
    with_gradient = {name for name, part in model.named_parameters() if part.grad is not None and part.grad.any()}
    assert with_gradient
    assert all(name.startswith("generator.") for name in with_gradient)
    assert {name for name, part in model.named_parameters() if part.requires_grad} == {
        f"generator.{name}" for name, _ in model.generator.named_parameters()
    }
    spec = decoder.spec(decoder.digest, SETTINGS.max_tokens)
    settings = CoraSettings(rank=3, targets=("query",), layers=1, dim=8, precision="fp32", max_tokens=48)
    top = CoraModel(spec, decoder.tensors, model.direction, model.net, settings, 5)
    assert len(top.generator.layers) == 1
    kinds = [type(layer.query).__name__ for layer in top.decoder.layers]
    assert kinds == ["Linear"] * (spec.n_layers - 1) + ["GeneratedLinear"]


def test_prompts_fit_and_have_the_newest_items(decoder) -> None:
    titles = [f"the great sound {'guitar ' * 6}{number}" for number in range(30)]
    tokenizer = decoder.tokenizer(60)
    prompts = Prompts.of(TEMPLATE, [*titles, ""], tokenizer, 5)
    histories = Histories(np.array([0, 1]), np.array([0, 0]), np.array([30, 0]), np.arange(30))
    full, empty = prompts(pairs_of(histories), [titles[0] * 9, ""])
    assert int(tokenizer([full]).lengths[0]) <= 60
    assert not tokenizer([full]).n_truncated
    assert full.endswith("is it good Answer:")
    assert 1 <= full.count(";") <= 10
    assert empty == "nothing yet the an item without a title is it good Answer:"
    braces = Prompts.of(TEMPLATE, ["a {title}", "the {history}"], tokenizer, 9)
    one = Histories(np.array([0]), np.array([0]), np.array([1]), np.array([0]))
    assert braces(pairs_of(one), ["{history}"]) == ["a {title}; the {history} is it good Answer:"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{title} Answer:", r"--prompt.*\{history\} and \{title\}, once each"),
        ("{history} {title} {title} Answer:", "once each"),
        ("the case " * 40 + "{history} {title} Answer:", "leaves no tokens for a history"),
    ],
)
def test_unusable_templates_are_refused(decoder, template, message) -> None:
    with pytest.raises(BadSetting, match=message):
        Prompts.of(template, ["the case"], decoder.tokenizer(60), 5)


def test_bases_that_cannot_answer_are_refused(tmp_path, toy_base, decoder) -> None:
    with pytest.raises(BadSetting, match=r"only a decoder can answer.*bert.*--base a decoder"):
        decoder_of(str(toy_base))
    folder = make_family(tmp_path / "qwen", "qwen3")  # with a token behind every text
    prompts = Prompts.of(TEMPLATE, ["the case"], load_base(str(folder)).tokenizer(60), 5)
    with pytest.raises(BadSetting, match="not single tokens behind the prompt"):
        prompts.answers()


def test_output_embeddings_that_are_stored_apart_are_read(tmp_path) -> None:
    import transformers

    folder = make_decoder(tmp_path / "untied", tie_word_embeddings=False)
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    torch.nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(folder)
    base = decoder_of(str(folder))
    assert torch.equal(base.output_rows([7, 4]), model.lm_head.weight[[7, 4]])
    assert not torch.equal(base.output_rows([7, 4]), base.tensors["embed_tokens.weight"][[7, 4]])
