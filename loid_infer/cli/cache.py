"""Commands on the stores of vectors: cache info, verify, salvage, compact, gc, export, import."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from loid_infer.cli.declare import command
from loid_infer.cli.options import DomainOption, EncoderOption, SeedOption

_StoreOption = Annotated[str | None, "Name of an encoder: only its store. By default all stores."]


def _columns(result: Any) -> dict[str, Any]:
    """What fits into 80 columns."""
    fields = asdict(result)
    names = ("fingerprint", "encoders", "precision", "n_rows", "file_bytes")
    return fields | {"stores": [{name: store[name] for name in names} for store in fields["stores"]]}


@command("cache.cache_info", people=_columns)
def info() -> None:
    """List the stores with their encoders, rows and sizes.

    Example: loid-infer cache info
    """


@command("cache.cache_verify", bad=lambda check: check.n_bad > 0)
def verify(
    encoder: _StoreOption = None,
    reencode: Annotated[
        int, typer.Option(help="Also encode this many random texts of each store again and compare.", min=0)
    ] = 0,
    seed: SeedOption = 0,
) -> None:
    """Check every checksum and index entry. Exit code 2 if something is damaged.

    Example: loid-infer cache verify --reencode 200
    """


@command("upkeep.cache_salvage")
def salvage(encoder: _StoreOption = None) -> None:
    """Keep the undamaged chunks of a damaged store and say what must be encoded again.

    Example: loid-infer cache salvage
    """


@command("upkeep.cache_compact")
def compact(encoder: _StoreOption = None) -> None:
    """Rewrite stores with full chunks and pages, which makes them as small as possible.

    Example: loid-infer cache compact
    """


@command("upkeep.cache_gc")
def gc(dry_run: Annotated[bool, "Only say what would be removed."] = False) -> None:
    """Collect garbage: remove stores that no encoder or head refers to, and vectors that no domain or head uses.

    Example: loid-infer cache gc --dry-run
    """


@command("cache.cache_export")
def export(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Output file or address: .parquet or .safetensors.")],
    domain: DomainOption,
    encoder: EncoderOption = None,
) -> None:
    """Write a domain's vectors to a file, in review order.

    Example: loid-infer cache export --domain video_games vectors.parquet
    """


@command("cache.cache_import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A .safetensors file of `cache export` or `encode --shard`, or the folder of a store; or its address.",
        ),
    ],
) -> None:
    """Import vectors that another machine computed with an encoder of this workspace.

    Example: loid-infer cache import shard-2/cache/0c9260bec55319947e73876fb90c5a26
    """
