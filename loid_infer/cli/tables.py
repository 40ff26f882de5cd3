"""Commands that make tables of reviews: sample, ingest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loid_infer.cli.options import DomainOption, JsonOption, QuietOption, SeedOption, WorkspaceOption, place
from loid_infer.cli.terminal import People, show
from loid_infer.errors import BadSetting
from loid_infer.settings import SAMPLE_DOMAINS


def sample(
    domain: Annotated[
        list[str] | None,
        typer.Option(
            "--domain",
            "-d",
            help=f"Domains to write; repeat for more. By default {', '.join(SAMPLE_DOMAINS)}.",
            show_default=False,
        ),
    ] = None,
    n_reviews: Annotated[int, typer.Option(help="Reviews per domain.", min=1)] = 2000,
    seed: SeedOption = 0,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write synthetic reviews with a planted, documented structure.

    Example: loid-infer sample --domain video_games --n-reviews 5000
    """
    from loid_infer.verbs.sample import sample as verb

    show(
        verb(domain or None, n_reviews=n_reviews, seed=seed, workspace=place(workspace), progress=People(quiet=quiet)),
        as_json=json,
    )


def ingest(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC...", help="Review files, read in this order.")],
    domain: DomainOption,
    format: Annotated[
        str, typer.Option(help="auto | amazon2014 | amazon2018 | amazon2023 | jsonl | csv | tsv | parquet")
    ] = "auto",
    columns: Annotated[
        str | None, typer.Option(help="user_id=..,item_id=..,rating=..,text=..,timestamp=..", show_default=False)
    ] = None,
    duplicates: Annotated[
        str, typer.Option(help="Same user and item twice: keep-last | keep-first | error")
    ] = "keep-last",
    on_bad: Annotated[str, typer.Option(help="A bad line: error | skip")] = "error",
    rating_range: Annotated[str, typer.Option(help="Lowest and highest rating.")] = "1,5",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Read review files into the domain's canonical table.

    Example: loid-infer ingest reviews_Musical_Instruments_5.json.gz --domain musical_instruments
    """
    from loid_infer.verbs.ingest import ingest as verb

    show(
        verb(
            sources,
            domain,
            format=format,
            columns=_mapping(columns),
            duplicates=duplicates,
            on_bad=on_bad,
            rating_range=_range(rating_range),
            workspace=place(workspace),
            progress=People(quiet=quiet),
        ),
        as_json=json,
    )


def _mapping(columns: str | None) -> dict[str, str] | None:
    if columns is None:
        return None
    pairs = [part.split("=", 1) for part in columns.split(",")]
    if any(len(pair) != 2 or not pair[0].strip() or not pair[1].strip() for pair in pairs):
        raise BadSetting(
            "not a list of columns",
            where="--columns",
            expected="user_id=..,item_id=..,rating=..,text=..",
            got=columns,
            mend="Name the source's column after each =.",
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
            mend="Give --rating-range 1,5.",
        )
    return low, high
