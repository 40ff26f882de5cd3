"""The command that writes a page of everything that was measured: report."""

from __future__ import annotations

from typing import Annotated

import typer

from loid_infer.cli.options import JsonOption, QuietOption, WorkspaceOption, place
from loid_infer.cli.terminal import People, show


def report(
    domain: Annotated[
        str | None, typer.Option("--domain", "-d", help="Only this one; all by default.", show_default=False)
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write one self-contained HTML page of all that was measured.

    Example: loid-infer report
    """
    from loid_infer.verbs.report import report as verb

    show(verb(domain, workspace=place(workspace), progress=People(quiet=quiet)), as_json=json)
