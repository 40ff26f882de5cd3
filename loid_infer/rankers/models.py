"""The models by name: how each is fitted, with several settings if asked, and what of it is saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from loid_infer.data.sequences import Sequences, SequenceSplit
from loid_infer.errors import BadSetting
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import History
from loid_infer.rankers.counts import CoOccurrence, Popularity, co_occurrence, popularity
from loid_infer.rankers.factors import FactorNet, FactorRanker, fit_factors
from loid_infer.rankers.graph import GraphRanker
from loid_infer.rankers.manifest import TrialRecord
from loid_infer.rankers.network import SequenceNet, SequenceRanker, Whitening
from loid_infer.rankers.ranking import Ranker, validation_ndcg
from loid_infer.rankers.settings import RankOptions
from loid_infer.rankers.texts import TextRanker, TextVectors, unit
from loid_infer.rankers.training import fit_sequence
from loid_infer.types import Array, Bools, Floats, Ints, Progress

COUNTS = ("popularity", "recent", "cooccurrence")  # need no training
FACTORS, GRAPH, SASREC = "mf", "lightgcn", "sasrec"
TEXT_HEADS = ("text", "sequence", "sequence+id")
_POWERS = (1.0, 0.5, 0.0)  # of whitening

# What is tried on the validation part, in this order: changes of the options, or arguments of the counting models.
_NETWORK_TRIALS: Sequence[Mapping[str, Any]] = (
    {},
    {"dropout": 0.3},
    {"dropout": 0.7},
    {"dim": 64},
    {"learning_rate": 2e-3},
    {"layers": 1},
)
_TRIALS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "popularity": ({},),
    "recent": ({"half_life": 0.1}, {"half_life": 0.03}, {"half_life": 0.3}, {"half_life": 0.01}, {"half_life": 1.0}),
    "cooccurrence": (
        {"damping": 0.3, "decay": 0.8},
        {"damping": 0.5, "decay": 0.8},
        {"damping": 0.1, "decay": 0.8},
        {"damping": 0.3, "decay": 0.6},
        {"damping": 0.3, "decay": 1.0},
        {"damping": 0.0, "decay": 0.8},
    ),
    "mf": (
        {},
        {"learning_rate": 5e-3},
        {"weight_decay": 2.0},
        {"weight_decay": 0.3},
        {"learning_rate": 5e-3, "weight_decay": 2.0},
        {"dim": 64},
    ),
    "lightgcn": ({}, {"weight_decay": 0.5}, {"learning_rate": 2e-3}, {"layers": 3}, {"layers": 1}, {"dim": 64}),
    "sasrec": _NETWORK_TRIALS,
    "sequence": _NETWORK_TRIALS,
    "sequence+id": _NETWORK_TRIALS,
}
MODELS = (*_TRIALS, "text")


@dataclass(frozen=True, slots=True)
class Fitted:
    """The best of some trials."""

    ranker: Ranker
    options: RankOptions
    history: History | None = None  # learning curve of a trained model
    whitening: Whitening | None = None  # of a model with texts
    trials: Sequence[TrialRecord] = ()

    @property
    def ndcg(self) -> float:
        """NDCG@10 of the validation part."""
        return max(trial.ndcg for trial in self.trials)


def fit_model(
    model: str,
    sequences: Sequences,
    split: SequenceSplit,
    options: RankOptions,
    texts: TextVectors | None,
    *,
    seed: int,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> Fitted:
    """Fit `model` with each of `options.trials` settings, as many as there are for it, and keep the best.

    Args:
        texts: only models with texts need them.
        checkpoint: for a single trial.

    Raises:
        BadSetting: the width is no multiple of the attention heads, or no user has two training interactions.
    """
    whitening = has_text = whitened = None
    trials: list[TrialRecord] = []
    best: Fitted | None = None
    if texts is not None:
        whitening, tried = best_whitening(sequences, split, texts, seed)
        if model == "text":
            return Fitted(_text_ranker(whitening, texts), options, whitening=whitening, trials=tried)
        has_text, whitened = texts.has_text, _applied(whitening, texts)
    changes = _TRIALS[model][: options.trials]
    _check_width(model, options, changes)
    known = rankable(model, split.counts(sequences), has_text)
    for change in changes:
        fitted = _fit_once(
            model,
            sequences,
            split,
            options,
            change,
            whitened,
            known,
            seed,
            progress,
            checkpoint if len(changes) == 1 else None,
        )
        ndcg = validation_ndcg(fitted.ranker, sequences, split, seed)
        trials.append(TrialRecord(dict(change), ndcg))
        progress.say(f"{model}: validation NDCG@10 {ndcg:.4f}" + (f" with {dict(change)}" if change else ""))
        if best is None or ndcg > max(trial.ndcg for trial in trials[:-1]):
            best = fitted
    assert best is not None
    return replace(best, whitening=whitening, trials=tuple(trials))


def n_trials(model: str) -> int:
    """The number of settings that there are for a model."""
    return len(_TRIALS.get(model, _POWERS))


def rankable(model: str, counts: Ints, has_text: Bools | None) -> Bools:
    """The items that `model` can rank, `[n_items]`: with training interactions `counts`, with a text, or either."""
    known: Bools = counts > 0
    if has_text is None:
        return known
    return has_text | known if model == "sequence+id" else has_text


def _check_width(model: str, options: RankOptions, changes: Sequence[Mapping[str, Any]]) -> None:
    for change in changes if _TRIALS[model] is _NETWORK_TRIALS else ():
        check_width(replace(options, **change).dim, options.attention_heads)


def check_width(dim: int, n_heads: int) -> None:
    """Raise BadSetting unless the width of a transformer is a multiple of its attention heads."""
    if dim % n_heads:
        what, fix = "the width is no multiple of the attention heads", "Choose both so, for example 128 and 4."
        raise BadSetting(what, where="--dim, --attention-heads", got=f"{dim} and {n_heads}", fix=fix)


def best_whitening(
    sequences: Sequences, split: SequenceSplit, texts: TextVectors, seed: int
) -> tuple[Whitening, Sequence[TrialRecord]]:
    """The whitening of `texts` with which they alone rank the validation targets best."""
    known = texts.items[texts.has_text]
    tried: dict[Any, Whitening] = {power: Whitening.of(known, power) for power in _POWERS}
    if texts.histories is not None:  # what an encoder that reads joined histories is trained for
        tried["none"] = Whitening.none(known.shape[1])
    trials, found = [], [*tried.values()]
    for power, whitening in tried.items():
        ranker = _text_ranker(whitening, texts)
        trials.append(TrialRecord({"whitening": power}, validation_ndcg(ranker, sequences, split, seed)))
    best = max(range(len(trials)), key=lambda i: trials[i].ndcg)
    return found[best], tuple(trials)


def _applied(whitening: Whitening, texts: TextVectors) -> Floats:
    """The whitened vectors of items `[n_items, k]`, 0 for those without text."""
    return np.where(texts.has_text[:, None], whitening(texts.items), np.float32(0))


def _text_ranker(whitening: Whitening, texts: TextVectors) -> TextRanker:
    return TextRanker(unit(_applied(whitening, texts)), texts.has_text, texts.histories, whitening)


def _fit_once(
    model: str,
    sequences: Sequences,
    split: SequenceSplit,
    options: RankOptions,
    change: Mapping[str, Any],
    whitened: Floats | None,
    known: Bools,
    seed: int,
    progress: Progress,
    checkpoint: Checkpoint | None,
) -> Fitted:
    if model in ("popularity", "recent"):
        return Fitted(popularity(sequences, split, **change), options)
    if model == "cooccurrence":
        return Fitted(co_occurrence(sequences, split, **change), options)
    chosen = replace(options, **change)
    if model in (FACTORS, GRAPH):
        more: dict[str, Any] = {"seed": seed, "progress": progress, "checkpoint": checkpoint}
        ranker, history = fit_factors(model, sequences, split, chosen, **more)
        return Fitted(ranker, chosen, history)
    fitted = fit_sequence(
        sequences,
        split,
        chosen,
        whitened if model != SASREC else None,
        ids=model != "sequence",
        known=known,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
    )
    return Fitted(fitted.ranker, chosen, fitted.history)


def state(fitted: Fitted) -> dict[str, Any]:
    """The tensors that `restored` needs, besides vectors of texts."""
    ranker, tensors = fitted.ranker, {}
    if isinstance(ranker, Popularity | CoOccurrence | GraphRanker):
        tensors = dict(ranker.tensors())
    if isinstance(ranker, FactorRanker | SequenceRanker):
        tensors = {f"net.{name}": tensor for name, tensor in ranker.net.state_dict().items()}
        if ranker.known is not None:
            tensors["known"] = ranker.known
    if fitted.whitening is not None:
        tensors |= {"whitening.center": fitted.whitening.center, "whitening.matrix": fitted.whitening.matrix}
    return tensors


def restored(
    model: str,
    options: RankOptions,
    n_users: int,
    n_items: int,
    tensors: Mapping[str, Array],
    texts: TextVectors | None,
) -> Ranker:
    """The ranker of `state`. Raises KeyError, TypeError, ValueError or RuntimeError if tensors do not fit."""
    if model in ("popularity", "recent"):
        return Popularity(**tensors)
    if model == "cooccurrence":
        return CoOccurrence(**tensors)
    if model == GRAPH:
        return GraphRanker(**tensors)
    whitened = None
    if texts is not None:
        whitening = Whitening(tensors["whitening.center"], tensors["whitening.matrix"])
        if model == "text":
            return _text_ranker(whitening, texts)
        whitened = _applied(whitening, texts)
    weights = {name[4:]: torch.from_numpy(array) for name, array in tensors.items() if name.startswith("net.")}
    if model == FACTORS:
        factors = FactorNet(n_users, n_items, options.dim)
        factors.load_state_dict(weights)
        return FactorRanker(factors, tensors["known"])
    ids, text_dim = model != "sequence", 0 if whitened is None else whitened.shape[1]
    net = SequenceNet(options, n_items, ids=ids, text_dim=text_dim)
    net.load_state_dict(weights)
    of_items = None if whitened is None else torch.from_numpy(whitened)
    return SequenceRanker(net, options.max_length, of_items, tensors.get("known"))
