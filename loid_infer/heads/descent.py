"""The training of a LoID network by gradient, on what the foundation below it leaves.

Everything random comes from (seed, pair, epoch), so on the CPU a run that was killed goes on from its checkpoint as if
nothing had happened. This file knows tensors and codes; not how the foundation was fitted, and no file.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loid_infer.checkpoint import Checkpoint, History, Snapshot
from loid_infer.data.histories import CodePairs, Histories
from loid_infer.heads.foundation import Examples, Foundation
from loid_infer.heads.loid import LoidNet, triplet_loss
from loid_infer.heads.model import LoidHead, LoidPredictor
from loid_infer.heads.presets import HeadSettings
from loid_infer.heads.tokens import Tokens
from loid_infer.kernels import metrics, sampling
from loid_infer.types import Array, Floats, Ints, Progress, Task

_MIN_VALID = 30  # validation pairs below which a gain has no standard error worth the name
_USER, _ITEM, _ORDER, _ANCHOR = 1, 2, 3, 4  # what a draw is for


@dataclass(frozen=True, slots=True)
class Material:
    """What a network is trained on; nothing of it changes meanwhile."""

    settings: HeadSettings
    foundation: Foundation
    train: Examples
    valid: CodePairs
    valid_ratings: Floats
    histories: Histories
    tokens: Tokens
    readout: tuple[Floats, Floats]  # [n], of the user's and of the item's history
    rating_range: tuple[float, float]
    seed: int
    device: str  # cpu | cuda: where the network trains; vectors and what is drawn of them stay in main memory


def train_network(
    net: LoidNet, data: Material, checkpoint: Checkpoint | None, progress: Progress
) -> tuple[LoidPredictor, History, int, float]:
    """Train `net`, with early stopping: the head of the best epoch, how training went, which epoch that was, and the
    training pairs a second of this process, without evaluation.

    Raises:
        NoSpace: a checkpoint cannot be written.
    """
    run, n = _Run(net, data), len(data.train.ratings)
    found = checkpoint.load() if checkpoint else None
    if found is not None:
        run.restore(found)
        progress.say(f"going on after epoch {run.epoch}")
    before = run.epoch
    with progress.task("fit", data.settings.epochs * n, "pairs") as task:
        task.advance(before * n)
        while not run.finished():
            run.finish_epoch(task)
            if checkpoint and checkpoint.due():
                checkpoint.save(run.snapshot())
    rate = (run.epoch - before) * n / max(run.seconds, 1e-9)
    return _predictor(run.best, data, run.share), run.history, run.best_epoch, rate


class _Run:
    """The training of a network, from one epoch to the next."""

    def __init__(self, net: LoidNet, data: Material) -> None:
        self.net, self.data = net.to(data.device), data
        self.average = copy.deepcopy(net) if data.settings.averaging else net
        self.best = copy.deepcopy(net)
        ids = [net.users.weight, net.items.weight]
        others = [part for part in net.parameters() if all(part is not one for one in ids)]
        groups = [
            {"params": ids, "weight_decay": data.settings.id_weight_decay},
            {"params": others, "weight_decay": data.settings.weight_decay},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=data.settings.learning_rate, fused=True)
        self.history = History([], [], [])
        self.share, self.step, self.seconds = 1.0, 0, 0.0

    @property
    def epoch(self) -> int:
        """How many are done."""
        return len(self.history.losses)

    @property
    def best_epoch(self) -> int:
        """The one with the least validation error, counted from 1; 0 before the first."""
        errors = np.array(self.history.eval_mse)
        return int(np.nanargmin(errors)) + 1 if np.isfinite(errors).any() else 0

    def finished(self) -> bool:
        """Whether all epochs are done, or the last ones were no better than an earlier one."""
        patience = self.data.settings.patience
        stalled = patience and self.epoch - self.best_epoch >= patience
        return bool(self.epoch >= self.data.settings.epochs or stalled)

    def finish_epoch(self, task: Task) -> None:
        """One pass over the training pairs in an order drawn by (seed, pair, epoch), and a validation."""
        data, epoch = self.data, self.epoch + 1
        start = time.perf_counter()
        torch.manual_seed(int(sampling.mix(np.array([data.seed], np.uint64))[0] >> np.uint64(1)) ^ epoch)  # of dropout
        self.net.train()
        loss = sum(self._step(batch, task) for batch in _batches(self.net, data, epoch)) / len(data.train.ratings)
        self.seconds += time.perf_counter() - start
        below, above = _predictor(self.average, data, 1.0).parts(data.valid)
        self.history.losses.append(loss)
        self.history.eval_steps.append(epoch * len(data.train.ratings))
        clipped = metrics.clipped(below + above, data.rating_range)
        self.history.eval_mse.append(metrics.mse(clipped, data.valid_ratings))
        if self.best_epoch == epoch:
            self.best.load_state_dict(self.average.state_dict())
            self.share = _share(below, above, data) if data.settings.with_biases else 1.0

    def _step(self, batch: tuple[Tensor, ...], task: Task) -> float:
        """One step; the sum of the batch's squared errors."""
        users, items, biases, targets, *reviews, draws = (part.to(self.data.device) for part in batch)
        settings = self.data.settings
        exchanged = self.net.exchange(users, items, (reviews[0], reviews[1]), (reviews[2], reviews[3]))
        squared = (self.net.rate(exchanged, biases) - targets).square().mean()
        loss = squared
        if settings.lam:
            loss = loss + settings.lam * triplet_loss(exchanged, users, items, draws, settings)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        if self.average is not self.net:
            with torch.no_grad():
                # The mean forgets the start faster than its decay alone would.
                decay = min(settings.averaging, (1 + self.step) / (10 + self.step))
                torch._foreach_lerp_(list(self.average.parameters()), list(self.net.parameters()), 1 - decay)
        task.advance(len(targets))
        return float(squared.detach()) * len(targets)

    def snapshot(self) -> Snapshot:
        """Everything the rest of the training depends on."""
        moments = self.optimizer.state_dict()["state"]
        tensors = {name: dict(part.state_dict()) for name, part in self._networks().items()}
        tensors["share"] = {"share": torch.tensor(self.share, dtype=torch.float64)}
        tensors["moments"] = {f"{i}.{name}": part for i, state in moments.items() for name, part in state.items()}
        return Snapshot(tensors, {"step": self.step}, self.history)

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from there."""
        for name, part in self._networks().items():
            part.load_state_dict(snapshot.tensors[name])
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in snapshot.tensors["moments"].items():
            number, name = key.split(".", 1)
            state.setdefault(int(number), {})[name] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.share, self.step = float(snapshot.tensors["share"]["share"]), snapshot.counts["step"]
        self.history = snapshot.history

    def _networks(self) -> dict[str, LoidNet]:
        mean = {} if self.average is self.net else {"average": self.average}
        return {"net": self.net, "best": self.best, **mean}


def _predictor(net: LoidNet, data: Material, share: float) -> LoidPredictor:
    """Of `net`, on the CPU: what is predicted is then the same wherever it was trained."""
    net = net if data.device == "cpu" else copy.deepcopy(net).cpu()
    head = LoidHead(data.settings, data.tokens.scale, data.foundation, net, share, data.seed)
    return LoidPredictor(head, data.histories, data.tokens)


def _share(below: Floats, above: Floats, data: Material) -> float:
    """How much of the network to trust: `max(0, 1 - (s.e. / gain)^2)` of its gain over the foundation on validation.

    The positive-part shrinkage of Stein's estimator: a gain within its own noise is dropped, a clear one kept whole.
    """
    ratings = data.valid_ratings
    before, after = (metrics.clipped(part, data.rating_range) - ratings for part in (below, below + above))
    gains = before**2 - after**2
    gain = float(gains.mean())
    if gain <= 0 or len(gains) < _MIN_VALID:
        return 0.0
    return max(0.0, 1 - float(gains.var()) / len(gains) / gain**2)


def _batches(net: LoidNet, data: Material, epoch: int) -> Iterator[tuple[Tensor, ...]]:
    """Users, items, bias features, targets, tokens and mask of both histories, draws for negatives."""
    settings, train, foundation = data.settings, data.train, data.foundation
    pairs = train.pairs
    key = sampling.keys(data.seed, pairs.users, pairs.items, epoch)
    hide_user, hide_item = (_drawn(key, what) < settings.unknown_share for what in (_USER, _ITEM))
    user_bias, item_bias = np.where(hide_user, 0, train.user_bias), np.where(hide_item, 0, train.item_bias)
    text = np.where(hide_user, 0, data.readout[0]) + np.where(hide_item, 0, data.readout[1])
    targets = torch.from_numpy(train.ratings - foundation.below(user_bias, item_bias, text)).float()
    biases = torch.from_numpy(foundation.bias_features(user_bias, item_bias)).float()
    users = torch.from_numpy(np.where(hide_user, net.users.num_embeddings - 1, pairs.users))
    items = torch.from_numpy(np.where(hide_item, net.items.num_embeddings - 1, pairs.items))
    of_user, of_item = data.histories.draw(pairs, settings.k, data.seed, epoch)
    # Whoever is unknown has no history either: that is what an unknown user or item looks like to `score`.
    of_user[hide_user] = -1
    of_item[hide_item] = -1
    draws = torch.from_numpy(np.stack([_drawn(key, _ANCHOR), _drawn(key, _ANCHOR + 1)]))
    order = np.argsort(sampling.mix(key ^ np.uint64(_ORDER)), kind="stable")
    for start in range(0, len(order), settings.batch):
        rows = order[start : start + settings.batch]
        at = torch.from_numpy(rows)
        user_reviews = _looked_up(data.histories.by_user.reviews, of_user[rows], data.tokens)
        item_reviews = _looked_up(data.histories.by_item.reviews, of_item[rows], data.tokens)
        yield users[at], items[at], biases[at], targets[at], *user_reviews, *item_reviews, draws[:, at]


def _looked_up(reviews: Ints, places: Ints, tokens: Tokens) -> tuple[Tensor, Tensor]:
    found = tokens.take(reviews[places]) if len(reviews) else torch.zeros(*places.shape, tokens.scale.token_dim)
    return found, torch.from_numpy(places >= 0)


def _drawn(key: Array, what: int) -> Floats:
    return sampling.uniform(key ^ sampling.mix(np.array([what], np.uint64)))
