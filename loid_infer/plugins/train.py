"""Trains LoRA and a regressor to predict ratings from texts by mean squared error (LoID eq. 3 and 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loid_infer.errors import BadSetting
from loid_infer.evaluation.metrics import clipped, mse
from loid_infer.learning import loop
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import History, Loss, Training
from loid_infer.plugins.adapted import RatingModel, module_names
from loid_infer.plugins.examples import Examples
from loid_infer.plugins.reference import fresh_factors
from loid_infer.plugins.settings import TrainSettings
from loid_infer.types import Progress, Spec, TokenBatch


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Training and validation data."""

    train: Examples
    valid: Examples
    rating_range: tuple[float, float]


def rating_model(
    spec: Spec, frozen: Mapping[str, Tensor], model: Any, settings: TrainSettings, ratings: tuple[float, float]
) -> RatingModel:
    """The initialized model.

    Args:
        model: the base as a transformers module, in which peft initializes LoRA; changed in place.
    """
    layers = range(spec.n_layers - (settings.layers or spec.n_layers), spec.n_layers)
    modules = [name for i in layers for name in module_names(spec, i, settings.targets).values()]
    factors = fresh_factors(model, modules, settings.rank, settings.seed)
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return RatingModel(spec, frozen, factors, settings.scale, dtype, ratings)


def train(
    model: RatingModel, data: Data, settings: TrainSettings, checkpoint: Checkpoint, progress: Progress
) -> History:
    """Train `model.trained()` with early stopping; the model ends with the best averaged weights.

    The squared errors of a batch are summed and divided by the mean batch size, so that all texts have equal weight.

    Raises:
        BadSetting: training diverged.
        NoSpace: a checkpoint cannot be written.
    """
    examples = data.train
    n_batches = len(examples.batches(settings.batch_tokens, settings.max_tokens))

    def batches(epoch: int, position: int) -> Iterator[TokenBatch]:
        rows = examples.epoch(settings.batch_tokens, settings.max_tokens, settings.seed, epoch)
        return examples.padded(rows[position:], settings.max_tokens)

    def step(batch: TokenBatch, number: int) -> Loss:
        ids, mask = _tensors(batch, model)
        ratings = torch.from_numpy(examples.ratings[batch.slots]).float().to(ids.device)
        squared = ((model(ids, mask) - ratings) / model.spread).square().sum()
        if not torch.isfinite(squared):
            raise BadSetting(
                "training diverged",
                where=f"step {number + 1:,}",
                got="a loss that is not finite",
                fix=f"Give a smaller --learning-rate than {settings.learning_rate:g}.",
            )
        n = len(ratings)
        error = squared.detach().double() * model.spread**2 / n
        return Loss(squared / (examples.n / n_batches), error, n, batch.n_tokens)

    training = Training(
        parameters=model.trained(),
        batches=batches,
        n_batches=n_batches,
        n_samples=examples.n,
        step=step,
        validate=lambda: clipped_mse(model, data.valid, data.rating_range, settings),
        task=("train", "reviews"),
        seed=settings.seed,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        averaging=settings.averaging,
        validations=settings.evals,
        patience=settings.patience,
    )
    return loop.train(training, checkpoint, progress)


def clipped_mse(
    model: RatingModel, examples: Examples, rating_range: tuple[float, float], settings: TrainSettings
) -> float:
    """Mean squared error of the predictions, clipped to the rating range, in float64."""
    predictions = np.empty(examples.n)
    batches = examples.batches(2 * settings.batch_tokens, settings.max_tokens)
    with torch.inference_mode():
        for batch in examples.padded(batches, settings.max_tokens):
            predictions[batch.slots] = model(*_tensors(batch, model)).cpu().numpy()
    return mse(clipped(predictions, rating_range), examples.ratings)


def _tensors(batch: TokenBatch, model: RatingModel) -> tuple[Tensor, Tensor]:
    device = model.rating.weight.device
    return torch.from_numpy(batch.input_ids).to(device), torch.from_numpy(batch.attention_mask).to(device)
