"""The records of a workspace that the page shows, and how they are read.

Files that cannot be read are left out, each with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct, structs

from loid_infer.artifact import MANIFEST, read_manifest
from loid_infer.clicks.comparison import ClickEvaluation
from loid_infer.clicks.manifest import ClickManifest
from loid_infer.data.canonical import INTERACTION_FORMAT, InteractionFacts, TableFacts
from loid_infer.data.kinds import INTERACTIONS
from loid_infer.data.reviews import is_implicit, open_file, open_table
from loid_infer.encoders.manifest import EncoderManifest
from loid_infer.errors import BadArtifact, LoidError
from loid_infer.heads.comparison import BASELINES, HEAD, EvaluateResult, system
from loid_infer.heads.manifest import HeadManifest
from loid_infer.plugins.folder import PluginManifest
from loid_infer.rankers.comparison import RankEvaluation
from loid_infer.rankers.manifest import RankingManifest
from loid_infer.records import decode, typed
from loid_infer.settings import Workspace, slug

T = TypeVar("T")
_FIX = "Make it again, or remove it."
_UNKNOWN_SHARE = 0.01  # of the tokens or texts of a run, from which on it is said


class History(Struct, frozen=True):
    """A learning curve; None for values that are not finite."""

    losses: tuple[float | None, ...]  # of each step or epoch
    eval_steps: tuple[float, ...]
    eval_mse: tuple[float | None, ...]

    def __post_init__(self) -> None:
        if len(self.eval_steps) != len(self.eval_mse):
            raise ValueError(f"{len(self.eval_steps)} steps and {len(self.eval_mse)} errors do not match")


def read_evaluation(path: Path) -> EvaluateResult:
    """The result in a file of `evaluate`, in this version's form or an earlier one.

    Raises:
        BadArtifact: it cannot be read.
    """
    content: dict[str, Any] = decode(path, dict, _FIX, finite=True)
    runs = content.get("runs")
    if not (isinstance(runs, list) and any(isinstance(run, dict) and "system" in run for run in runs)):
        try:
            content |= _long_rows(content)
        except (LookupError, TypeError) as error:
            raise BadArtifact(f"the content is invalid: {error!r}", where=str(path), fix=_FIX) from error
    return typed(content, EvaluateResult, _FIX, where=str(path))


def _long_rows(content: dict[str, Any]) -> dict[str, Any]:
    """The rows of a result of an earlier version, which has one record per run, model and bucket."""
    domain, head = content["domain"], system(HEAD, content["encoders"][0])
    runs = [
        {"system": system(run["model"], run["encoder"]), "split": f"{content['split']}-{run['seed']}"}
        | {"domain": domain, "metric": metric, "value": run[metric], "n": run["n_test"]}
        for run in content["runs"]
        for metric in ("mse", "mae", "train_mse", "network_share")
        if run[metric] is not None
    ]
    summary = [
        {"system": system(model["model"], model["encoder"]), "reference": reference, "metric": "mse"}
        | {"value": model["mse"], "difference": model[name], "low": model[f"{name}_low"], "high": model[f"{name}_high"]}
        for model in content["summary"]
        for reference, name in ((BASELINES[1], "against_bias"), (head, "against_head"))
    ]
    buckets = [
        {"system": name, "domain": domain, "split": "", "group": f"{bucket['by']}={bucket['bucket']}"}
        | {"metric": "mse", "value": bucket[name.replace(" ", "_")], "n": bucket["n_test"]}
        for bucket in content["buckets"]
        for name in (*BASELINES, HEAD)
    ]
    return {"split_seed": 0, "path": "", "seconds": 0.0, "runs": runs, "summary": summary, "buckets": buckets}


class HeadRecord(HeadManifest, frozen=True, kw_only=True):
    """A head with its learning curve."""

    history: History | None = None


class RankingRecord(RankingManifest, frozen=True, kw_only=True):
    """A ranking head with its learning curve, if it was trained; its errors are `1 - NDCG@10`."""

    history: History | None = None

    @property
    def best_trial(self) -> dict[str, Any]:
        """The settings that were kept."""
        return max(self.trials, key=lambda trial: trial.ndcg).settings if self.trials else {}


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
    """The work and cost of a run. Equal texts are counted once."""

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
    n_unknown: int = 0  # tokens of the encoded texts that the tokenizer does not know
    n_mostly_unknown: int = 0  # encoded texts of which more than half of the tokens are unknown

    @property
    def file_names(self) -> tuple[str, ...]:
        """What the name of its file in `reports/` begins with, between dots."""
        return (self.domain, self.encoder)

    @property
    def unknown(self) -> str:
        """How much of the texts the tokenizer does not know; empty if that is no more than a few words and emoji."""
        share = self.n_unknown / max(self.n_tokens, 1)
        if max(share, self.n_mostly_unknown / max(self.n_encoded, 1)) < _UNKNOWN_SHARE:
            return ""
        return (
            f"{share:.1%} of the tokens are unknown to the tokenizer of {self.encoder} ({self.n_mostly_unknown:,} "
            "texts are mostly unknown, and their vectors hardly differ): export a multilingual encoder with "
            "`loid-infer export --base MODEL --name NAME`"
        )


class Similarity(Struct, frozen=True):
    """`reports/similarity.json`, as `plugin similarity` writes it."""

    domains: tuple[str, ...]  # [n], as they were given
    matrix: tuple[tuple[float, ...], ...]  # [n, n], symmetric
    pooling: str
    n_texts: int  # drawn of each domain, and as many again for its diagonal
    base: str
    max_tokens: int
    seed: int

    def __post_init__(self) -> None:
        n = len(self.domains)
        if not n or [len(row) for row in self.matrix] != [n] * n:
            raise ValueError(f"the matrix of {len(self.matrix)} rows does not fit {n} domains")


@dataclass(frozen=True, slots=True)
class Domain:
    """The records of one domain."""

    name: str
    table: TableFacts | None
    evaluations: tuple[EvaluateResult, ...]  # the strict one on random splits first, if there is one
    heads: tuple[HeadRecord, ...]
    encodings: tuple[EncodeResult, ...]
    interactions: InteractionFacts | None = None  # of a domain without ratings, which has no table of reviews
    has_items: bool = False  # whether there is a table of items

    @property
    def evaluation(self) -> EvaluateResult | None:
        """The first."""
        return next(iter(self.evaluations), None)


@dataclass(frozen=True, slots=True)
class Findings:
    """The records of a workspace, by name."""

    domains: tuple[Domain, ...]
    encoders: tuple[EncoderManifest, ...]
    plugins: tuple[PluginRecord, ...]
    similarity: Similarity | None
    left_out: tuple[str, ...]  # files that cannot be read, and why
    rankings: tuple[RankEvaluation, ...] = ()
    ranking_heads: tuple[RankingRecord, ...] = ()
    labels: tuple[ClickEvaluation, ...] = ()
    click_heads: tuple[ClickManifest, ...] = ()

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
        """Plugins with a test error."""
        return tuple(plugin for plugin in self.plugins if plugin.metrics.test_mse is not None)

    @property
    def trained_to_rank(self) -> tuple[PluginRecord, ...]:
        """Plugins trained for next items."""
        return tuple(plugin for plugin in self.plugins if plugin.metrics.val_ndcg is not None)


A = TypeVar("A", EncoderManifest, HeadRecord, RankingRecord, ClickManifest, PluginRecord)
R = TypeVar("R", EvaluateResult, EncodeResult, RankEvaluation, ClickEvaluation)
D = TypeVar("D", EvaluateResult, EncodeResult, HeadRecord)


def read_findings(workspace: Workspace) -> Findings:
    """Everything in the workspace, each kind by name."""
    reader = _Reader(workspace)
    tables = dict(reader.read_all(map(workspace.table, workspace.domains()), _table))
    evaluations = reader.reports(EvaluateResult, "evaluation")
    evaluations.sort(key=lambda evaluation: (evaluation.protocol == "paper", evaluation.split))
    encodings = reader.reports(EncodeResult, "encoding")
    heads = reader.artifacts(HeadRecord, "head")
    plugins = reader.artifacts(PluginRecord, "plugin")
    encoders = reader.artifacts(EncoderManifest, "encoder")
    rankings = reader.reports(RankEvaluation, "ranking")
    ranking_heads = reader.artifacts(RankingRecord, "head")
    ranking_heads = [structs.replace(head, history=reader.history(workspace.head(head.head))) for head in ranking_heads]
    heads = [structs.replace(head, history=reader.history(workspace.head(head.head))) for head in heads]
    plugins = [structs.replace(plugin, history=reader.history(workspace.plugin(plugin.name))) for plugin in plugins]
    labels, click_heads = reader.reports(ClickEvaluation, "clicks"), reader.artifacts(ClickManifest, "head")
    similarity = reader.read_if_present(workspace.reports / "similarity.json", Similarity)

    def of(name: str, records: Iterable[D]) -> tuple[D, ...]:
        return tuple(record for record in records if record.domain == name)

    names = {*tables, *(result.domain for result in evaluations), *(run.domain for run in encodings)}
    names |= {record.domain for records in (heads, labels, click_heads) for record in records}
    names |= {name for ranking in rankings for name in ranking.domains}
    names |= {name for head in ranking_heads for name in head.domains}

    def domain(name: str) -> Domain:
        facts, has_items = tables.get(name), workspace.items(name).is_file()
        reviews, interactions = (None, facts) if isinstance(facts, InteractionFacts) else (facts, None)
        parts = of(name, evaluations), of(name, heads), of(name, encodings)
        return Domain(name, reviews, *parts, interactions, has_items)

    return Findings(
        domains=tuple(map(domain, sorted(names))),
        encoders=tuple(encoders),
        plugins=tuple(plugins),
        similarity=similarity,
        left_out=tuple(reader.left_out),
        rankings=tuple(rankings),
        ranking_heads=tuple(ranking_heads),
        labels=tuple(labels),
        click_heads=tuple(click_heads),
    )


def of_domain(findings: Findings, name: str) -> Findings:
    """What belongs to one domain: its runs, their encoders with all plugins in them, and plugins trained on it."""
    domain = next(domain for domain in findings.domains if domain.name == name)
    used = {head.encoder for head in domain.heads} | {encoding.encoder for encoding in domain.encodings}
    rankings = tuple(record for record in findings.rankings if name in record.domains)
    ranking_heads = tuple(head for head in findings.ranking_heads if name in head.domains)
    click_heads = tuple(head for head in findings.click_heads if head.domain == name)
    used |= {head.encoder for head in ranking_heads} | {head.encoder for head in click_heads}
    used |= {run["encoder"] for evaluation in domain.evaluations for run in evaluation.by_run()}
    encoders = tuple(encoder for encoder in findings.encoders if encoder.name in used)
    by_digest = {plugin.digest: plugin for plugin in findings.plugins}
    wanted: set[str] = set()
    more = {plugin.digest for plugin in findings.plugins if name in plugin.domains}
    more |= {plugin.digest for encoder in encoders for plugin in encoder.plugins}
    while more:
        wanted |= more
        known = [by_digest[digest] for digest in more if digest in by_digest]
        more = {digest for plugin in known for digest in (*plugin.on, *plugin.holds)} - wanted
    plugins = tuple(plugin for plugin in findings.plugins if plugin.digest in wanted)
    similarity = findings.similarity if findings.similarity and name in findings.similarity.domains else None
    return replace(
        findings,
        domains=(domain,),
        encoders=encoders,
        plugins=plugins,
        similarity=similarity,
        rankings=rankings,
        ranking_heads=ranking_heads,
        labels=tuple(result for result in findings.labels if result.domain == name),
        click_heads=click_heads,
    )


class _Reader:
    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.left_out: list[str] = []

    def read_all(self, paths: Iterable[Path], read: Callable[[Path], T]) -> list[T]:
        """What `read` returns for each path; one for which it raises a user error is noted in `left_out`."""
        records = []
        for path in paths:
            try:
                records.append(read(path))
            except LoidError as error:
                self.left_out.append(self._reason(path, error))
        return records

    def read_if_present(self, path: Path, kind: type[T]) -> T | None:
        paths = [path] if path.is_file() else []
        return next(iter(self.read_all(paths, lambda path: decode(path, kind, _FIX, finite=True))), None)

    def reports(self, kind: type[R], ending: str) -> list[R]:
        def read(path: Path) -> Any:
            record: Any = read_evaluation(path) if ending == "evaluation" else decode(path, kind, _FIX, finite=True)
            for name in getattr(record, "domains", record.file_names[:1]):
                slug(name, "domain")
            if path.name != f"{'.'.join(record.file_names)}.{ending}.json":
                got = " ".join(record.file_names)
                raise BadArtifact("the file is not the one its name says", where=str(path), got=got)
            return record

        return self.read_all(sorted(self.workspace.reports.glob(f"[!.]*.{ending}.json")), read)

    def artifacts(self, kind: type[A], name: str) -> list[A]:
        def read(folder: Path) -> A:
            slug(folder.name, name)
            record = read_manifest(folder, kind, _FIX, check_files=False, finite=True)
            for domain in getattr(record, "domains", ()) if name == "head" else ():
                slug(domain, "domain")
            slug(getattr(record, "domain", name), "domain")
            # A folder's name counts: a plugin that others are trained on is kept under another than its manifest says.
            own_name = {"head" if name == "head" else "name": folder.name}
            return structs.replace(record, **own_name)

        paths = sorted((self.workspace.root / "exports" / f"{name}s").glob("[!.]*"))
        folders = [path for path in paths if path.is_dir()]
        if name == "head":
            folders = [folder for folder in folders if _head_kind(folder) is kind]
        return self.read_all(folders, read)

    def history(self, folder: Path) -> History | None:
        return self.read_if_present(folder / "curve.json", History)

    def _reason(self, path: Path, error: LoidError) -> str:
        name = str(path.relative_to(self.workspace.root))  # the same wherever the workspace is
        at = "" if Path(error.where).is_absolute() or error.where == str(path) else error.where
        detail = f"expected {error.expected}, got {error.got}" if error.expected and error.got else error.got
        text = ": ".join(filter(None, (name, at, error.what, detail)))
        return text.encode(errors="replace").decode()  # a file's name may be any bytes


def _head_kind(folder: Path) -> type:
    """The record of the kind of head in `folder`. What cannot be read counts as one on reviews."""
    with suppress(BadArtifact):
        kind = decode(folder / MANIFEST, dict[str, Any], _FIX).get("kind")
        return {"ranking": RankingRecord, "clicks": ClickManifest}.get(str(kind), HeadRecord)
    return HeadRecord


def _table(path: Path) -> tuple[str, TableFacts | InteractionFacts]:
    if is_implicit(path):
        facts = open_file(path, INTERACTIONS.schema, INTERACTION_FORMAT, InteractionFacts, _FIX)[0]
        return path.stem, facts
    return path.stem, open_table(path, path.stem).facts
