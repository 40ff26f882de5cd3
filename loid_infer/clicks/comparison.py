"""The result of `evaluate --clicks`, and its tables."""

from __future__ import annotations

from dataclasses import dataclass

ITEM_MEAN = "item mean"  # the share of positive pairs of the item


@dataclass(frozen=True, slots=True)
class ClickRow:
    """A metric of a system on the test part, or what it has more than a reference; 95 % interval over users."""

    system: str
    metric: str  # auc | uauc | hr@1 | hr@2 | precision | recall | f1
    value: float
    low: float | None
    high: float | None
    reference: str = ""  # empty: the value itself


@dataclass(frozen=True, slots=True)
class ClickEvaluation:
    """Heads on the same labeled pairs."""

    domain: str
    split: str
    split_digest: str
    seed: int
    n_pairs: int
    n_positive: int
    n_users: int
    n_both: int  # users with both labels, over which the UAUC is a mean
    summary: tuple[ClickRow, ...]
    differences: tuple[ClickRow, ...]
    score_s: dict[str, float]  # by head
    path: str
    seconds: float

    @property
    def file_names(self) -> tuple[str, ...]:
        """What the name of its file in `reports/` begins with, between dots."""
        return (self.domain,)

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that are compared."""
        return tuple(self.score_s)

    def by_system(self) -> dict[str, dict[str, ClickRow]]:
        """The metrics of each system by name."""
        systems: dict[str, dict[str, ClickRow]] = {}
        for row in self.summary:
            systems.setdefault(row.system, {})[row.metric] = row
        return systems

    def minus(self, head: str, metric: str = "auc") -> list[ClickRow]:
        """What `head` has more than each other system."""
        return [row for row in self.differences if (row.system, row.metric) == (head, metric)]
