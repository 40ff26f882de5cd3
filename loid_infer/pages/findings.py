"""Reads what the runs of a workspace wrote. Files that cannot be read are left out, each with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs

from loid_infer.artifact import read_manifest
from loid_infer.data.canonical import TableFacts
from loid_infer.data.reviews import open_table
from loid_infer.encoders.manifest import EncoderManifest
from loid_infer.errors import BadArtifact, LoidError
from loid_infer.pages.records import (
    Domain,
    EncodeResult,
    Evaluation,
    Findings,
    HeadRecord,
    History,
    PluginRecord,
    Similarity,
    read_evaluation,
)
from loid_infer.records import decode
from loid_infer.settings import Workspace, slug

A = TypeVar("A", EncoderManifest, HeadRecord, PluginRecord)
T = TypeVar("T")
R = TypeVar("R", Evaluation, EncodeResult)
D = TypeVar("D", Evaluation, EncodeResult, HeadRecord)
_FIX = "Make it again, or remove it."


def read_findings(workspace: Workspace) -> Findings:
    """Everything in the workspace, each kind by name."""
    reader = _Reader(workspace)
    tables = dict(reader.read_all(map(workspace.table, workspace.domains()), _table))
    evaluations = reader.reports(Evaluation, "evaluation")
    evaluations.sort(key=lambda evaluation: (evaluation.protocol == "paper", evaluation.split))
    encodings = reader.reports(EncodeResult, "encoding")
    heads = reader.artifacts(HeadRecord, "head")
    plugins = reader.artifacts(PluginRecord, "plugin")
    encoders = reader.artifacts(EncoderManifest, "encoder")
    heads = [structs.replace(head, history=reader.history(workspace.head(head.head))) for head in heads]
    plugins = [structs.replace(plugin, history=reader.history(workspace.plugin(plugin.name))) for plugin in plugins]
    similarity = reader.read_if_present(workspace.reports / "similarity.json", _similarity)

    def of(name: str, records: Iterable[D]) -> tuple[D, ...]:
        return tuple(record for record in records if record.domain == name)

    names = {*tables, *(one.domain for one in evaluations), *(one.domain for one in encodings)}
    names |= {head.domain for head in heads}
    domains = [
        Domain(name, tables.get(name), of(name, evaluations), of(name, heads), of(name, encodings))
        for name in sorted(names)
    ]
    return Findings(tuple(domains), tuple(encoders), tuple(plugins), similarity, tuple(reader.left_out))


def of_domain(findings: Findings, name: str) -> Findings:
    """What belongs to one domain: its runs, their encoders with all plugins in them, and plugins trained on it."""
    domain = next(one for one in findings.domains if one.name == name)
    used = {head.encoder for head in domain.heads} | {encoding.encoder for encoding in domain.encodings}
    used |= {str(run.encoder) for evaluation in domain.evaluations for run in evaluation.runs}
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
    return replace(findings, domains=(domain,), encoders=encoders, plugins=plugins, similarity=similarity)


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

    def read_if_present(self, path: Path, read: Callable[[Path], T]) -> T | None:
        return next(iter(self.read_all([path] if path.is_file() else [], read)), None)

    def reports(self, kind: type[R], ending: str) -> list[R]:
        paths = sorted(self.workspace.reports.glob(f"[!.]*.{ending}.json"))
        return self.read_all(paths, partial(_report, kind, ending))

    def artifacts(self, kind: type[A], name: str) -> list[A]:
        folders = sorted((self.workspace.root / "exports" / f"{name}s").glob("[!.]*"))
        return self.read_all(filter(Path.is_dir, folders), partial(_artifact, kind, name))

    def history(self, folder: Path) -> History | None:
        return self.read_if_present(folder / "curve.json", _history)

    def _reason(self, path: Path, error: LoidError) -> str:
        name = str(path.relative_to(self.workspace.root))  # the same wherever the workspace is
        at = "" if Path(error.where).is_absolute() or error.where == str(path) else error.where
        detail = f"expected {error.expected}, got {error.got}" if error.expected and error.got else error.got
        text = ": ".join(filter(None, (name, at, error.what, detail)))
        return text.encode(errors="replace").decode()  # a file's name may be any bytes


def _table(path: Path) -> tuple[str, TableFacts]:
    return path.stem, open_table(path, path.stem).facts


def _report(kind: type[Any], ending: str, path: Path) -> Any:
    record = read_evaluation(path, _FIX) if kind is Evaluation else decode(path, kind, _FIX, finite=True)
    slug(record.file_names[0], "domain")
    if path.name != f"{'.'.join(record.file_names)}.{ending}.json":
        got = " ".join(record.file_names)
        raise BadArtifact("the file is not the one its name says", where=str(path), got=got)
    return record


def _artifact(kind: type[A], name: str, folder: Path) -> A:
    slug(folder.name, name)
    record = read_manifest(folder, kind, _FIX, check_files=False, finite=True)
    slug(getattr(record, "domain", name), "domain")
    # A folder's name counts: a plugin that others are trained on is kept under another than its manifest says.
    own_name = {"head" if name == "head" else "name": folder.name}
    return structs.replace(record, **own_name)


def _history(path: Path) -> History:
    history = decode(path, History, _FIX, finite=True)
    n_steps, n_errors = len(history.eval_steps), len(history.eval_mse)
    if n_steps != n_errors:
        raise BadArtifact("steps and errors do not match", where=str(path), expected=str(n_steps), got=str(n_errors))
    return history


def _similarity(path: Path) -> Similarity:
    similarity = decode(path, Similarity, _FIX, finite=True)
    n, lengths = len(similarity.domains), [len(row) for row in similarity.matrix]
    if not n or lengths != [n] * n:
        got = " ".join(map(str, lengths))[:60] or "nothing"
        raise BadArtifact("the matrix does not fit its domains", where=str(path), expected=f"{n} x {n}", got=got)
    return similarity
