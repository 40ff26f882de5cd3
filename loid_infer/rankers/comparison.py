"""The result of `evaluate` for ranking heads, and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COMPARED = ("recall@10", "ndcg@10")  # metrics of differences and of groups of targets


@dataclass(frozen=True, slots=True)
class RankRow:
    """One metric of one system. The interval is 95 % over users."""

    system: str
    domain: str  # of the targets; empty: all
    metric: str
    value: float
    low: float | None
    high: float | None
    n_users: int
    group: str = ""  # of targets, `kind=name`; empty: all


@dataclass(frozen=True, slots=True)
class RankDifference:
    """A system compared with another one, user by user; 95 % interval."""

    system: str
    reference: str
    domain: str
    metric: str
    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class ExampleRanking:
    """What a head ranks for the user of an example, among all items of the target's domain."""

    head: str
    rank: float | None  # of the target; None if the head cannot rank it
    first: tuple[str, ...]  # titles of the items it puts first, none of the history


@dataclass(frozen=True, slots=True)
class Example:
    """A user with items as titles, or as ids where there is none."""

    user: str
    domain: str  # of the target
    n_history: int
    history: tuple[str, ...]  # the last ones, the newest last
    target: str
    rankings: tuple[ExampleRanking, ...]


@dataclass(frozen=True, slots=True)
class GroupTable:
    """Recall@10 by group of targets."""

    kind: str
    names: tuple[str, ...]  # [n], of the groups
    n_users: tuple[int, ...]  # [n], targets of each
    rows: dict[str, tuple[RankRow | None, ...]]  # by system, [n]


@dataclass(frozen=True, slots=True)
class RankEvaluation:
    """Ranking metrics of heads and of models that only count, on the same targets."""

    domains: tuple[str, ...]
    split: str
    seed: int
    candidates: str  # full: all items of the target's domain | the number of drawn negatives
    candidates_file: str
    sequences_digest: str
    n_users: int
    n_tied_times: int
    summary: tuple[RankRow, ...]
    groups: tuple[RankRow, ...]
    differences: tuple[RankDifference, ...]
    rank_s: dict[str, float]  # by system
    note: str
    path: str
    seconds: float
    examples: tuple[Example, ...] = ()  # empty in files from before there were any

    @property
    def file_names(self) -> tuple[str, ...]:
        """What the name of its file in `reports/` begins with, between dots."""
        return file_names(self.domains, self.split, self.candidates)

    @property
    def is_full(self) -> bool:
        """Whether targets were ranked among all items of their domain."""
        return self.candidates == "full"

    @property
    def heads(self) -> tuple[str, ...]:
        """The systems that are compared with all others."""
        return tuple(dict.fromkeys(row.system for row in self.differences))

    def by_system(self) -> list[dict[str, RankRow]]:
        """The metrics of each system by name: domain after domain, then over all of them."""
        order = {domain: number for number, domain in enumerate((*self.domains, ""))}
        systems: dict[tuple[str, str], dict[str, RankRow]] = {}
        for row in sorted(self.summary, key=lambda row: order.get(row.domain, len(order))):
            systems.setdefault((row.domain, row.system), {})[row.metric] = row
        return [*systems.values()]

    def overall(self, system: str) -> RankRow | None:
        """NDCG@10 of a system over all targets."""
        domain = "" if len(self.domains) > 1 else self.domains[0]
        wanted = (system, domain, "ndcg@10")
        return next((row for row in self.summary if (row.system, row.domain, row.metric) == wanted), None)

    def minus(self, head: str) -> list[RankDifference]:
        """NDCG@10 of a head minus that of every other system, over all targets."""
        return [row for row in self.differences if (row.system, row.domain, row.metric) == (head, "", "ndcg@10")]

    def by_group(self) -> list[GroupTable]:
        """Recall@10 of every system in the groups of each kind."""
        kinds: dict[str, dict[str, dict[str, RankRow]]] = {}
        for row in self.groups:
            kind, _, name = row.group.partition("=")
            if row.metric == "recall@10":
                kinds.setdefault(kind, {}).setdefault(name, {})[row.system] = row
        tables = []
        for kind, groups in kinds.items():
            systems = dict.fromkeys(system for group in groups.values() for system in group)
            counts = tuple(next(iter(group.values())).n_users for group in groups.values())
            rows = {system: tuple(group.get(system) for group in groups.values()) for system in systems}
            tables.append(GroupTable(kind, tuple(groups), counts, rows))
        return tables


def file_names(domains: Sequence[str], split: str, candidates: str) -> tuple[str, ...]:
    """What the name of an evaluation's file begins with, between dots: one file per domains, split and candidates."""
    marks = ("time" if split == "time" else "", "" if candidates == "full" else candidates)
    return ("+".join(domains), *filter(None, marks))
