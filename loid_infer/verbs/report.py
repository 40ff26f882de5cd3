"""`report`: one HTML page of what the runs of a workspace have measured, and the commands for what they did not."""

from __future__ import annotations

import time
from dataclasses import dataclass

from loid_infer import __version__
from loid_infer.artifact import new_file
from loid_infer.errors import BadTable
from loid_infer.pages.findings import of_domain, read_findings
from loid_infer.pages.missing import NotMeasured, missing_of_domain, missing_shared
from loid_infer.pages.page import page
from loid_infer.settings import Workspace, WorkspaceLike, slug
from loid_infer.types import SILENT, Progress

PAGE = "report.html"


@dataclass(frozen=True, slots=True)
class ReportResult:
    """A written page."""

    path: str
    domains: tuple[str, ...]
    n_heads: int
    n_encoders: int
    n_plugins: int
    not_measured: tuple[NotMeasured, ...]
    left_out: tuple[str, ...]  # files that cannot be read, and why
    n_bytes: int
    seconds: float


def report(domain: str | None = None, *, workspace: WorkspaceLike = None, progress: Progress = SILENT) -> ReportResult:
    """Write `reports/report.html`, or `reports/<domain>.report.html` of one domain: a page that loads nothing else.

    A file that cannot be read is left out, and the page and the result say so.

    Raises:
        BadName: the domain's name is no slug.
        BadTable: there is no such domain, or nothing at all to show.
        NoSpace: the page cannot be written.
    """
    start = time.perf_counter()
    folder = Workspace.of(workspace)
    findings = read_findings(folder)
    names = [one.name for one in findings.domains]
    if domain is not None and slug(domain, "domain") not in names:
        raise BadTable(
            f"there is no domain {domain!r}",
            where=str(folder.root.absolute()),
            expected="one of this workspace",
            got=", ".join(names) or "none",
            fix=f"Name one of these, or run: loid-infer ingest SRC --domain {domain}",
        )
    if not (findings.domains or findings.encoders or findings.plugins or findings.left_out):
        raise BadTable(
            "there is nothing to report on",
            where=str(folder.root.absolute()),
            expected="a workspace with data/ or exports/",
            got="neither",
            fix="Give the workspace with -w DIR, or run: loid-infer ingest SRC --domain D",
        )
    findings = of_domain(findings, domain) if domain else findings
    for problem in findings.left_out:
        progress.say(f"left out: {problem}")
    content = page(findings, __version__)
    path = folder.reports / (f"{domain}.report.html" if domain else PAGE)
    with new_file(path) as temporary:
        temporary.write_bytes(content)
    return ReportResult(
        path=str(path),
        domains=tuple(one.name for one in findings.domains),
        n_heads=len(findings.heads),
        n_encoders=len(findings.encoders),
        n_plugins=len(findings.plugins),
        not_measured=(
            *(one for part in findings.domains for one in missing_of_domain(part)),
            *missing_shared(findings),
        ),
        left_out=findings.left_out,
        n_bytes=len(content),
        seconds=time.perf_counter() - start,
    )
