"""The training loop of all models: learning rate, weight averaging, early stopping, checkpoints, learning curve.

On a CPU, a resumed run ends with the same weights as an uninterrupted one, bit for bit.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loid_infer.artifact import scratch_folder
from loid_infer.kernels import sampling
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.rows import RowAdamW
from loid_infer.types import Progress, Task


@dataclass(frozen=True, slots=True)
class Loss:
    """The result of a step function for one batch."""

    objective: Tensor  # [], to be minimized
    error: Tensor  # [], the mean over the batch, for the learning curve
    n_samples: int
    n_units: int  # for the speed: samples or tokens


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Training:
    """Model, data and hyperparameters of a training run."""

    parameters: Mapping[str, nn.Parameter]
    batches: Callable[[int, int], Iterator[Any]]  # (epoch, position): the batches of an epoch, starting at a position
    n_batches: int  # in an epoch
    n_samples: int  # in an epoch
    step: Callable[[Any, int], Loss]  # (batch, number of steps before it)
    validate: Callable[[], float]  # validation error of the current weights; lower is better
    task: tuple[str, str]  # name and unit in the progress bar
    errors: tuple[str, str] = ("MSE", "MSE")  # names of the training and the validation error in messages
    seed: int  # torch's generator is seeded with seed and epoch
    epochs: int
    learning_rate: float  # peak
    warmup: float | None = None  # share of the run; afterwards the rate decays to zero; None: constant rate
    weight_decay: float
    own_weight_decay: Mapping[str, float] = field(default_factory=dict)  # by parameter; overrides weight_decay
    by_row: Collection[str] = ()  # parameters with sparse gradients, which `RowAdamW` optimizes
    clip: float | None = None  # maximum gradient norm
    averaging: float  # decay of the moving average of the weights; 0: none
    averaging_lead: int = 0  # step offset of the warm-up of the decay
    validations: int = 1  # per epoch, evenly spaced
    patience: int | None  # validations without improvement before training stops; None: no early stopping
    by_epoch: bool = False  # for short epochs: one loss per epoch, checkpoints between epochs only, no messages


@dataclass(slots=True)
class History:
    """Progress and learning curve of a run, including resumed parts."""

    losses: list[float] = field(default_factory=list)  # training error per step, or mean per epoch
    eval_steps: list[int] = field(default_factory=list)  # steps before each validation; samples if by epoch
    eval_errors: list[float] = field(default_factory=list)
    epoch: int = 0
    position: int = 0  # finished batches of the epoch
    step: int = 0
    n_samples: int = 0
    n_units: int = 0
    seconds: float = field(default=0.0, compare=False)  # without validations and checkpoints

    @property
    def best(self) -> int:
        """Index of the smallest finite validation error; -1 if there is none."""
        finite = [i for i, error in enumerate(self.eval_errors) if math.isfinite(error)]
        return min(finite, key=self.eval_errors.__getitem__, default=-1)

    @property
    def units_per_s(self) -> float:
        """Training speed without validations and checkpoints."""
        return self.n_units / max(self.seconds, 1e-9)

    def to_json(self) -> str:
        """The content of `curve.json`; validation errors are called `eval_mse` there."""
        return json.dumps({"losses": self.losses, "eval_steps": self.eval_steps, "eval_mse": self.eval_errors})


def train(training: Training, checkpoint: Checkpoint | None, progress: Progress) -> History:
    """Train with AdamW; the parameters end with the weights of the best validation.

    The learning rate is constant, or rises linearly during warm-up and then decays linearly to zero, by samples. With
    `averaging`, the exponential moving average of the weights is validated and kept (after Polyak & Juditsky 1992).

    Raises:
        NoSpace: a checkpoint cannot be written, or there is no temporary folder.
    """
    with scratch_folder():  # torch's optimizers need one when they are first imported
        run = _Run(training)
    saved = checkpoint.load() if checkpoint else None
    if saved:
        run.restore(*saved)
        position = f"after epoch {run.history.epoch}" if training.by_epoch else f"from step {run.history.step:,}"
        progress.say(f"resuming {position}")
    on_gpu = any(parameter.is_cuda for parameter in training.parameters.values())
    devices = range(torch.cuda.device_count() if on_gpu else 0)
    name, unit = training.task
    with torch.random.fork_rng(devices), progress.task(name, training.epochs * training.n_samples, unit) as task:
        task.advance(run.history.n_samples)
        while not run.finished():
            run.train_epoch(checkpoint, task, progress)
    _assign(training.parameters, run.best)
    return run.history


class _Run:
    """The state of a training run."""

    def __init__(self, training: Training) -> None:
        self.training, self.history = training, History()
        parameters, decays = training.parameters, training.own_weight_decay
        self.rows = {
            name: RowAdamW(
                parameters[name], decays.get(name, training.weight_decay), training.averaging, training.averaging_lead
            )
            for name in training.by_row
        }
        self.dense = {name: parameter for name, parameter in parameters.items() if name not in self.rows}
        self.mean: Mapping[str, Tensor] = parameters
        if training.averaging:
            self.mean = _copies(self.dense) | {name: rows.mean for name, rows in self.rows.items()}
        self.best = _copies(parameters)
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.dense.items():
            groups.setdefault(decays.get(name, training.weight_decay), []).append(parameter)
        self.optimizer = torch.optim.AdamW(
            [{"params": group, "weight_decay": decay} for decay, group in groups.items()],
            lr=training.learning_rate,
            fused=True,
        )
        for parameter in self.dense.values():  # initialized before the first step, so that a checkpoint can be loaded
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}

    def finished(self) -> bool:
        """Whether all epochs are done, or `patience` validations brought no improvement."""
        n, patience = len(self.history.eval_errors), self.training.patience
        stalled = patience is not None and n > 0 and n - 1 - self.history.best >= patience
        return stalled or self.history.epoch >= self.training.epochs

    def train_epoch(self, checkpoint: Checkpoint | None, task: Task, progress: Progress) -> None:
        """Train to the end of the epoch, or until training stalls."""
        training, history = self.training, self.history
        n_batches, n_validations = training.n_batches, training.validations
        validated = {round(n_batches * (i + 1) / n_validations) for i in range(n_validations)}
        seed = int(sampling.mix(np.array([training.seed], np.uint64))[0] >> np.uint64(1))
        torch.manual_seed(seed ^ (history.epoch + 1))
        if training.by_epoch:
            history.losses.append(0.0)
        start = time.perf_counter()
        for batch in training.batches(history.epoch, history.position):
            n = self.take_step(batch)
            history.seconds += time.perf_counter() - start
            task.advance(n)
            if history.position in validated:
                self.validate(progress)
                if self.finished():
                    break
            if checkpoint and not training.by_epoch and history.position < n_batches and checkpoint.due():
                checkpoint.save(self.tensors(), asdict(history))
            start = time.perf_counter()
        if training.by_epoch:
            history.losses[-1] /= training.n_samples
        history.epoch, history.position = history.epoch + 1, 0
        if checkpoint and (checkpoint.due() or self.finished()):
            checkpoint.save(self.tensors(), asdict(history))

    def take_step(self, batch: Any) -> int:
        """Take one gradient step; return the batch size."""
        training, history = self.training, self.history
        loss = training.step(batch, history.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        for parameter in training.parameters.values():
            parameter.grad = None
        loss.objective.backward()
        if training.clip is not None:
            torch.nn.utils.clip_grad_norm_(training.parameters.values(), training.clip)
        self.optimizer.step()
        for rows in self.rows.values():
            rows.step(self.learning_rate())
        if training.averaging:
            n = history.step + training.averaging_lead
            decay = min(training.averaging, (1 + n) / (10 + n))  # lower at first, to forget the initial weights
            weights = [parameter.detach() for parameter in self.dense.values()]
            torch._foreach_lerp_([self.mean[name] for name in self.dense], weights, 1 - decay)
        if training.by_epoch:
            history.losses[-1] += float(loss.error) * loss.n_samples
        else:
            history.losses.append(float(loss.error))
        history.step += 1
        history.position += 1
        history.n_samples += loss.n_samples
        history.n_units += loss.n_units
        return loss.n_samples

    def learning_rate(self) -> float:
        peak, warmup = self.training.learning_rate, self.training.warmup
        if warmup is None:
            return peak
        done = self.history.n_samples / (self.training.epochs * self.training.n_samples)
        return peak * min((done + 1e-3) / max(warmup, 1e-3), (1 - done) / (1 - warmup), 1.0)

    def validate(self, progress: Progress) -> None:
        """Validate the averaged weights, and keep them if they are the best so far."""
        training, history, parameters = self.training, self.history, self.training.parameters
        weights = _copies(parameters)
        _assign(parameters, self.mean)
        history.eval_errors.append(training.validate())
        if history.best == len(history.eval_errors) - 1:
            self.best = _copies(parameters)
        _assign(parameters, weights)
        before = history.eval_steps[-1] if history.eval_steps else 0
        history.eval_steps.append(history.n_samples if training.by_epoch else history.step)
        if not training.by_epoch:
            epochs = history.epoch + history.position / training.n_batches
            remaining_s = (training.epochs - epochs) * history.seconds / epochs
            of_training, of_validation = training.errors
            progress.say(
                f"epoch {epochs:.2f} of {training.epochs}, step {history.step:,}: training {of_training} "
                f"{np.mean(history.losses[before:]):.4f}, validation {of_validation} {history.eval_errors[-1]:.4f}, "
                f"about {remaining_s:,.0f} s to go"
            )

    def tensors(self) -> dict[str, Tensor]:
        kinds: dict[str, Mapping[str, Tensor]] = {"weights": self.training.parameters, "best": self.best}
        if self.training.averaging:
            kinds["mean"] = self.mean
        tensors = {f"{kind}/{name}": tensor for kind, part in kinds.items() for name, tensor in part.items()}
        states = {name: self.optimizer.state[parameter] for name, parameter in self.dense.items()}
        states |= {name: rows.state for name, rows in self.rows.items()}
        for name, state in states.items():
            tensors |= {f"{kind}/{name}": tensor for kind, tensor in state.items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], history: Mapping[str, Any]) -> None:
        self.history = History(**history)
        _assign(self.tensors(), tensors)


def _copies(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def _assign(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
