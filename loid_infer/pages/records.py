"""What a workspace's files say, as far as the page shows it: fields under the names they have in those files.

This file knows no file; `findings.py` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loid_infer.heads.comparison import BASELINES, HEAD, NO_VARIANTS, STRICT, Bin, Bucket, ModelErrors, Run


@dataclass(frozen=True, slots=True)
class History:
    """How a training run went; what was not finite is None."""

    losses: tuple[float | None, ...]  # of each step or epoch
    eval_steps: tuple[float, ...]
    eval_mse: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class TableRecord:
    """A domain's reviews."""

    n_reviews: int
    n_users: int
    n_items: int
    synthetic: bool


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

    @property
    def file_names(self) -> tuple[str, ...]:
        """What its file's name begins with, between dots."""
        marks = ("time" if self.split == "time" else "", "paper" if self.protocol == "paper" else "")
        return (self.domain, *filter(None, marks))

    @property
    def models(self) -> tuple[ModelErrors, ...]:
        """Baselines, heads, and what is beside them to compare with."""
        return tuple(model for model in self.summary if model.model in NO_VARIANTS)

    @property
    def variants(self) -> tuple[ModelErrors, ...]:
        """The first encoder's head with one thing changed."""
        return tuple(model for model in self.summary if model.model not in NO_VARIANTS)

    @property
    def head(self) -> ModelErrors | None:
        """The first encoder's head."""
        return next((model for model in self.summary if model.model == HEAD), None)

    @property
    def result(self) -> ModelErrors | None:
        """The head whose error is a result: one that never saw the review to be predicted."""
        if self.protocol != "paper":
            return self.head
        return next((model for model in self.summary if model.model == STRICT), None)

    @property
    def bias(self) -> ModelErrors | None:
        """The baseline everything is compared with."""
        return next((model for model in self.summary if model.model == BASELINES[1]), None)


@dataclass(frozen=True, slots=True)
class Baselines:
    """Test MSE of a fit's baselines."""

    global_mean: float
    bias: float
    mf: float


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
    n_train: int
    n_test: int
    test_mse: float
    test_mae: float
    baselines: Baselines
    network_share: float
    epochs: int
    best_epoch: int
    history: History | None = None


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """A plain model."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class PluginName:
    """A plugin that another artifact names."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class ParityRecord:
    """How far a runtime's vectors are from the reference's."""

    cos_min: float
    cos_mean: float
    max_abs: float
    n_texts: int


@dataclass(frozen=True, slots=True)
class ProofRecord:
    """What an export proved."""

    runtime: str
    gate: str
    passed: bool
    runtimes: Mapping[str, ParityRecord]


@dataclass(frozen=True, slots=True)
class SpecRecord:
    """What an encoder is."""

    n_layers: int
    hidden_dim: int
    max_tokens: int
    precision: str
    store_dtype: str


@dataclass(frozen=True, slots=True)
class EncoderRecord:
    """`exports/encoders/<name>/`, as `export` writes it."""

    name: str
    fingerprint: str
    base: BaseRecord
    plugins: tuple[PluginName, ...]
    card: SpecRecord
    precision_reason: str
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

    val_mse: float | None = None
    test_mse: float | None = None
    test_variance: float | None = None


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """`exports/plugins/<name>/`, as `plugin train`, `merge` and `import` write it."""

    name: str
    digest: str
    method: str
    base: BaseRecord
    on: tuple[str, ...]
    parents: tuple[PluginName, ...]
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
    fingerprint: str
    runtime: str
    runtime_detail: str
    precision: str
    max_tokens: int
    n_unique: int
    n_hits: int
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
class Findings:
    """All there is to show."""

    domains: tuple[str, ...]
    tables: Mapping[str, TableRecord]  # by domain
    evaluations: Mapping[str, Evaluation]  # by domain: the strict one on random splits, if there is one
    further: Mapping[str, tuple[Evaluation, ...]]  # the others of each domain
    heads: tuple[HeadRecord, ...]
    encoders: tuple[EncoderRecord, ...]
    plugins: tuple[PluginRecord, ...]
    encodings: tuple[EncodingRecord, ...]
    similarity: Similarity | None
    left_out: tuple[str, ...]  # files that cannot be read, and why

    @property
    def trained(self) -> tuple[PluginRecord, ...]:
        """Plugins that say how well they learnt."""
        return tuple(plugin for plugin in self.plugins if plugin.metrics.test_mse is not None)
