"""Interactions of one or more domains as one sequence of items a user, and splits of them for next-item prediction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xxhash

from loid_infer.artifact import digest_json
from loid_infer.data.events import Events
from loid_infer.errors import BadSetting, BadTable
from loid_infer.kernels import sampling
from loid_infer.settings import check_choice
from loid_infer.types import NO_TIME, Array, Bools, Ints, TrainingRun

SPLITS = ("leave-one-out", "time")
NEXT_ITEM = "next-item"  # the task of a `TrainingRun`
MIN_LENGTH = 3  # interactions of a user from which validation and test targets are taken: a shorter one only trains
_QUANTILES = (0.8, 0.9)  # of the times: the start of the validation and of the test period


@dataclass(frozen=True)
class Sequences:
    """The interactions of all users, by user and in order. Items of a domain have consecutive codes."""

    domains: Sequence[str]
    user_ids: Sequence[str]  # [n_users], ascending
    item_ids: Sequence[str]  # [n_items], ascending in each domain
    bounds: Ints  # [n_domains + 1], the items of domain k are bounds[k] .. bounds[k + 1]
    starts: Ints  # [n_users + 1], the interactions of user u are starts[u] .. starts[u + 1]
    items: Ints  # [n], codes
    times: Ints  # [n], int64 seconds; NO_TIME if they are ordered by position
    n_tied: int  # interactions whose user has another one at the same time or position
    digest: str  # of the tables, the domains' names and the seed of the ties

    @property
    def n(self) -> int:
        """Number of interactions."""
        return len(self.items)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items of all domains."""
        return len(self.item_ids)

    @property
    def is_timed(self) -> bool:
        """Whether interactions are ordered by time; else by position."""
        return self.n > 0 and bool(self.times[0] != NO_TIME)

    @cached_property
    def users(self) -> Ints:
        """The user of each interaction, codes `[n]`."""
        return np.repeat(np.arange(self.n_users), np.diff(self.starts))

    @cached_property
    def item_domains(self) -> Ints:
        """The domain of each item `[n_items]`."""
        return np.repeat(np.arange(len(self.domains)), np.diff(self.bounds))


@dataclass(frozen=True, slots=True)
class Targets:
    """Interactions to predict. The history of one is what its user has before it."""

    users: Ints  # [m], codes
    at: Ints  # [m], positions in `Sequences.items`

    @property
    def n(self) -> int:
        """Number of targets."""
        return len(self.users)

    def where(self, chosen: Bools | Ints) -> Targets:
        """The `chosen` targets, a mask or row numbers."""
        return Targets(self.users[chosen], self.at[chosen])


@dataclass(frozen=True, slots=True)
class SequenceSplit:
    """Training interactions and targets. `digest` covers the kind, the cuts and the sequences."""

    kind: str  # leave-one-out | time
    train_ends: Ints  # [n_users]: the training part of user u is starts[u] .. train_ends[u]
    valid: Targets
    test: Targets
    digest: str

    def train(self, sequences: Sequences) -> Bools:
        """Which interactions `[n]` are for training."""
        return np.arange(sequences.n) < self.train_ends[sequences.users]

    def counts(self, sequences: Sequences) -> Ints:
        """The number of training interactions of each item `[n_items]`."""
        return np.bincount(sequences.items[self.train(sequences)], minlength=sequences.n_items)


@dataclass(frozen=True, slots=True)
class Histories:
    """Items of n users before some moment, the oldest first."""

    users: Ints  # [n], codes; -1 for an unknown user
    starts: Ints  # [n], positions in `items`
    ends: Ints  # [n]
    items: Ints  # [m], codes

    @property
    def n(self) -> int:
        """Number of users."""
        return len(self.users)

    @property
    def lengths(self) -> Ints:
        """Number of items of each user `[n]`."""
        return self.ends - self.starts

    def rows(self, chosen: Bools | Ints) -> Histories:
        """Those of the `chosen` users, a mask or row numbers."""
        return Histories(self.users[chosen], self.starts[chosen], self.ends[chosen], self.items)

    def where(self, keep: Bools) -> Histories:
        """The same with some items only, `keep [m']` as in `flat`."""
        which, items = self.flat()
        lengths = np.bincount(which, keep, minlength=self.n).astype(np.int64)
        ends = np.cumsum(lengths)
        return Histories(self.users, ends - lengths, ends, items[keep])

    def last(self, n_last: int) -> Histories:
        """The last `n_last` items of each."""
        return Histories(self.users, np.maximum(self.starts, self.ends - n_last), self.ends, self.items)

    def flat(self) -> tuple[Ints, Ints]:
        """The number of its history, 0 to n - 1, and the code of each item `[m']`, history after history."""
        lengths = self.lengths
        rows = np.repeat(np.arange(self.n), lengths)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return rows, self.items[self.starts[rows] + within]

    def padded(self) -> Ints:
        """`[n, longest]`, padded with -1 on the right."""
        items, lengths = self.flat()[1], self.lengths
        table = np.full((self.n, max(int(lengths.max(initial=0)), 1)), -1, np.int64)
        table[np.arange(table.shape[1]) < lengths[:, None]] = items
        return table


