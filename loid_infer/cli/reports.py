"""The commands report and doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from loid_infer.cli.declare import command


@command("report.report")
def report(
    domain: Annotated[
        str | None, typer.Option("--domain", "-d", help="Only this domain. By default all.", show_default=False)
    ] = None,
) -> None:
    """Write a self-contained HTML report of everything that was measured.

    Example: loid-infer report
    """


@command("doctor.doctor")
def doctor() -> None:
    """Report versions, runtimes and common problems of this machine.

    Example: loid-infer doctor
    """
