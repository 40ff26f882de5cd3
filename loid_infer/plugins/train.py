"""The source task: LoRA and a regressor learn ratings from a text's vector by mean squared error (LoID eq. 3 and 4).

Everything random comes from (seed, epoch), so a run that was killed goes on from its checkpoint as if nothing had
happened. This file knows tokenized examples and a model; not where texts come from, nor how a plugin is stored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loid_infer.checkpoint import Checkpoint, History, Snapshot
from loid_infer.errors import BadSetting
from loid_infer.kernels import metrics
from loid_infer.plugins.adapted import RatingModel, module_names
from loid_infer.plugins.examples import Examples
from loid_infer.plugins.reference import fresh_factors
from loid_infer.plugins.settings import TrainSettings
from loid_infer.types import Progress, Spec, Task, TokenBatch

_COUNTS = ("epoch", "position", "step", "seen")
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """What is learnt from, and what it is validated on."""

    train: Examples
    valid: Examples
    rating_range: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """How a finished run went. The model has the best weights."""

    history: History
    val_mse: float
    best_step: int
    n_tokens: int  # real tokens this process learnt from
    train_s: float  # spent on them, without validation


def rating_model(
    spec: Spec, frozen: Mapping[str, Tensor], model: Any, settings: TrainSettings, ratings: tuple[float, float]
) -> RatingModel:
    """The model to train, at its start; see `RatingModel`.

    Args:
        model: the base as a transformers module, through which peft starts LoRA; changed in place.
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
) -> Trained:
    """Train what `model.trained()` names, with early stopping; the model ends with the best weights.

    The rate rises linearly during warm-up and then falls linearly to zero, by the share of texts seen. What is
    validated and kept is the running mean of the weights (Polyak & Juditsky 1992, with a decay): batches of one length
    each pull their own way, and the mean does not follow. Every text weighs the same in an epoch, whatever batch it is
    in: a batch's squared errors are summed and divided by the rows of a mean batch.

    Raises:
        BadSetting: training diverged.
        NoSpace: a checkpoint cannot be written.
    """
    run = _Run(model, data, settings)
    found = checkpoint.load()
    if found is not None:
        run.restore(found)
        progress.say(f"going on from step {run.step:,}")
    with progress.task("train", settings.epochs * data.train.n, "reviews") as task:
        task.advance(run.seen)
        while run.epoch < settings.epochs and not run.stalled():
            run.finish_epoch(checkpoint, task, progress)
    _assign(run.parameters, run.best)
    history = run.history
    best = int(np.argmin(history.eval_mse))
    return Trained(history, history.eval_mse[best], history.eval_steps[best], run.n_tokens, run.train_s)


def clipped_mse(
    model: RatingModel, examples: Examples, rating_range: tuple[float, float], settings: TrainSettings
) -> float:
    """Mean squared error of the predictions, clipped to the rating range, in float64."""
    found = np.empty(examples.n)
    batches = examples.batches(2 * settings.batch_tokens, settings.max_tokens)
    with torch.inference_mode():
        for batch in examples.padded(batches, settings.max_tokens):
            found[batch.slots] = model(*_tensors(batch, model)).cpu().numpy()
    return metrics.mse(metrics.clipped(found, rating_range), examples.ratings)


