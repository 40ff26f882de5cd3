"""Training a plugin: values and gradients equal peft, and resumed runs equal uninterrupted ones."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from loid_infer.architectures.family import TARGETS
from loid_infer.errors import BadSetting
from loid_infer.graphs.bases import Base, load_base
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.plugins.adapter import AdaptedEncoder, module_names
from loid_infer.plugins.settings import TrainSettings
from loid_infer.plugins.train import Data, Examples, RatingModel, clipped_mse, rating_model, train
from loid_infer.types import SILENT, Spec

MAX_TOKENS = 32
SETTINGS = TrainSettings(
    rank=4, targets=tuple(TARGETS), epochs=2, batch_tokens=256, max_tokens=MAX_TOKENS, precision="fp32", seed=3
)


@pytest.fixture
def base(toy_base) -> Base:
    return load_base(str(toy_base))  # per test, since peft changes the module


def spec_of(base: Base) -> Spec:
    return base.spec("", MAX_TOKENS)


def examples(n: int, seed: int = 0) -> Examples:
    """Texts that state their rating by one of two tokens among random ones."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, MAX_TOKENS, n)
    ratings = rng.integers(1, 3, n)
    parts = [np.r_[2, rng.integers(10, 40, length - 2), 3] for length in lengths]
    for ids, rating in zip(parts, ratings, strict=True):
        ids[1] = 70 + rating
    return Examples(np.concatenate(parts), lengths, ratings.astype(float))


def model_of(base: Base, settings: TrainSettings = SETTINGS) -> RatingModel:
    return rating_model(spec_of(base), base.tensors, base.model, settings, (1.5, 0.5))


def test_forward_pass_and_gradients_equal_peft(base: Base) -> None:
    import peft

    modules = [name for i in range(2) for name in module_names(spec_of(base), i).values()]
    rng = torch.Generator().manual_seed(0)
    shapes = {name: tuple(base.tensors[f"{name}.weight"].shape) for name in modules}
    factors = {
        name: (torch.randn(4, wide, generator=rng) * 0.2, torch.randn(tall, 4, generator=rng) * 0.2)
        for name, (tall, wide) in shapes.items()
    }
    spec = spec_of(base)
    ours = RatingModel(AdaptedEncoder(spec, base.tensors, factors, 1.5, torch.float32), spec.dim, (3.0, 1.0))
    theirs = peft.get_peft_model(base.model, peft.LoraConfig(r=4, lora_alpha=6, target_modules=modules))
    theirs.eval()
    parameters = dict(theirs.named_parameters())
    key = "base_model.model.{}.lora_{}.default.weight"
    for name, (a, b) in factors.items():
        parameters[key.format(name, "A")].data.copy_(a)
        parameters[key.format(name, "B")].data.copy_(b)
    ids = torch.randint(5, 40, (6, 9), generator=rng)
    mask = (torch.arange(9) < torch.tensor([9, 9, 5, 3, 2, 7])[:, None]).long()
    cls = theirs(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    expected = 3.0 + ours.rating(torch.nn.functional.gelu(ours.hidden(cls)))[:, 0]
    predictions = ours(ids, mask)
    torch.testing.assert_close(predictions, expected, rtol=1e-5, atol=1e-5)
    predictions.square().sum().backward()
    expected.square().sum().backward()
    for name in modules:
        for factor in "ab":
            gradient = ours.trained()[f"{name}.{factor}"].grad
            torch.testing.assert_close(
                gradient, parameters[key.format(name, factor.upper())].grad, rtol=1e-3, atol=1e-3, msg=name
            )
            assert gradient.abs().max() > 1e-3


def test_training_starts_from_the_frozen_encoder_and_updates_only_lora_and_regressor(base: Base, tmp_path) -> None:
    model = model_of(base)
    assert all(not b.any() for name, b in model.trained().items() if name.endswith(".b"))
    assert {name for name, p in model.named_parameters() if p.requires_grad and ".frozen." in name} == set()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, Data(examples(60), examples(20, 1), (1, 2)), SETTINGS, Checkpoint(tmp_path / "c", "r", 1e9), SILENT)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_training_reduces_the_validation_error(base: Base, tmp_path) -> None:
    data = Data(examples(400), examples(100, 1), (1, 2))
    settings = replace(SETTINGS, epochs=20, learning_rate=5e-3, patience=20)
    history = train(model_of(base), data, settings, Checkpoint(tmp_path / "c", "r", 1e9), SILENT)
    assert min(history.eval_errors) < 0.3 * data.valid.ratings.var()
    assert history.eval_steps[-1] == len(history.losses)


