"""The labeled pairs of a domain, `data/D.clicks.parquet`: who liked what and who did not, and what was liked before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from loid_infer.artifact import digest_json
from loid_infer.data.canonical import CLICK_FORMAT, ClickFacts, arrow_errors
from loid_infer.data.events import Events, filled
from loid_infer.data.kinds import CLICKS, PARTS
from loid_infer.data.reviews import coded, open_file
from loid_infer.data.sequences import Histories, Sequences, sequences_of
from loid_infer.errors import BadSetting, BadTable
from loid_infer.types import NO_TIME, Bools, Ints, TrainingRun

_QUANTILES = (0.8, 0.9)  # of the times: the start of the validation and of the test period
TRAIN, VALID, TEST = 0, 1, 2
CLICK_TASK = "labels"  # of a `TrainingRun`


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs to predict, with what their users liked before."""

    users: Ints  # [n], codes; -1 for an unknown user
    items: Ints  # [n], codes; -1 for an unknown item
    histories: Histories

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.users)

    def take(self, rows: Ints | slice) -> Pairs:
        """The selected `rows`."""
        numbers = np.arange(self.n)[rows]
        return Pairs(self.users[numbers], self.items[numbers], self.histories.rows(numbers))


@dataclass(frozen=True, slots=True, eq=False)
class Clicks:
    """Labeled pairs in three parts. The history of one is what its user liked before it, whatever the part."""

    domain: str
    users: Ints  # [n], codes into liked.user_ids
    items: Ints  # [n], codes into liked.item_ids
    labels: Bools  # [n], whether the user liked the item
    parts: Ints  # [n], TRAIN, VALID or TEST
    n_before: Ints  # [n], number of items that the user liked at an earlier time
    liked: Sequences  # the pairs with a positive label
    split: str  # given | time
    digest: str  # of the table and the split

    @property
    def user_ids(self) -> Sequence[str]:
        """Ascending, `[n_users]`."""
        return self.liked.user_ids

    @property
    def item_ids(self) -> Sequence[str]:
        """Ascending, `[n_items]`."""
        return self.liked.item_ids

    def rows(self, part: int) -> Ints:
        """The rows of a part."""
        return np.flatnonzero(self.parts == part)

    def pairs(self, rows: Ints) -> Pairs:
        """Those of `rows`. What a user liked at the same time is not part of the history."""
        users = self.users[rows]
        starts = self.liked.starts[users]
        histories = Histories(users, starts, starts + self.n_before[rows], self.liked.items)
        return Pairs(users, self.items[rows], histories)


def read_clicks(path: Path, domain: str, seed: int, *, to_fit: bool = True) -> Clicks:
    """The labeled pairs of `domain`, in the parts that the source has, else by time.

    By time, the first 80 % are for training, the next 10 % for validation and the rest for test.

    Args:
        seed: of the order of items that a user liked at the same time; see `sequences_of`.
        to_fit: whether every part must have both labels.

    Raises:
        BadTable: the table is missing, damaged, or not written by `ingest --clicks`.
        BadSetting: a part does not have both labels, or there are neither parts nor times.
    """
    fix = f"Run: loid-infer ingest SRC --domain {domain} --clicks"
    if not path.is_file():
        raise BadTable(f"there are no labeled pairs for domain {domain!r}", where=str(path), fix=fix)
    facts, _ = open_file(path, CLICKS.schema, CLICK_FORMAT, ClickFacts, fix)
    with (
        arrow_errors("the table is damaged", str(path), fix),
        pq.ParquetFile(path, read_dictionary=["user_id", "item_id", "split"], page_checksum_verification=True) as file,
    ):
        table = file.read()
    (user_ids, users), (item_ids, items) = (coded(table.column(name)) for name in ("user_id", "item_id"))
    times, positions = (filled(table.column(name)) for name in ("timestamp", "position"))
    labels = table.column("label").to_numpy() > 0
    names, codes = coded(table.column("split"))
    kind = "given" if facts.n_test else "time"
    parts = np.array([PARTS.index(name) for name in names])[codes] if kind == "given" else _by_time(times, path)
    columns = (users[labels], items[labels], times[labels], positions[labels])
    liked = sequences_of({domain: Events(user_ids, item_ids, *columns, facts.digest)}, seed)
    found = Clicks(
        domain=domain,
        users=users.astype(np.int64),
        items=items.astype(np.int64),
        labels=labels,
        parts=parts,
        n_before=_n_before(users, times, positions, labels),
        liked=liked,
        split=kind,
        digest=digest_json([liked.digest, kind, _QUANTILES]),
    )
    if to_fit:
        _check_parts(found, path)
    return found


def refuse_other_pairs(runs: Iterable[TrainingRun], clicks: Clicks, who: str) -> None:
    """Raise BadSetting if one of the training `runs` of `who` was on other pairs or parts of this domain."""
    for run in runs:
        if (run.task, run.domain) == (CLICK_TASK, clicks.domain) and run.split_digest != clicks.digest:
            what = f"{who} was trained on other pairs of {clicks.domain!r}, or another --seed, and may know test labels"
            raise BadSetting(
                what, where=f"--encoder, --seed {run.split_seed}", fix="Train it again: loid-infer cora train"
            )


def _by_time(times: Ints, path: Path) -> Ints:
    if (times == NO_TIME).any():
        what = "the pairs have neither a time nor a part of a split"
        raise BadSetting(what, where=str(path), fix="Ingest them with --columns timestamp=NAME or split=NAME.")
    cuts = np.sort(times)[[int(share * len(times)) for share in _QUANTILES]]
    return np.searchsorted(cuts, times, side="right")


def _n_before(users: Ints, times: Ints, positions: Ints, labels: Bools) -> Ints:
    """How many positive pairs of the same user are earlier, `[n]`."""
    order = np.lexsort((positions, times, users))
    keys = [part[order] for part in (users, times, positions)]
    new = np.ones(len(order), bool)
    new[1:] = np.logical_or.reduce([part[1:] != part[:-1] for part in keys])
    first = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))  # of those at the same time
    sums = np.append(0, np.cumsum(labels[order]))
    own = np.searchsorted(keys[0], keys[0])  # the first pair of the user
    found = np.empty(len(order), np.int64)
    found[order] = sums[first] - sums[own]
    return found


def _check_parts(clicks: Clicks, path: Path) -> None:
    for part, name in enumerate(PARTS[:-1]):
        labels = clicks.labels[clicks.rows(part)]
        if len({*labels.tolist()}) < 2:
            got = f"{len(labels):,} pairs, {int(labels.sum()):,} of them positive"
            what, fix = f"the {name} part does not have both labels", "Ingest more pairs, or others in that part."
            raise BadSetting(what, where=str(path), expected="positive and negative pairs", got=got, fix=fix)
