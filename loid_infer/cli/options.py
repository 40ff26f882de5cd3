"""The options that many commands share, written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loid_infer.settings import Workspace

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "-w",
        "--workspace",
        help="Folder that holds data/, exports/ and cache/; $LOID_WORKSPACE, else the current folder.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")]
DomainOption = Annotated[
    str, typer.Option("--domain", "-d", help="Product category, e.g. video_games.", show_default=False)
]
EncoderOption = Annotated[
    str | None,
    typer.Option(
        "--encoder", "-e", help="An export's name; the domain's own or `base` by default.", show_default=False
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Of everything random.")]


def place(workspace: Path | None) -> Workspace:
    """The workspace that was given, else the default one."""
    return Workspace.of(workspace)
