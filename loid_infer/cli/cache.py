"""Commands on stored vectors: cache info, verify, salvage, compact, gc, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loid_infer.cli.options import (
    DomainOption,
    EncoderOption,
    JsonOption,
    QuietOption,
    SeedOption,
    WorkspaceOption,
    place,
)
from loid_infer.cli.terminal import EXIT_USER, People, show


def info(workspace: WorkspaceOption = None, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """List the stores: encoder, rows, bytes.

    Example: loid-infer cache info
    """
    from loid_infer.verbs.cache import cache_info as verb

    show(verb(workspace=place(workspace)), as_json=json)


def verify(
    encoder: EncoderOption = None,
    reencode: Annotated[int, typer.Option(help="Also compute so many random texts a store anew.", min=0)] = 0,
    seed: SeedOption = 0,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check every checksum and index entry; exit 2 when something is bad.

    Example: loid-infer cache verify --reencode 200
    """
    from loid_infer.verbs.cache import cache_verify as verb

    result = verb(encoder=encoder, reencode=reencode, seed=seed, workspace=place(workspace),
                  progress=People(quiet=quiet))  # fmt: skip
    show(result, as_json=json)
    if result.n_bad:
        raise typer.Exit(EXIT_USER)


def salvage(
    encoder: EncoderOption = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Keep the sound chunks of a damaged store; says what must be encoded again.

    Example: loid-infer cache salvage
    """
    from loid_infer.verbs.upkeep import cache_salvage as verb

    show(verb(encoder=encoder, workspace=place(workspace), progress=People(quiet=quiet)), as_json=json)


def compact(
    encoder: EncoderOption = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write stores anew, as small as they can be.

    Example: loid-infer cache compact
    """
    from loid_infer.verbs.upkeep import cache_compact as verb

    show(verb(encoder=encoder, workspace=place(workspace), progress=People(quiet=quiet)), as_json=json)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Drop stores that no encoder or head refers to, and rows no domain uses.

    Example: loid-infer cache gc --dry-run
    """
    from loid_infer.verbs.upkeep import cache_gc as verb

    show(verb(dry_run=dry_run, workspace=place(workspace), progress=People(quiet=quiet)), as_json=json)


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


def import_(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A .safetensors bundle, or a store's folder.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take in vectors computed elsewhere with an encoder of this workspace.

    Example: loid-infer cache import shard-2/cache/0c9260bec55319947e73876fb90c5a26
    """
    from loid_infer.verbs.imports import cache_import as verb

    show(verb(source, workspace=place(workspace), progress=People(quiet=quiet)), as_json=json)
