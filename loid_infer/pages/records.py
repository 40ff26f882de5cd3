"""What a workspace's files say, as far as the page shows it: fields under the names they have in those files.

This file knows no file; `findings.py` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loid_infer.data.canonical import TableFacts
from loid_infer.encoders.proof import Parity
from loid_infer.evaluation.rows import Bin
from loid_infer.heads.comparison import (
    BASELINES,
    HEAD,
    NO_VARIANTS,
    STRICT,
    Bucket,
    EvaluateResult,
    ModelErrors,
    Run,
    records,
)
from loid_infer.pages.typed import typed


@dataclass(frozen=True, slots=True)
class History:
    """How a training run went; what was not finite is None."""

    losses: tuple[float | None, ...]  # of each step or epoch
    eval_steps: tuple[float, ...]
    eval_mse: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`reports/<domain>.evaluation.json`, as `evaluate` writes it; `.time` and `.paper` come before for those."""

    domain: str
    encoders: tuple[str, ...]
    preset: str
    protocol: str
    split: str
    n_seeds: int
    interval: str | None
    runs: tuple[Run, ...]
    summary: tuple[ModelErrors, ...]
    buckets: tuple[Bucket, ...]
    calibration: tuple[Bin, ...]

    @staticmethod
    def from_rows(content: Any, where: str) -> Any:
        """The content of a file of long rows as these fields; that of an earlier version's file has them already."""
        if not (isinstance(content, dict) and "rows" in content):
            return content
        return content | records(typed(EvaluateResult, content, where))

    @property
    def file_names(self) -> tuple[str, ...]:
        """What its file's name begins with, between dots."""
        marks = ("time" if self.split == "time" else "", "paper" if self.protocol == "paper" else "")
        return (self.domain, *filter(None, marks))

    @property
    def variants(self) -> tuple[ModelErrors, ...]:
        """The first encoder's head with one thing changed; all others are baselines, heads, and what is beside them."""
        return tuple(model for model in self.summary if model.model not in NO_VARIANTS)

    @property
    def result(self) -> ModelErrors | None:
        """The first head whose error is a result: one that never saw the review to be predicted."""
        return self.named(STRICT if self.protocol == "paper" else HEAD)

    @property
    def bias(self) -> ModelErrors | None:
        """The baseline everything is compared with."""
        return self.named(BASELINES[1])

    def named(self, model: str) -> ModelErrors | None:
        """The first model of that name."""
        return next((one for one in self.summary if one.model == model), None)


@dataclass(frozen=True, slots=True)
class Baselines:
    """Test MSE of a fit's baselines, as far as it is shown."""

    bias: float


@dataclass(frozen=True, slots=True)
class HeadRecord:
    """`exports/heads/<name>/`, as `fit` writes it."""

    head: str
    domain: str
    encoder: str
    fingerprint: str
    preset: str
    protocol: str
    split: str
    split_seed: int
    test_mse: float
    test_mae: float
    baselines: Baselines
    network_share: float
    epochs: int
    best_epoch: int
    history: History | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """A base or a plugin that an artifact names."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class ProofRecord:
    """What an export proved."""

    gate: str
    passed: bool
    runtimes: Mapping[str, Parity]


@dataclass(frozen=True, slots=True)
class SpecRecord:
    """What an encoder is, as far as it is shown."""

    max_tokens: int
    precision: str


@dataclass(frozen=True, slots=True)
class EncoderRecord:
    """`exports/encoders/<name>/`, as `export` writes it."""

    name: str
    fingerprint: str
    base: Weights
    plugins: tuple[Weights, ...]  # with all that they rest on
    card: SpecRecord
    parity: ProofRecord


@dataclass(frozen=True, slots=True)
class Seen:
    """What a plugin was trained on."""

    domain: str


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """Of a training or a merge."""

    rank: int | None = None


@dataclass(frozen=True, slots=True)
class PluginMetrics:
    """Of a training."""

    test_mse: float | None = None
    test_variance: float | None = None


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """`exports/plugins/<name>/`, as `plugin train`, `merge` and `import` write it."""

    name: str
    digest: str
    method: str
    base: Weights
    on: tuple[str, ...]  # digests of all beneath it, however deep
    holds: tuple[str, ...]  # digests of all that was summed into it, however deep
    parents: tuple[Weights, ...]  # what it was merged of
    trained_on: tuple[Seen, ...]
    settings: PluginSettings
    metrics: PluginMetrics
    history: History | None = None

    @property
    def domains(self) -> tuple[str, ...]:
        """All it was trained on."""
        return tuple(sorted({seen.domain for seen in self.trained_on}))


@dataclass(frozen=True, slots=True)
class StageRecord:
    """Seconds each stage was busy."""

    read_s: float
    tokenize_s: float
    forward_s: float
    commit_s: float


@dataclass(frozen=True, slots=True)
class EncodingRecord:
    """`reports/<domain>.<encoder>.encoding.json`, as `encode` writes it."""

    domain: str
    encoder: str
    runtime: str
    runtime_detail: str
    n_encoded: int
    n_truncated: int
    n_tokens: int
    padding: float
    seconds: float
    setup_s: float
    tokens_per_s: float
    peak_rss_bytes: int
    stages: StageRecord

    @property
    def file_names(self) -> tuple[str, ...]:
        """What its file's name begins with, between dots."""
        return (self.domain, self.encoder)


@dataclass(frozen=True, slots=True)
class Similarity:
    """`reports/similarity.json`, as `plugin similarity` writes it."""

    domains: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]
    pooling: str
    n_texts: int
    base: str
    max_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Domain:
    """All there is to show of one domain."""

    name: str
    table: TableFacts | None
    evaluations: tuple[Evaluation, ...]  # the strict one on random splits first, if there is one
    heads: tuple[HeadRecord, ...]
    encodings: tuple[EncodingRecord, ...]

    @property
    def evaluation(self) -> Evaluation | None:
        """The first."""
        return next(iter(self.evaluations), None)


@dataclass(frozen=True, slots=True)
class Findings:
    """All there is to show, by name."""

    domains: tuple[Domain, ...]
    encoders: tuple[EncoderRecord, ...]
    plugins: tuple[PluginRecord, ...]
    similarity: Similarity | None
    left_out: tuple[str, ...]  # files that cannot be read, and why

    @property
    def heads(self) -> tuple[HeadRecord, ...]:
        """Of all domains."""
        return tuple(head for domain in self.domains for head in domain.heads)

    @property
    def encodings(self) -> tuple[EncodingRecord, ...]:
        """Of all domains."""
        return tuple(run for domain in self.domains for run in domain.encodings)

    @property
    def trained(self) -> tuple[PluginRecord, ...]:
        """Plugins that say how well they learnt."""
        return tuple(plugin for plugin in self.plugins if plugin.metrics.test_mse is not None)
