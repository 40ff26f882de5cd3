"""Commands that train and use heads: fit, score."""

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
    SplitOption,
    SplitSeedOption,
    WorkspaceOption,
    place,
)
from loid_infer.cli.terminal import People, show


def fit(
    domain: DomainOption,
    encoder: EncoderOption = None,
    preset: Annotated[str, typer.Option(help="default | paper")] = "default",
    protocol: Annotated[
        str, typer.Option(help="strict: never shows the target review | paper: does, as the paper")
    ] = "strict",
    name: Annotated[str | None, typer.Option(help="Of the head; the domain's by default.", show_default=False)] = None,
    k: Annotated[int, typer.Option(help="Reviews drawn of a user and of an item.", min=1)] = 5,
    lam: Annotated[float, typer.Option(help="Weight of the triplet loss.", min=0)] = 0.2,
    margin: Annotated[
        float | None, typer.Option(help="Of the triplet loss; the preset's by default.", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="At most; the preset's by default.", min=1, show_default=False)
    ] = None,
    split: SplitOption = "random",
    split_seed: SplitSeedOption = None,
    seed: SeedOption = 0,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train the recommender head of a domain from its stored vectors.

    Example: loid-infer fit --domain video_games
    """
    from loid_infer.verbs.fit import fit as verb

    show(
        verb(
            domain,
            encoder=encoder,
            preset=preset,
            protocol=protocol,
            name=name,
            k=k,
            lam=lam,
            margin=margin,
            epochs=epochs,
            split=split,
            split_seed=split_seed,
            seed=seed,
            workspace=place(workspace),
            progress=People(quiet=quiet),
        ),
        as_json=json,
    )


def score(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="Parquet or CSV with user_id, item_id.")],
    domain: Annotated[
        str | None,
        typer.Option(
            "--domain",
            "-d",
            help="Of all pairs; else their column `domain`, else the only head there is.",
            show_default=False,
        ),
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="A head's name; the domain's by default.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Parquet or CSV; PAIRS.scores.parquet by default.", show_default=False)
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Predict the rating of every pair, unknown users and items included.

    Example: loid-infer score ratings.parquet --domain video_games
    """
    from loid_infer.verbs.score import score as verb

    show(
        verb(pairs, domain=domain, head=head, out=out, workspace=place(workspace), progress=People(quiet=quiet)),
        as_json=json,
    )