def sequences_of(events: Mapping[str, Events], seed: int) -> Sequences:
    """Join the interactions of the domains, in order of time, then of position.

    Interactions of a user at the same time and position are ordered by a hash of (seed, user, item), never by their
    ids: items are often numbered in an order that says something.

    Raises:
        BadTable: some domains have times and others only positions, or one has neither.
    """
    tables = list(events.values())
    user_ids = sorted({user for table in tables for user in table.user_ids})
    code = {user: number for number, user in enumerate(user_ids)}
    users = _joined([np.array([code[user] for user in table.user_ids], np.int64)[table.users] for table in tables])
    bounds = np.cumsum([0, *(len(table.item_ids) for table in tables)])
    items = _joined([table.items + start for table, start in zip(tables, bounds[:-1], strict=True)])
    item_ids = [item for table in tables for item in table.item_ids]
    times, positions = _order(events)
    hashed = _hashes(user_ids, seed)[users] ^ _hashes(item_ids, seed + 1)[items]
    order = np.lexsort((sampling.mix(hashed), positions, times, users))
    users, times = users[order], times[order]
    tied = (users[1:] == users[:-1]) & (times[1:] == times[:-1]) & (np.diff(positions[order]) == 0)
    return Sequences(
        domains=tuple(events),
        user_ids=user_ids,
        item_ids=item_ids,
        bounds=bounds,
        starts=np.searchsorted(users, np.arange(len(user_ids) + 1)),
        items=items[order],
        times=times,
        n_tied=int(np.count_nonzero(np.append(tied, False) | np.append(False, tied))),
        digest=digest_json([seed, [(domain, table.digest) for domain, table in events.items()]]),
    )


def _joined(parts: Sequence[Ints]) -> Ints:
    return np.concatenate(parts).astype(np.int64)


def _order(events: Mapping[str, Events]) -> tuple[Ints, Ints]:
    """The times and positions `[n]` of all interactions, each the same for all if they are not ordered by it."""
    timed = {domain: not (table.times == NO_TIME).any() for domain, table in events.items()}
    placed = {domain: not (table.positions == NO_TIME).any() for domain, table in events.items()}
    times, positions = (_joined([getattr(table, name) for table in events.values()]) for name in ("times", "positions"))
    unordered = next((domain for domain in events if not (timed[domain] or placed[domain])), None)
    if unordered is not None:
        fix = "Ingest it again with --columns timestamp=NAME, or with --implicit and --columns position=NAME."
        raise BadTable("some interactions have neither a time nor a position", where=unordered, fix=fix)
    if not (all(timed.values()) or all(placed.values())):
        with_times = ", ".join(domain for domain, has in timed.items() if has)
        what = "the order of interactions across domains is unknown: some have times, others positions only"
        raise BadTable(what, where=", ".join(events), got=f"times in {with_times} only", fix="Use them one at a time.")
    missing = np.full(len(times), NO_TIME)
    return times if all(timed.values()) else missing, positions if all(placed.values()) else missing


def _hashes(ids: Sequence[str], seed: int) -> Array:
    return np.array([xxhash.xxh3_64_intdigest(name.encode(), seed) for name in ids], np.uint64)


