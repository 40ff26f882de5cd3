"""Commands that make tables of reviews: sample, ingest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from loid_infer.cli.declare import command
from loid_infer.cli.options import DomainOption, SeedOption
from loid_infer.errors import BadSetting
from loid_infer.settings import SAMPLE_DOMAINS


@command("sample.sample")
def sample(
    domains: Annotated[
        list[str] | None,
        typer.Option(
            "--domain",
            "-d",
            help=f"A domain to write; repeat for more. By default {', '.join(SAMPLE_DOMAINS)}.",
            show_default=False,
        ),
    ] = None,
    n_reviews: Annotated[int, typer.Option(help="Reviews per domain.", min=1)] = 2000,
    seed: SeedOption = 0,
) -> None:
    """Write synthetic reviews with a known structure (docs/sample.md).

    Example: loid-infer sample --domain video_games --n-reviews 5000
    """


def _mapping(columns: str) -> dict[str, str]:
    pairs = [part.split("=", 1) for part in columns.split(",")]
    if any(len(pair) != 2 or not pair[0].strip() or not pair[1].strip() for pair in pairs):
        raise BadSetting(
            "not a list of columns",
            where="--columns",
            expected="user_id=..,item_id=..,rating=..,text=..",
            got=columns,
            fix="Name the source's column after each =.",
        )
    return {name.strip(): column.strip() for name, column in pairs}


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not low < high:
        raise BadSetting(
            "not a range of ratings",
            where="--rating-range",
            expected="LOW,HIGH like 1,5",
            got=text,
            fix="Give --rating-range 1,5.",
        )
    return low, high


@command("ingest.ingest")
def ingest(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC...", help="Review files, read in the given order.")],
    domain: DomainOption,
    format: Annotated[
        str, typer.Option(help="auto | amazon2014 | amazon2018 | amazon2023 | jsonl | csv | tsv | parquet")
    ] = "auto",
    columns: Annotated[
        Any,
        typer.Option(
            parser=_mapping,
            metavar="TEXT",
            help="Names of the source's columns: user_id=..,item_id=..,rating=..,text=..,timestamp=..",
            show_default=False,
        ),
    ] = None,
    duplicates: Annotated[
        str, typer.Option(help="Reviews of the same user and item: keep-last | keep-first | error")
    ] = "keep-last",
    on_bad: Annotated[str, typer.Option(help="Bad lines: error | skip")] = "error",
    rating_range: Annotated[
        Any, typer.Option(parser=_range, metavar="LOW,HIGH", help="Lowest and highest valid rating.")
    ] = "1,5",
) -> None:
    """Read review files into a domain's table.

    Example: loid-infer ingest reviews_Musical_Instruments_5.json.gz --domain musical_instruments
    """
