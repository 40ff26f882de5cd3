"""A frozen encoder with LoRA, trained to rank next items by the dot product of texts (LLM-Rec, Tang et al. 2023).

The encoder reads the joined titles of a history and those of single items. One target of each user is drawn per epoch.
Targets, orders and negatives are drawn by (seed, epoch or step, user).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from loid_infer.data.sequences import Histories, Sequences, SequenceSplit, Targets, before
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.errors import BadSetting
from loid_infer.evaluation.ranking import ndcg
from loid_infer.kernels import sampling
from loid_infer.learning import loop
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import History, Loss, Training
from loid_infer.plugins.adapter import AdaptedEncoder, tensors_of
from loid_infer.plugins.settings import RankTrainSettings
from loid_infer.plugins.train import Examples
from loid_infer.rankers.joined import JoinedTexts
from loid_infer.rankers.ranking import drawn, target_ranks
from loid_infer.rankers.texts import TextRanker
from loid_infer.types import Bools, Floats, Ints, Progress

MAX_VALID, MAX_VALID_ITEMS = 1_000, 5_000  # targets of a validation, and items of a domain that compete with them
_PIECE_TOKENS = 1024  # computed at once on a CPU, of similar lengths: larger pieces have more padding
_ORDER, _TARGETS, _NEGATIVES, _ITEMS = 1, 2, 3, 4  # purposes of random draws


@dataclass(frozen=True, slots=True, eq=False)
class RankingData:
    """Sequences and what an encoder reads of them."""

    sequences: Sequences
    split: SequenceSplit
    texts: JoinedTexts
    tokenizer: Tokenizer


def train_ranking(
    model: AdaptedEncoder,
    data: RankingData,
    settings: RankTrainSettings,
    checkpoint: Checkpoint | None,
    progress: Progress,
) -> History:
    """Train the factors with early stopping on NDCG@10; the model ends with the best averaged weights.

    The loss is the softmax cross-entropy of cosine / temperature among the positives of the batch and uniformly drawn
    negatives, of the target's own domain. Others than the target are divided by the probability that they are there,
    so that the sum estimates the one over all items (Bengio & Senecal 2008, eq. 9). Items that the user had before the
    target are left out; those that come later are not known to the training.

    Raises:
        BadSetting: no user has two training interactions with texts, or training diverged.
        NoSpace: a checkpoint cannot be written.
    """
    run = _Run(model, data, settings)
    return loop.train(run.training(), checkpoint, progress)


class _Run:
    def __init__(self, model: AdaptedEncoder, data: RankingData, settings: RankTrainSettings) -> None:
        self.model, self.data, self.settings = model, data, settings
        self.sequences, self.has_text = data.sequences, data.texts.has_text
        self.at, self.firsts = _eligible(data.sequences, data.split, self.has_text)
        self.users = np.flatnonzero(np.diff(self.firsts))
        if not len(self.users):
            what, got = "no user has two training interactions with texts", f"{data.sequences.n:,} interactions"
            fix = "Run: loid-infer llmrec fit --text-only"
            raise BadSetting(what, where=f"--split {data.split.kind}", got=got, fix=fix)
        self.shares = _shares(data.sequences, self.at, self.firsts)
        self.with_text = [
            low + np.flatnonzero(self.has_text[low:high])
            for low, high in zip(self.sequences.bounds[:-1], self.sequences.bounds[1:], strict=True)
        ]
        self.valid = drawn(data.split.valid.where(self._is_usable(data.split)), MAX_VALID, settings.seed)

    def training(self) -> Training:
        settings = self.settings
        return Training(
            parameters=self.model.factors(),
            batches=self.batches,
            n_batches=math.ceil(len(self.users) / settings.batch),
            n_samples=len(self.users),
            step=self.step,
            validate=self.validate,
            task=("train", "users"),
            errors=("loss", "1 - NDCG@10"),
            **settings.of_loop(),
        )

    def batches(self, epoch: int, position: int) -> Iterator[Ints]:
        """Positions of targets in the sequences, `[b]`."""
        seed, users, size = self.settings.seed, self.users, self.settings.batch
        counts = np.diff(self.firsts)[users]
        chosen = self.at[self.firsts[users] + sampling.below(sampling.keys(seed, _TARGETS, users, epoch), counts)]
        order = np.argsort(sampling.keys(seed, _ORDER, users, epoch), kind="stable")
        for start in range(position * size, len(users), size):
            yield chosen[order[start : start + size]]

    def step(self, at: Ints, number: int) -> Loss:
        sequences = self.sequences
        users, wanted = sequences.users[at], sequences.items[at]
        histories = before(sequences, Targets(users, at))
        domains = sequences.item_domains[wanted]
        present = np.unique(domains).tolist()
        among = {domain: self._among(wanted[domains == domain], domain, number) for domain in present}
        read = np.concatenate([*among.values()])  # of one domain after another, each item once
        vectors, n_tokens = self._encode(histories, read)
        states, items = vectors[: len(at)], vectors[len(at) :]
        total, first = states.new_zeros(()), 0
        for domain, candidates in among.items():
            rows = np.flatnonzero(domains == domain)
            scores = states[rows] @ items[first : first + len(candidates)].T / self.settings.temperature
            added = self._corrections(histories.rows(rows), wanted[rows], candidates, domain)
            scores = scores + added.to(scores.device)
            target = torch.from_numpy(np.searchsorted(candidates, wanted[rows])).to(scores.device)
            total = total + functional.cross_entropy(scores, target, reduction="sum")
            first += len(candidates)
        if not torch.isfinite(total):
            fix = f"Give a smaller --learning-rate than {self.settings.learning_rate:g}."
            raise BadSetting("training diverged: the loss is not finite", where=f"step {number + 1:,}", fix=fix)
        return Loss(total / self.settings.batch, total.detach() / len(at), len(at), n_tokens)

    def validate(self) -> float:
        """1 - NDCG@10 of some validation targets, among all items of the domain, or some where there are many."""
        if not self.valid.n:
            return 1.0
        sequences, seed = self.sequences, self.settings.seed
        histories = before(sequences, self.valid)
        shown = np.zeros(sequences.n_items, bool)
        for items in self.with_text:
            order = np.argsort(sampling.keys(seed, _ITEMS, items), kind="stable")
            shown[items[order[:MAX_VALID_ITEMS]]] = True
        shown[sequences.items[self.valid.at]] = True
        read = np.flatnonzero(shown)
        with torch.inference_mode():
            vectors = self._encode(histories, read)[0].cpu().numpy()
        of_users = np.zeros((sequences.n_users, vectors.shape[1]), np.float32)
        of_users[self.valid.users] = vectors[: histories.n]
        of_items = np.zeros((sequences.n_items, vectors.shape[1]), np.float32)
        of_items[read] = vectors[histories.n :]
        ranks = target_ranks(TextRanker(of_items, shown, _Known(of_users)), sequences, self.valid)
        return 1 - float(ndcg(ranks, 10).mean())

    def _is_usable(self, split: SequenceSplit) -> Bools:
        """The validation targets `[m]` that have a text."""
        return self.has_text[self.sequences.items[split.valid.at]]

    def _among(self, wanted: Ints, domain: int, number: int) -> Ints:
        """The items of a domain that are scored in a step, ascending: its targets `wanted [b]` and some negatives."""
        items = self.with_text[domain]
        n = self.settings.negatives * len(wanted)
        key = sampling.keys(self.settings.seed, _NEGATIVES, number * len(self.with_text) + domain, np.arange(n))
        return np.unique(np.concatenate([wanted, items[sampling.below(key, np.full(n, len(items)))]]))

    def _corrections(self, histories: Histories, wanted: Ints, candidates: Ints, domain: int) -> Tensor:
        """What is added to the scores `[b, k]` of the candidates `[k]`."""
        b = len(wanted)
        # Not among the other targets of the step, nor among its draws.
        absent = (b - 1) * np.log1p(-np.minimum(self.shares[candidates], 1 - 1e-12))
        absent += b * self.settings.negatives * np.log1p(-1 / max(len(self.with_text[domain]), 2))
        added = np.tile(-np.log(np.maximum(-np.expm1(absent), 1e-12)), (b, 1))
        rows, items = histories.flat()
        columns = np.minimum(np.searchsorted(candidates, items), len(candidates) - 1)
        had = candidates[columns] == items
        added[rows[had], columns[had]] = -np.inf
        added[np.arange(b), np.searchsorted(candidates, wanted)] = 0
        return torch.from_numpy(added.astype(np.float32))

    def _encode(self, histories: Histories, items: Ints) -> tuple[Tensor, int]:
        """Vectors of length 1 of histories and items, `[n + m, d]`, and the number of tokens."""
        texts = [*self.data.texts(histories), *(self.data.texts.texts[item] for item in items.tolist())]
        tokens, max_tokens = self.data.tokenizer(texts), self.settings.max_tokens
        examples = Examples(tokens.flat_ids, tokens.lengths, np.zeros(len(texts)))
        slots, parts = [], []
        device = next(iter(self.model.factors().values())).device
        piece = _PIECE_TOKENS if device.type == "cpu" else self.settings.batch_tokens
        for batch in examples.padded(examples.batches(piece, max_tokens), max_tokens):
            slots.append(batch.slots)
            parts.append(self.model(*tensors_of(batch, device)))
        back = torch.from_numpy(np.argsort(np.concatenate(slots))).to(device)
        return functional.normalize(torch.cat(parts)[back], dim=1), int(tokens.lengths.sum())


@dataclass(frozen=True, slots=True)
class _Known:
    """Vectors of histories by user."""

    vectors: Floats  # [n_users, d]

    def prepare(self, histories: Histories) -> None:
        """See `HistoryVectors`."""

    def __call__(self, histories: Histories) -> Floats:
        """See `HistoryVectors`."""
        return self.vectors[histories.users]


def _eligible(sequences: Sequences, split: SequenceSplit, has_text: Bools) -> tuple[Ints, Ints]:
    """The training interactions with a text and an earlier one of their user with a text: positions `[m]` in the
    sequences by user, and where those of each user begin and end, `[n_users + 1]`."""
    texts = has_text[sequences.items]
    before_it = np.append(0, np.cumsum(texts))
    earlier = before_it[:-1] - before_it[sequences.starts[sequences.users]]
    chosen = texts & (earlier > 0) & split.train(sequences)
    return np.flatnonzero(chosen), np.append(0, np.cumsum(chosen))[sequences.starts]


def _shares(sequences: Sequences, at: Ints, firsts: Ints) -> Floats:
    """The probability that a target of an item's domain is that item, `[n_items]`, if each user has one of hers."""
    n_items, domains = sequences.n_items, sequences.item_domains
    weights = np.bincount(sequences.items[at], 1 / np.diff(firsts)[sequences.users[at]], n_items)
    totals = np.bincount(domains, weights, len(sequences.domains))
    found: Floats = weights / np.where(totals > 0, totals, 1)[domains]
    return found
