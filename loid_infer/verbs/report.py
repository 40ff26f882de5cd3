"""`report`: writes an HTML page with all measurements of a workspace, and the commands for missing ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import chain

from loid_infer import __version__
from loid_infer.artifact import new_file
from loid_infer.errors import BadTable
from loid_infer.pages.missing import NotMeasured, missing_of_domain, missing_shared
from loid_infer.pages.page import page
from loid_infer.pages.records import of_domain, read_findings
from loid_infer.settings import Workspace, WorkspaceLike, slug
from loid_infer.types import SILENT, Progress


@dataclass(frozen=True, slots=True)
class ReportResult:
    """A written report."""

    path: str
    domains: tuple[str, ...]
    n_heads: int
    n_ranking_heads: int
    n_encoders: int
    n_plugins: int
    not_measured: tuple[NotMeasured, ...]
    left_out: tuple[str, ...]  # files that cannot be read, and why
    n_bytes: int
    seconds: float


def report(domain: str | None = None, *, workspace: WorkspaceLike = None, progress: Progress = SILENT) -> ReportResult:
    """Write `reports/report.html`, or `reports/<domain>.report.html` for one domain: a self-contained page.

    Files that cannot be read are left out and listed.

    Raises:
        BadName: the name of the domain is not a slug.
        BadTable: there is no such domain, or nothing to report.
        NoSpace: the page cannot be written.
    """
    start = time.perf_counter()
    folder = Workspace.of(workspace)
    findings = read_findings(folder)
    names = [item.name for item in findings.domains]
    if domain is not None and slug(domain, "domain") not in names:
        fix = f"Give one of these, or run: loid-infer ingest SRC --domain {domain}"
        where, got = str(folder.root.absolute()), ", ".join(names) or "none"
        raise BadTable(f"there is no domain {domain!r}", where=where, got=got, fix=fix)
    if not (findings.domains or findings.encoders or findings.plugins or findings.left_out):
        fix = "Give a workspace with data/ or exports/ by -w DIR, or run: loid-infer ingest SRC --domain D"
        raise BadTable("there is nothing to report on", where=str(folder.root.absolute()), fix=fix)
    findings = of_domain(findings, domain) if domain else findings
    for problem in findings.left_out:
        progress.say(f"left out: {problem}")
    content = page(findings, __version__)
    path = folder.reports / (f"{domain}.report.html" if domain else "report.html")
    with new_file(path) as temporary:
        temporary.write_bytes(content)
    return ReportResult(
        path=str(path),
        domains=tuple(item.name for item in findings.domains),
        n_heads=len(findings.heads),
        n_ranking_heads=len(findings.ranking_heads),
        n_encoders=len(findings.encoders),
        n_plugins=len(findings.plugins),
        not_measured=(*chain.from_iterable(map(missing_of_domain, findings.domains)), *missing_shared(findings)),
        left_out=findings.left_out,
        n_bytes=len(content),
        seconds=time.perf_counter() - start,
    )
