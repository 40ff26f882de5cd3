"""Reads what a workspace's runs have left behind. What cannot be read is left out, and it is said which and why.

This file knows where things lie; what they look like on a page is not its business.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from loid_infer.artifact import read_manifest
from loid_infer.data.reviews import open_table
from loid_infer.errors import BadArtifact, LoidError
from loid_infer.pages.records import (
    EncoderRecord,
    EncodingRecord,
    Evaluation,
    Findings,
    HeadRecord,
    History,
    PluginRecord,
    Similarity,
    TableRecord,
)
from loid_infer.pages.typed import typed
from loid_infer.settings import Workspace, slug

T = TypeVar("T")
R = TypeVar("R", Evaluation, EncodingRecord)
_AGAIN = "Make it again, or remove it."


def read_findings(place: Workspace) -> Findings:
    """Everything in the workspace, each kind by name."""
    desk = _Desk(place)
    tables = dict(_tables(desk))
    ranked: dict[str, list[Evaluation]] = {}
    for one in sorted(_reports(desk, Evaluation, "evaluation"), key=lambda one: (one.protocol == "paper", one.split)):
        ranked.setdefault(one.domain, []).append(one)
    evaluations = {domain: first for domain, (first, *_) in ranked.items()}
    further = {domain: tuple(others) for domain, (_, *others) in ranked.items()}
    encodings = tuple(_reports(desk, EncodingRecord, "encoding"))
    heads = tuple(replace(one, history=_history(desk, desk.place.head(one.head)))
                  for one in _folders(desk, HeadRecord, "head"))  # fmt: skip
    plugins = tuple(replace(one, history=_history(desk, desk.place.plugin(one.name)))
                    for one in _folders(desk, PluginRecord, "plugin"))  # fmt: skip
    encoders = tuple(_folders(desk, EncoderRecord, "encoder"))
    known = {*tables, *evaluations, *(one.domain for one in encodings), *(head.domain for head in heads)}
    return Findings(tuple(sorted(known)), tables, evaluations, further, heads, encoders, plugins, encodings,
                    _similarity(desk), tuple(desk.left_out))  # fmt: skip


def of_domain(found: Findings, domain: str) -> Findings:
    """What belongs to one domain: its runs, the encoders they used, the plugins beneath these, those it taught."""
    evaluation = found.evaluations.get(domain)
    heads = tuple(head for head in found.heads if head.domain == domain)
    encodings = tuple(one for one in found.encodings if one.domain == domain)
    names = {head.encoder for head in heads} | {one.encoder for one in encodings}
    further = found.further.get(domain, ())
    names |= {str(run.encoder) for one in (evaluation, *further) if one for run in one.runs}
    encoders = tuple(one for one in found.encoders if one.name in names)
    by_digest = {plugin.digest: plugin for plugin in found.plugins}
    wanted = {plugin.digest for plugin in found.plugins if any(seen.domain == domain for seen in plugin.trained_on)}
    todo = [*wanted, *(plugin.digest for one in encoders for plugin in one.plugins)]
    wanted = set()
    while todo:
        digest = todo.pop()
        if digest in wanted:
            continue
        wanted.add(digest)
        if digest in by_digest:
            todo += [*by_digest[digest].on, *(parent.digest for parent in by_digest[digest].parents)]
    similarity = found.similarity if found.similarity and domain in found.similarity.domains else None
    return replace(
        found,
        domains=(domain,),
        tables={name: table for name, table in found.tables.items() if name == domain},
        evaluations={domain: evaluation} if evaluation else {},
        further={domain: further},
        heads=heads,
        encoders=encoders,
        plugins=tuple(plugin for plugin in found.plugins if plugin.digest in wanted),
        encodings=encodings,
        similarity=similarity,
    )


@dataclass(slots=True)
class _Desk:
    place: Workspace
    left_out: list[str] = field(default_factory=list)

    def named(self, path: Path) -> str:
        """A path as it is called inside the workspace: the same wherever that lies."""
        return str(path.relative_to(self.place.root))

    def skip(self, path: Path, error: LoidError) -> None:
        """Note that a file cannot be shown."""
        at = error.where if error.where != str(path) and not Path(error.where).is_absolute() else ""
        said = f"expected {error.expected}, got {error.got}" if error.expected and error.got else error.got
        text = ": ".join(filter(None, (self.named(path), at, error.what, said)))
        self.left_out.append(text.encode(errors="replace").decode())  # a file's name may be any bytes


def _load(path: Path) -> object:
    try:
        found: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        raise BadArtifact("the file cannot be read", where=str(path), got=reason, mend=_AGAIN) from error
    return found


def _tables(desk: _Desk) -> Iterator[tuple[str, TableRecord]]:
    for domain in desk.place.domains():
        path = desk.place.table(domain)
        try:
            table = open_table(path, domain)
        except LoidError as error:
            desk.skip(path, error)
            continue
        facts = table.facts
        yield domain, TableRecord(facts.n_rows, facts.n_users, facts.n_items, facts.synthetic)


def _reports(desk: _Desk, kind: type[R], ending: str) -> Iterator[R]:
    for path in sorted(desk.place.reports.glob(f"[!.]*.{ending}.json")):
        try:
            record = typed(kind, _load(path), ending)
            slug(record.file_names[0], "domain")
            if path.name != f"{'.'.join(record.file_names)}.{ending}.json":
                raise BadArtifact("the file is not the one its name says", where=str(path),
                                  got=" ".join(record.file_names))  # fmt: skip
            yield record
        except LoidError as error:
            desk.skip(path, error)


def _folders(desk: _Desk, kind: type[T], name: str) -> Iterator[T]:
    for folder in sorted((desk.place.root / "exports" / f"{name}s").glob("[!.]*")):
        if not folder.is_dir():
            continue
        try:
            slug(folder.name, name)
            manifest = read_manifest(folder, name, _AGAIN, check_files=False)
            # A folder's name counts: a plugin that others rest on is kept under another than its manifest says.
            manifest |= {"head" if name == "head" else "name": folder.name}
            record = typed(kind, manifest, "manifest")
            slug(getattr(record, "domain", name), "domain")
            yield record
        except LoidError as error:
            desk.skip(folder, error)


def _history(desk: _Desk, folder: Path) -> History | None:
    path = folder / "curve.json"
    if not path.is_file():
        return None
    try:
        history = typed(History, _load(path), "curve")
        if len(history.eval_steps) != len(history.eval_mse):
            raise BadArtifact("steps and errors do not match", where="curve", expected=str(len(history.eval_steps)),
                              got=str(len(history.eval_mse)))  # fmt: skip
    except LoidError as error:
        desk.skip(path, error)
        return None
    return history


def _similarity(desk: _Desk) -> Similarity | None:
    path = desk.place.reports / "similarity.json"
    if not path.is_file():
        return None
    try:
        found = typed(Similarity, _load(path), "similarity")
        n = len(found.domains)
        if not n or len(found.matrix) != n or any(len(row) != n for row in found.matrix):
            raise BadArtifact("the matrix does not fit its domains", where="similarity", expected=f"{n} x {n}",
                              got=" ".join(str(len(row)) for row in found.matrix)[:60] or "nothing")  # fmt: skip
        return found
    except LoidError as error:
        desk.skip(path, error)
        return None
