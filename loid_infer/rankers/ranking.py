"""Ranks the targets of a split among all items of their domain, or among candidates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Protocol

import numpy as np

from loid_infer.data.sequences import Histories, Sequences, SequenceSplit, Targets, before
from loid_infer.evaluation.ranking import MISSED, mean_ranks, ndcg
from loid_infer.kernels import sampling
from loid_infer.kernels.threads import Workers, workers
from loid_infer.types import SILENT, Floats, Ints, Progress

MAX_VALID = 10_000  # targets with which training is validated
_BLOCK_CELLS = 1 << 23  # scores computed at once: 32 MiB


class Ranker(Protocol):
    """Scores all items for users with a history."""

    def scores(self, histories: Histories) -> Floats:
        """`[n, n_items]` float32, which the caller may change; `-inf` for an item the ranker knows nothing of."""


def blocks(histories: Histories, n_items: int) -> Iterator[Ints]:
    """Row numbers of the histories, in blocks of similar length whose scores fit into memory."""
    order = np.argsort(histories.lengths, kind="stable")
    size = max(_BLOCK_CELLS // max(n_items, 1), 1)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def target_ranks(
    ranker: Ranker,
    sequences: Sequences,
    targets: Targets,
    candidates: Ints | None = None,
    progress: Progress = SILENT,
    threads: Workers | None = None,
) -> Floats:
    """The rank `[m]` of every target among the items of its domain that its user does not have before it.

    Args:
        candidates: `[m, k]`, codes of negatives; by default all items of the target's domain are ranked.
        threads: those of a training that this is part of; by default our own.
    """
    ranks = np.full(targets.n, MISSED)
    wanted = sequences.items[targets.at]
    number = sequences.item_domains[wanted]
    histories = before(sequences, targets)

    def rank(rows: Ints) -> None:
        part = histories.rows(rows)
        scores = ranker.scores(part)
        own = scores[np.arange(len(rows)), wanted[rows]]
        if candidates is not None:
            picked = np.column_stack([wanted[rows], candidates[rows]])
            ranks[rows] = mean_ranks(np.take_along_axis(scores, picked, 1), np.zeros(len(rows), np.int64))
        else:
            scores[part.flat()] = -np.inf
            scores[np.arange(len(rows)), wanted[rows]] = own
            for domain in np.unique(number[rows]).tolist():
                low, high = sequences.bounds[domain], sequences.bounds[domain + 1]
                chosen = np.flatnonzero(number[rows] == domain)
                ranks[rows[chosen]] = mean_ranks(scores[chosen, low:high], wanted[rows[chosen]] - low)
        task.advance(len(rows))

    parts = [*blocks(histories, sequences.n_items)]
    own_or_given = workers() if threads is None else nullcontext(threads)
    with progress.task("rank", targets.n, "users") as task, own_or_given as given:
        given.map(rank, parts)
    return ranks


def validation_ndcg(
    ranker: Ranker, sequences: Sequences, split: SequenceSplit, seed: int, threads: Workers | None = None
) -> float:
    """NDCG@10 on at most MAX_VALID validation targets, drawn once per seed; full ranking."""
    targets = split.valid
    if targets.n > MAX_VALID:
        order = np.argsort(sampling.keys(seed, targets.users), kind="stable")
        targets = targets.where(np.sort(order[:MAX_VALID]))
    return float(ndcg(target_ranks(ranker, sequences, targets, threads=threads), 10).mean())