def test_early_stopping_keeps_the_best_weights(base: Base, tmp_path) -> None:
    noise = examples(40)
    rng = np.random.default_rng(0)
    data = Data(Examples(noise.flat_ids, noise.lengths, rng.normal(size=40)), examples(40, 1), (-9, 9))
    settings = replace(SETTINGS, epochs=200, evals=1, patience=3, learning_rate=5e-3)
    model = model_of(base, settings)
    errors = train(model, data, settings, Checkpoint(tmp_path / "c", "r", 1e9), SILENT).eval_errors
    assert len(errors) < 200
    assert len(errors) - int(np.argmin(errors)) == settings.patience + 1
    assert clipped_mse(model, data.valid, (-9, 9), settings) == pytest.approx(min(errors))


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_resumed_run_equals_an_uninterrupted_one(
    toy_base, tmp_path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    data = Data(examples(90), examples(30, 1), (1, 2))
    uninterrupted = model_of(load_base(str(toy_base)))
    reference = train(uninterrupted, data, SETTINGS, Checkpoint(tmp_path / "uninterrupted", "run", 1e9), SILENT)
    assert len(reference.losses) > 10
    checkpoint, saves = Checkpoint(tmp_path / "broken", "run", 0.0), itertools.count(1)

    def save_and_raise(tensors, state, save=checkpoint.save) -> None:
        save(tensors, state)
        if next(saves) == after:
            raise _KilledError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_raise)
        with pytest.raises(_KilledError):
            train(model_of(load_base(str(toy_base))), data, SETTINGS, checkpoint, SILENT)
    resumed = model_of(load_base(str(toy_base)))
    messages: list[str] = []

    class RecordingProgress(type(SILENT)):
        def say(self, line: str) -> None:
            messages.append(line)

    done = train(resumed, data, SETTINGS, checkpoint, RecordingProgress())
    resumed_at = int(messages[0].removeprefix("resuming from step "))
    assert 0 < resumed_at < len(reference.losses)
    assert done == reference
    for name, parameter in uninterrupted.trained().items():
        assert torch.equal(parameter, resumed.trained()[name]), name


def test_the_checkpoint_of_another_run_is_ignored(base: Base, tmp_path) -> None:
    data = Data(examples(60), examples(20, 1), (1, 2))
    checkpoint = Checkpoint(tmp_path / "c", "one", 0.0)
    train(model_of(base), data, SETTINGS, checkpoint, SILENT)
    assert checkpoint.load() is not None
    assert Checkpoint(tmp_path / "c", "two", 0.0).load() is None
    checkpoint.remove()
    assert checkpoint.load() is None


def test_batches_contain_every_text_once_within_the_token_budget() -> None:
    data = examples(300)
    for epoch in range(2):
        batches = data.epoch(256, MAX_TOKENS, 7, epoch)
        assert sorted(np.concatenate(batches).tolist()) == list(range(300))
        padded = list(data.padded(batches, MAX_TOKENS))
        assert all(batch.input_ids.size <= 256 for batch in padded)
        assert sum(batch.n_tokens for batch in padded) == data.lengths.sum()
        assert data.lengths.sum() / sum(batch.input_ids.size for batch in padded) > 0.85
    first, again, next_epoch = (data.epoch(256, MAX_TOKENS, 7, epoch) for epoch in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, next_epoch, strict=True))


def test_selected_rows_keep_their_tokens() -> None:
    data = examples(50)
    rows = np.array([7, 3, 3, 49])
    taken = data.take(rows, np.arange(4.0))
    parts = np.split(data.flat_ids, np.cumsum(data.lengths)[:-1])
    assert taken.flat_ids.tolist() == np.concatenate([parts[row] for row in rows]).tolist()
    assert (taken.lengths == data.lengths[rows]).all()


@pytest.mark.parametrize(
    ("wrong", "messages"),
    [
        ({"rank": 0}, "--rank"),
        ({"rank": 33}, "--rank"),
        ({"layers": 3}, "--layers"),
        ({"epochs": 0}, "--epochs"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"alpha": -1.0}, "--alpha"),
        ({"targets": ("",)}, "--targets"),
        ({"targets": ("query", "pooler")}, "pooler"),
        ({"precision": "fp16"}, "--precision"),
        ({"evals": 0}, "--evals"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
    ],
)
def test_invalid_settings_are_named(wrong: dict, messages: str) -> None:
    with pytest.raises(BadSetting, match=messages):
        TrainSettings(**wrong).check(n_layers=2, width=32, targets=["query", "value"])