class _Run:
    """A training run between two checkpoints."""

    def __init__(self, model: RatingModel, data: Data, settings: TrainSettings) -> None:
        self.model, self.data, self.settings = model, data, settings
        self.parameters = model.trained()
        self.mean, self.best = _copies(self.parameters), _copies(self.parameters)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=0.0, weight_decay=settings.weight_decay, fused=True
        )
        self.history = History([], [], [])
        self.epoch = self.position = self.step = self.seen = self.n_tokens = 0
        self.train_s = 0.0

    def stalled(self) -> bool:
        """Whether the last validations were all worse than an earlier one."""
        errors = self.history.eval_mse
        return len(errors) - int(np.argmin(errors)) > self.settings.patience if errors else False

    def finish_epoch(self, checkpoint: Checkpoint, task: Task, progress: Progress) -> None:
        """Train to the end of the epoch or until training stalls."""
        settings, examples = self.settings, self.data.train
        batches = examples.epoch(settings.batch_tokens, settings.max_tokens, settings.seed, self.epoch)
        evaluated = {round(len(batches) * (i + 1) / settings.evals) for i in range(settings.evals)}
        mean_rows = examples.n / len(batches)
        for batch in examples.padded(batches[self.position :], settings.max_tokens):
            start = time.perf_counter()
            self._step(batch, mean_rows)
            self.train_s += time.perf_counter() - start
            task.advance(len(batch.slots))
            if self.position in evaluated:
                self._evaluate(progress, self.epoch + self.position / len(batches))
                if self.stalled():
                    return
            if self.position < len(batches) and checkpoint.due():
                checkpoint.save(self.snapshot())
        self.epoch, self.position = self.epoch + 1, 0
        checkpoint.save(self.snapshot())

    def _step(self, batch: TokenBatch, mean_rows: float) -> None:
        ratings = torch.from_numpy(self.data.train.ratings[batch.slots]).float()
        ids, mask = _tensors(batch, self.model)
        errors = (self.model(ids, mask) - ratings.to(ids.device)) / self.model.spread
        squared = errors.square().sum()
        if not torch.isfinite(squared):
            raise BadSetting(
                "training diverged",
                where=f"step {self.step + 1:,}",
                got="an error that is not finite",
                mend=f"Give a smaller --learning-rate than {self.settings.learning_rate:g}.",
            )
        self.optimizer.param_groups[0]["lr"] = self._rate()
        self.optimizer.zero_grad(set_to_none=True)
        (squared / mean_rows).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip)
        self.optimizer.step()
        # The mean forgets the start faster than its decay alone would.
        decay = min(self.settings.averaging, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_([*self.mean.values()], [part.detach() for part in self.parameters.values()], 1 - decay)
        self.history.losses.append(squared.item() * self.model.spread**2 / len(batch.slots))
        self.step += 1
        self.position += 1
        self.seen += len(batch.slots)
        self.n_tokens += batch.n_tokens

    def _rate(self) -> float:
        done = self.seen / (self.settings.epochs * self.data.train.n)
        warmup = self.settings.warmup
        return self.settings.learning_rate * min((done + 1e-3) / max(warmup, 1e-3), (1 - done) / (1 - warmup), 1.0)

    def _evaluate(self, progress: Progress, epochs: float) -> None:
        ahead = _copies(self.parameters)
        _assign(self.parameters, self.mean)
        error = clipped_mse(self.model, self.data.valid, self.data.rating_range, self.settings)
        first = not self.history.eval_mse
        if first or error < min(self.history.eval_mse):
            self.best = _copies(self.parameters)
        _assign(self.parameters, ahead)
        self.history.eval_steps.append(self.step)
        self.history.eval_mse.append(error)
        since = self.history.eval_steps[-2] if not first else 0
        left = (self.settings.epochs - epochs) * self.train_s / max(self.n_tokens, 1) * len(self.data.train.flat_ids)
        progress.say(
            f"epoch {epochs:.2f} of {self.settings.epochs}, step {self.step:,}: training MSE "
            f"{np.mean(self.history.losses[since:]):.4f}, validation MSE {error:.4f}, about {left:,.0f} s to go"
        )

    def snapshot(self) -> Snapshot:
        """All that the rest of the run depends on."""
        states = {name: self.optimizer.state[parameter] for name, parameter in self.parameters.items()}
        tensors = {kind: {name: state[kind] for name, state in states.items()} for kind in _MOMENTS}
        tensors |= {"weights": {**self.parameters}, "mean": self.mean, "best": self.best}
        return Snapshot(tensors, {name: getattr(self, name) for name in _COUNTS}, self.history)

    def restore(self, found: Snapshot) -> None:
        """Go back to a snapshot."""
        for name in _COUNTS:
            setattr(self, name, found.counts[name])
        self.history = found.history
        for kind, mine in (("weights", self.parameters), ("mean", self.mean), ("best", self.best)):
            _assign(mine, found.tensors[kind])
        for name, parameter in self.parameters.items():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(self.step), device=parameter.device),
                **{kind: found.tensors[kind][name].to(parameter.device) for kind in _MOMENTS},
            }


def _copies(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def _assign(parameters: Mapping[str, Tensor], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


def _tensors(batch: TokenBatch, model: RatingModel) -> tuple[Tensor, Tensor]:
    device = model.rating.weight.device
    return torch.from_numpy(batch.input_ids).to(device), torch.from_numpy(batch.attention_mask).to(device)
