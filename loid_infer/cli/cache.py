"""Commands on stored vectors: cache info, verify, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loid_infer.cli.options import DomainOption, EncoderOption, JsonOption, QuietOption, WorkspaceOption, place
from loid_infer.cli.terminal import EXIT_USER, People, show


def info(workspace: WorkspaceOption = None, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """List the stores: encoder, rows, bytes.

    Example: loid-infer cache info
    """
    from loid_infer.verbs.cache import cache_info as verb

    show(verb(workspace=place(workspace)), as_json=json)


def verify(
    encoder: EncoderOption = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check every checksum and index entry; exit 2 when something is bad.

    Example: loid-infer cache verify
    """
    from loid_infer.verbs.cache import cache_verify as verb

    result = verb(encoder=encoder, workspace=place(workspace), progress=People(quiet=quiet))
    show(result, as_json=json)
    if result.n_bad:
        raise typer.Exit(EXIT_USER)


def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A .parquet or .safetensors file.")],
    domain: DomainOption,
    encoder: EncoderOption = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a domain's vectors in review order.

    Example: loid-infer cache export --domain video_games vectors.parquet
    """
    from loid_infer.verbs.cache import cache_export as verb

    show(verb(domain, out, encoder=encoder, workspace=place(workspace), progress=People(quiet=quiet)), as_json=json)
