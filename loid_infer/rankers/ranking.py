"""Ranks the targets of a split among all items of their domain, or among candidates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from loid_infer.data.sequences import Histories, Sequences, SequenceSplit, Targets, before
from loid_infer.evaluation.ranking import MISSED, mean_ranks, ndcg
from loid_infer.kernels import sampling
from loid_infer.kernels.threads import Workers, workers
from loid_infer.types import SILENT, Bools, Floats, Ints, Progress

MAX_VALID = 10_000  # targets with which training is validated
_MAX_ROWS = 512  # of a block: bounds the activations of a network
_BLOCK_CELLS = 1 << 21  # scores computed at once: 8 MiB
_ALIGNED = 16  # floats of a cache line


class Ranker(Protocol):
    """Scores all items for users with a history."""

    def scores(self, histories: Histories) -> Floats:
        """`[n, n_items]` float32, which the caller may change; `-inf` for an item the ranker knows nothing of."""


@runtime_checkable
class ProductRanker(Protocol):
    """A `Ranker` whose scores are products of vectors."""

    def scores(self, histories: Histories) -> Floats:
        """See `Ranker`."""

    def queries(self, histories: Histories) -> Floats:
        """The vectors of users `[n, d]`, float32."""

    def vectors(self) -> tuple[Floats, Bools]:
        """The vectors of all items, `padded`, `[>= n_items, d]`, float32, and which are ranked, `[n_items]`."""


@runtime_checkable
class _Preparing(Protocol):
    def prepare(self, histories: Histories) -> None: ...


def prepare(ranker: Ranker, histories: Histories) -> None:
    """Let a ranker that reads texts compute the vectors of these histories in one go."""
    if isinstance(ranker, _Preparing):
        ranker.prepare(histories)


def padded(vectors: Floats) -> Floats:
    """`vectors [n, d]` of items with rows of 0 behind them, to a multiple of 16.

    MKL sums the last columns of a ragged product in another order than the rest, so that equal items get unequal
    scores, and takes twice the time to write its rows, most of which then begin inside of a cache line.
    """
    n_more = -len(vectors) % _ALIGNED
    return np.pad(vectors, ((0, n_more), (0, 0))) if n_more else vectors


def products(ranker: ProductRanker, histories: Histories) -> Floats:
    """The scores of a `ProductRanker`, in as many threads as `workers` says."""
    vectors, is_ranked = ranker.vectors()
    queries = torch.from_numpy(ranker.queries(histories))
    scores: Floats = (queries @ torch.from_numpy(vectors).T).numpy()[:, : len(is_ranked)]
    if not is_ranked.all():
        scores[:, ~is_ranked] = -np.inf
    return scores


def blocks(histories: Histories, n_items: int) -> Iterator[Ints]:
    """Row numbers of the histories, in blocks of similar length whose scores fit into memory."""
    order = np.argsort(histories.lengths, kind="stable")
    size = block_rows(n_items)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def block_rows(n_items: int) -> int:
    """How many histories are scored at once."""
    return min(max(_BLOCK_CELLS // max(n_items, 1), 1), _MAX_ROWS)


def hide_seen(scores: Floats, histories: Histories, targets: Ints) -> None:
    """Set the scores `[b, n_items]` of items in the histories to `-inf`.

    Not in the rows whose target `[b]` is in the history itself, which `--duplicates keep-all` allows: there it competes
    with what else was seen.
    """
    rows, items = histories.flat()
    repeated = np.zeros(len(targets), bool)
    repeated[rows[items == targets[rows]]] = True
    hidden = ~repeated[rows]
    scores[rows[hidden], items[hidden]] = -np.inf


def target_ranks(
    ranker: Ranker,
    sequences: Sequences,
    targets: Targets,
    candidates: Ints | None = None,
    progress: Progress = SILENT,
    threads: Workers | None = None,
) -> Floats:
    """The rank `[m]` of every target among the items of its domain that its user does not have before it.

    See `hide_seen` for targets that the user had before.

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
        if candidates is not None:
            picked = np.column_stack([wanted[rows], candidates[rows]])
            ranks[rows] = mean_ranks(np.take_along_axis(scores, picked, 1), np.zeros(len(rows), np.int64))
        else:
            hide_seen(scores, part, wanted[rows])
            for domain in np.unique(number[rows]).tolist():
                low, high = sequences.bounds[domain], sequences.bounds[domain + 1]
                chosen = number[rows] == domain
                part_scores = scores[:, low:high] if chosen.all() else scores[chosen, low:high]
                ranks[rows[chosen]] = mean_ranks(part_scores, wanted[rows[chosen]] - low)
        task.advance(len(rows))

    prepare(ranker, histories)
    parts = [*blocks(histories, sequences.n_items)]
    own_or_given = workers() if threads is None else nullcontext(threads)
    with progress.task("rank", targets.n, "users") as task, own_or_given as given:
        given.map(rank, parts)
    return ranks


def drawn(targets: Targets, n: int, seed: int) -> Targets:
    """At most `n` of the targets, the same for a seed."""
    order = np.argsort(sampling.keys(seed, targets.users), kind="stable")
    return targets.where(np.sort(order[:n]))


def validation_ndcg(
    ranker: Ranker, sequences: Sequences, split: SequenceSplit, seed: int, threads: Workers | None = None
) -> float:
    """NDCG@10 on at most MAX_VALID validation targets; full ranking."""
    targets = drawn(split.valid, MAX_VALID, seed)
    return float(ndcg(target_ranks(ranker, sequences, targets, threads=threads), 10).mean())