def split_sequences(sequences: Sequences, kind: str) -> SequenceSplit:
    """Split for next-item prediction.

    `leave-one-out`: of users with at least 3 interactions the last one is for test, the one before for validation, and
    all others for training, so that training contains what other users did later. `time`: two cuts for all users, at
    the 80 % and 90 % quantiles of the times; training is what happened before the first; targets are the first
    interaction of a user after the first cut and before the second (validation), and after the second (test).

    Raises BadSetting for an unknown kind, a split by time without times, or an empty part.
    """
    check_choice("split", kind, SPLITS)
    cuts: list[int] = []
    starts, ends = sequences.starts[:-1], sequences.starts[1:]
    if kind == "leave-one-out":
        chosen = np.flatnonzero(ends - starts >= MIN_LENGTH)
        train_ends = ends.copy()
        train_ends[chosen] -= 2
        valid, test = Targets(chosen, ends[chosen] - 2), Targets(chosen, ends[chosen] - 1)
    else:
        times = sequences.times
        if not sequences.is_timed:
            what, fix = "a split by time needs times", "Use --split leave-one-out, or ingest with times."
            raise BadSetting(what, where="--split time", got="positions only", fix=fix)
        cuts = np.sort(times)[[int(part * sequences.n) for part in _QUANTILES]].tolist() if sequences.n else [0, 0]
        # Times ascend within a user, so what is before a cut is a beginning of the sequence.
        first, second = (starts + _sums(times < cut, sequences.starts) for cut in cuts)
        train_ends = first
        # A target without any history is no prediction of the next item.
        valid = _targets(np.flatnonzero((first < second) & (first > starts)), first)
        test = _targets(np.flatnonzero((second < ends) & (second > starts)), second)
    for part, n in (("training", int((train_ends - starts).sum())), ("validation", valid.n), ("test", test.n)):
        if not n:
            got = f"{sequences.n_users:,} users with {sequences.n:,} interactions"
            fix = "Ingest more interactions; those of a user count together, whatever their domain."
            raise BadSetting(f"the {part} part would be empty", where=f"--split {kind}", got=got, fix=fix)
    return SequenceSplit(kind, train_ends, valid, test, digest_json([sequences.digest, kind, _QUANTILES, cuts]))


def _sums(values: Bools, starts: Ints) -> Ints:
    return np.diff(np.append(0, np.cumsum(values))[starts])


def _targets(users: Ints, at: Ints) -> Targets:
    return Targets(users, at[users])


def refuse_other_split(runs: Iterable[TrainingRun], sequences: Sequences, split: SequenceSplit, who: str) -> None:
    """Raise BadSetting if one of the training `runs` of `who` was for next items of another split of these domains."""
    for run in runs:
        if run.task == NEXT_ITEM and run.domain in sequences.domains and run.split_digest != split.digest:
            if run.table_digest != sequences.digest:
                what = f"the interactions, the domains or the --seed are others than when {who} was trained"
                fix = "Train it again, with `loid-infer llmrec train`: it may have seen test targets."
                raise BadSetting(what, where=run.domain, got=", ".join(sequences.domains), fix=fix)
            what = f"{who} was trained on another split of {run.domain!r}, which may contain test targets of this one"
            fix = "Give the --split that it was trained with, or train it again."
            raise BadSetting(what, expected=f"--split {run.split}", got=f"--split {split.kind}", fix=fix)


def before(sequences: Sequences, targets: Targets) -> Histories:
    """The histories of targets: what their users have before them. A target is in its own history only if its user had
    the item before, which tables contain only with `--duplicates keep-all`."""
    return Histories(targets.users, sequences.starts[targets.users], targets.at, sequences.items)


def all_histories(sequences: Sequences) -> Histories:
    """Everything that each user has."""
    return Histories(np.arange(sequences.n_users), sequences.starts[:-1], sequences.starts[1:], sequences.items)


def training_histories(sequences: Sequences, split: SequenceSplit) -> Histories:
    """The training part of every user."""
    users = np.arange(sequences.n_users)
    return Histories(users, sequences.starts[:-1], split.train_ends, sequences.items)


def within(sequences: Sequences, split: SequenceSplit, domain: str) -> tuple[Sequences, SequenceSplit]:
    """The same split without the interactions and targets of other domains, for models of a single domain."""
    number = list(sequences.domains).index(domain)
    low, high = sequences.bounds[number], sequences.bounds[number + 1]
    kept = (sequences.items >= low) & (sequences.items < high)
    moved = np.append(0, np.cumsum(kept))  # old position -> new position
    only = Sequences(
        domains=(domain,),
        user_ids=sequences.user_ids,
        item_ids=sequences.item_ids[low:high],
        bounds=np.array([0, high - low]),
        starts=moved[sequences.starts],
        items=sequences.items[kept] - low,
        times=sequences.times[kept],
        n_tied=sequences.n_tied,
        digest=digest_json([sequences.digest, domain]),
    )

    def targets(part: Targets) -> Targets:
        chosen = part.where(kept[part.at])
        return Targets(chosen.users, moved[chosen.at])

    return only, SequenceSplit(
        split.kind,
        moved[split.train_ends],
        targets(split.valid),
        targets(split.test),
        digest_json([split.digest, domain]),
    )
