"""The commands report and doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from loid_infer.cli.declare import command


@command("report.report")
def report(
    domain: Annotated[
        str | None, typer.Option("--domain", "-d", help="Only this one; all by default.", show_default=False)
    ] = None,
) -> None:
    """Write one self-contained HTML page of all that was measured.

    Example: loid-infer report
    """


@command("doctor.doctor")
def doctor() -> None:
    """Tell what this machine can run, and what is wrong with it.

    Example: loid-infer doctor
    """
