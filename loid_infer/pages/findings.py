"""Reads what a workspace's runs have left behind. What cannot be read is left out, and it is said which and why.

This file knows where things lie; what they look like on a page is not its business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from msgspec import structs

from loid_infer.artifact import read_manifest
from loid_infer.data.canonical import TableFacts
from loid_infer.data.reviews import open_table
from loid_infer.errors import BadArtifact, LoidError
from loid_infer.pages.records import (
    Domain,
    EncoderRecord,
    EncodingRecord,
    Evaluation,
    Findings,
    HeadRecord,
    History,
    PluginRecord,
    Similarity,
)
from loid_infer.records import decode
from loid_infer.settings import Workspace, slug

T = TypeVar("T", EncoderRecord, HeadRecord, PluginRecord)
R = TypeVar("R", Evaluation, EncodingRecord)
D = TypeVar("D", Evaluation, EncodingRecord, HeadRecord)
_AGAIN = "Make it again, or remove it."


def read_findings(place: Workspace) -> Findings:
    """Everything in the workspace, each kind by name."""
    desk = _Desk(place)
    tables = dict(_tables(desk))
    evaluations = sorted(_reports(desk, Evaluation, "evaluation"), key=lambda one: (one.protocol == "paper", one.split))
    encodings = list(_reports(desk, EncodingRecord, "encoding"))
    heads = [structs.replace(one, history=next(_history(desk, place.head(one.head)), None))
             for one in _folders(desk, HeadRecord, "head")]  # fmt: skip
    plugins = tuple(structs.replace(one, history=next(_history(desk, place.plugin(one.name)), None))
                    for one in _folders(desk, PluginRecord, "plugin"))  # fmt: skip
    encoders = tuple(_folders(desk, EncoderRecord, "encoder"))

    def of(name: str, records: Iterable[D]) -> tuple[D, ...]:
        return tuple(one for one in records if one.domain == name)

    names = {*tables, *(one.domain for one in evaluations), *(one.domain for one in encodings),
             *(one.domain for one in heads)}  # fmt: skip
    domains = tuple(Domain(name, tables.get(name), of(name, evaluations), of(name, heads), of(name, encodings))
                    for name in sorted(names))  # fmt: skip
    similarity = next(_similarity(desk), None)
    return Findings(domains, encoders, plugins, similarity, tuple(desk.left_out))


def of_domain(found: Findings, name: str) -> Findings:
    """What belongs to one domain: its runs, the encoders they used, the plugins beneath these, those it taught."""
    domain = next(one for one in found.domains if one.name == name)
    used = {one.encoder for one in domain.heads} | {one.encoder for one in domain.encodings}
    used |= {str(run.encoder) for one in domain.evaluations for run in one.runs}
    encoders = tuple(one for one in found.encoders if one.name in used)
    by_digest = {plugin.digest: plugin for plugin in found.plugins}
    wanted: set[str] = set()
    more = {plugin.digest for plugin in found.plugins if name in plugin.domains}
    more |= {plugin.digest for one in encoders for plugin in one.plugins}
    while more:
        wanted |= more
        known = [by_digest[digest] for digest in more if digest in by_digest]
        more = {digest for one in known for digest in (*one.on, *one.holds)} - wanted
    return replace(
        found,
        domains=(domain,),
        encoders=encoders,
        plugins=tuple(plugin for plugin in found.plugins if plugin.digest in wanted),
        similarity=found.similarity if found.similarity and name in found.similarity.domains else None,
    )


@dataclass(slots=True)
class _Desk:
    place: Workspace
    left_out: list[str] = field(default_factory=list)

    @contextmanager
    def reading(self, path: Path) -> Iterator[None]:
        """Note that a file cannot be shown, where the block finds that out."""
        try:
            yield
        except LoidError as error:
            # A path as it is called inside the workspace: the same wherever that lies.
            name = str(path.relative_to(self.place.root))
            at = "" if Path(error.where).is_absolute() or error.where == str(path) else error.where
            said = f"expected {error.expected}, got {error.got}" if error.expected and error.got else error.got
            text = ": ".join(filter(None, (name, at, error.what, said)))
            self.left_out.append(text.encode(errors="replace").decode())  # a file's name may be any bytes


def _tables(desk: _Desk) -> Iterator[tuple[str, TableFacts]]:
    for domain in desk.place.domains():
        path = desk.place.table(domain)
        with desk.reading(path):
            yield domain, open_table(path, domain).facts


def _reports(desk: _Desk, kind: type[R], ending: str) -> Iterator[R]:
    for path in sorted(desk.place.reports.glob(f"[!.]*.{ending}.json")):
        with desk.reading(path):
            record = decode(path, kind, _AGAIN, finite=True)
            slug(record.file_names[0], "domain")
            if path.name != f"{'.'.join(record.file_names)}.{ending}.json":
                raise BadArtifact("the file is not the one its name says", where=str(path),
                                  got=" ".join(record.file_names))  # fmt: skip
            yield record


def _folders(desk: _Desk, kind: type[T], name: str) -> Iterator[T]:
    for folder in sorted((desk.place.root / "exports" / f"{name}s").glob("[!.]*")):
        if not folder.is_dir():
            continue
        with desk.reading(folder):
            slug(folder.name, name)
            record = read_manifest(folder, kind, _AGAIN, check_files=False, finite=True)
            slug(getattr(record, "domain", name), "domain")
            # A folder's name counts: a plugin that others rest on is kept under another than its manifest says.
            own_name = {"head" if name == "head" else "name": folder.name}
            yield structs.replace(record, **own_name)


def _history(desk: _Desk, folder: Path) -> Iterator[History]:
    path = folder / "curve.json"
    if path.is_file():
        with desk.reading(path):
            found = decode(path, History, _AGAIN, finite=True)
            if len(found.eval_steps) != len(found.eval_mse):
                raise BadArtifact("steps and errors do not match", where=str(path), expected=str(len(found.eval_steps)),
                                  got=str(len(found.eval_mse)))  # fmt: skip
            yield found


def _similarity(desk: _Desk) -> Iterator[Similarity]:
    path = desk.place.reports / "similarity.json"
    if path.is_file():
        with desk.reading(path):
            found = decode(path, Similarity, _AGAIN, finite=True)
            n = len(found.domains)
            if not n or len(found.matrix) != n or any(len(row) != n for row in found.matrix):
                raise BadArtifact("the matrix does not fit its domains", where=str(path), expected=f"{n} x {n}",
                                  got=" ".join(str(len(row)) for row in found.matrix)[:60] or "nothing")  # fmt: skip
            yield found
