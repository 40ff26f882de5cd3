"""A frozen encoder with LoRA and a regressor, trained to predict ratings from texts by mean squared error.

Regressor and loss: LoID eq. 3 and 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from loid_infer.encoders.schedule import padded, padded_lengths
from loid_infer.errors import BadSetting
from loid_infer.evaluation.metrics import clipped, mse
from loid_infer.learning import loop
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import History, Loss, Training
from loid_infer.plugins.adapter import AdaptedEncoder, adapted_encoder, tensors_of
from loid_infer.plugins.settings import TrainSettings
from loid_infer.types import Floats, Ints, Progress, Spec, TokenBatch


class RatingModel(nn.Module):
    """Token ids -> rating: the encoder with LoRA and an MLP with one hidden layer (LoID eq. 3)."""

    def __init__(self, encoder: AdaptedEncoder, dim: int, ratings: tuple[float, float]) -> None:
        """The regressor is initialized from torch's global generator.

        Args:
            dim: width of the encoder's vectors.
            ratings: mean and standard deviation of the training ratings, the latter not 0.
        """
        super().__init__()
        self.center, self.spread = ratings
        self.encoder = encoder
        self.hidden = nn.Linear(dim, dim)
        self.rating = nn.Linear(dim, 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`[n, tokens]` twice -> `[n]`, float32."""
        vectors = self.encoder(input_ids, attention_mask)
        output: Tensor = self.rating(functional.gelu(self.hidden(vectors)))[:, 0]
        return self.center + self.spread * output

    def trained(self) -> dict[str, nn.Parameter]:
        """Trained parameters by name, in a fixed order: factors as `<module>.a` and `.b`, then the regressor."""
        return self.encoder.factors() | self.regressor()

    def regressor(self) -> dict[str, nn.Parameter]:
        """The parameters of the regressor."""
        return {name: part for name, part in self.named_parameters() if name.startswith(("hidden.", "rating."))}


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Token ids and ratings of texts. Batches have texts of similar lengths and depend on (seed, epoch) only."""

    flat_ids: Ints  # [sum(lengths)], one text after another
    lengths: Ints  # [n]
    ratings: Floats  # [n]

    @property
    def n(self) -> int:
        """Number of texts."""
        return len(self.lengths)

    def take(self, rows: Ints, ratings: Floats) -> Examples:
        """The texts `rows [m]` with other ratings `[m]`."""
        starts = (np.cumsum(self.lengths) - self.lengths)[rows]
        lengths = self.lengths[rows]
        index = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))
        return Examples(self.flat_ids[index], lengths, ratings)

    def batches(self, max_batch_tokens: int, max_tokens: int, order: Ints | None = None) -> list[Ints]:
        """Rows of each batch, `[rows]`: at most `max_batch_tokens` with padding, unless one text alone is longer. Texts
        of equal length are in the given `order [n]`.
        """
        widths = np.minimum(padded_lengths(self.lengths), max_tokens)
        order = np.arange(self.n) if order is None else order
        ordered = order[np.argsort(-widths[order], kind="stable")]
        batches, start = [], 0
        while start < self.n:
            rows = max(1, max_batch_tokens // int(widths[ordered[start]]))  # the first is the widest
            batches.append(ordered[start : start + rows])
            start += rows
        return batches

    def epoch(self, max_batch_tokens: int, max_tokens: int, seed: int, epoch: int) -> list[Ints]:
        """The batches of one epoch in random order; texts of equal length are shuffled."""
        rng = np.random.Generator(np.random.Philox([seed, epoch]))
        batches = self.batches(max_batch_tokens, max_tokens, rng.permutation(self.n))
        return [batches[i] for i in rng.permutation(len(batches))]

    def padded(self, batches: list[Ints], max_tokens: int) -> Iterator[TokenBatch]:
        """The token ids of each batch, padded to one of a few widths, so that few kernels are compiled."""
        starts = np.cumsum(self.lengths) - self.lengths
        for rows in batches:
            lengths = self.lengths[rows]
            width = min(int(padded_lengths(lengths).max()), max_tokens)
            yield padded(rows, self.flat_ids, starts[rows], lengths, width)


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Training and validation data."""

    train: Examples
    valid: Examples
    rating_range: tuple[float, float]


def rating_model(
    spec: Spec, frozen: Mapping[str, Tensor], model: Any, settings: TrainSettings, ratings: tuple[float, float]
) -> RatingModel:
    """The model with LoRA as peft initializes it in the transformers module `model`, which is changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return RatingModel(adapted_encoder(spec, frozen, model, settings), spec.dim, ratings)


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
            fix = f"Give a smaller --learning-rate than {settings.learning_rate:g}."
            raise BadSetting("training diverged: the loss is not finite", where=f"step {number + 1:,}", fix=fix)
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
        **settings.of_loop(),
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
    return tensors_of(batch, model.rating.weight.device)
