"""What the page is drawn from: the records that verbs keep in `reports/`, and all that is known of a workspace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import Struct

from loid_infer.data.canonical import TableFacts
from loid_infer.encoders.manifest import EncoderManifest
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
    file_names,
    records,
)
from loid_infer.heads.manifest import HeadManifest
from loid_infer.plugins.folder import PluginManifest
from loid_infer.records import decode, typed


class History(Struct, frozen=True):
    """How a training run went; what was not finite is None."""

    losses: tuple[float | None, ...]  # of each step or epoch
    eval_steps: tuple[float, ...]
    eval_mse: tuple[float | None, ...]


class Evaluation(Struct, frozen=True):
    """`reports/<domain>.evaluation.json`, as `evaluate` writes it; `.time` and `.paper` come before for those."""

    domain: str
    encoders: tuple[str, ...]
    preset: str
    protocol: str
    split: str
    n_seeds: int
    interval: str | None  # what the 95 % intervals are taken over; None: one split gives none
    runs: tuple[Run, ...]
    summary: tuple[ModelErrors, ...]
    buckets: tuple[Bucket, ...]
    calibration: tuple[Bin, ...]

    @property
    def file_names(self) -> tuple[str, ...]:
        """What its file's name begins with, between dots."""
        return file_names(self.domain, self.split, self.protocol)

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


def read_evaluation(path: Path, fix: str) -> Evaluation:
    """The evaluation in a file of long rows, or in one of an earlier version, which has the fields of `Evaluation`.

    Raises:
        BadArtifact: it cannot be read.
    """
    content: dict[str, Any] = decode(path, dict, fix, finite=True)
    runs = content.get("runs")
    if isinstance(runs, list) and any(isinstance(run, dict) and "system" in run for run in runs):
        content |= records(typed(content, EvaluateResult, fix, where=str(path)))
    return typed(content, Evaluation, fix, where=str(path))


class HeadRecord(HeadManifest, frozen=True, kw_only=True):
    """A head with its learning curve."""

    history: History | None = None


class PluginRecord(PluginManifest, frozen=True, kw_only=True):
    """A plugin with its learning curve, if it was trained."""

    history: History | None = None


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """Seconds each stage was busy; they overlap."""

    read_s: float
    tokenize_s: float
    forward_s: float
    commit_s: float


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """What a run found, did and cost. Texts are counted once however often they occur."""

    domain: str  # or another corpus's name
    encoder: str
    fingerprint: str
    runtime: str  # the runtime that ran, or the word `none` when every text was stored already
    runtime_detail: str
    precision: str
    max_tokens: int
    n_rows: int
    n_unique: int
    n_hits: int
    n_encoded: int
    n_truncated: int
    n_tokens: int
    padding: float
    seconds: float
    export_s: float
    setup_s: float
    tokens_per_s: float
    texts_per_s: float
    peak_rss_bytes: int
    stages: StageSeconds
    store: str

    @property
    def file_names(self) -> tuple[str, ...]:
        """What the name of its file in `reports/` begins with, between dots."""
        return (self.domain, self.encoder)


class Similarity(Struct, frozen=True):
    """`reports/similarity.json`, as `plugin similarity` writes it."""

    domains: tuple[str, ...]  # [n], as they were given
    matrix: tuple[tuple[float, ...], ...]  # [n, n], symmetric
    pooling: str
    n_texts: int  # drawn of each domain, and as many again for its diagonal
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
    encodings: tuple[EncodeResult, ...]

    @property
    def evaluation(self) -> Evaluation | None:
        """The first."""
        return next(iter(self.evaluations), None)


@dataclass(frozen=True, slots=True)
class Findings:
    """All there is to show, by name."""

    domains: tuple[Domain, ...]
    encoders: tuple[EncoderManifest, ...]
    plugins: tuple[PluginRecord, ...]
    similarity: Similarity | None
    left_out: tuple[str, ...]  # files that cannot be read, and why

    @property
    def heads(self) -> tuple[HeadRecord, ...]:
        """Of all domains."""
        return tuple(head for domain in self.domains for head in domain.heads)

    @property
    def encodings(self) -> tuple[EncodeResult, ...]:
        """Of all domains."""
        return tuple(run for domain in self.domains for run in domain.encodings)

    @property
    def trained(self) -> tuple[PluginRecord, ...]:
        """Plugins that say how well they learnt."""
        return tuple(plugin for plugin in self.plugins if plugin.metrics.test_mse is not None)
