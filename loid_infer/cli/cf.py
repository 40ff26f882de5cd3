"""Commands on collaborative models: cf fit."""

from __future__ import annotations

from typing import Annotated

import typer

from loid_infer.cli.declare import command
from loid_infer.cli.options import DomainsOption, RankSplitOption, SeedOption
from loid_infer.rankers.settings import DEFAULT_RANK_OPTIONS, RankOptions


@command("rank.cf_fit")
def fit(
    domains: DomainsOption,
    model: Annotated[str, "popularity | recent | cooccurrence | mf | lightgcn | sasrec"] = "sasrec",
    name: Annotated[str | None, typer.Option("--name", "-n", help="Name of the head. By default DOMAIN-MODEL.")] = None,
    settings: RankOptions = DEFAULT_RANK_OPTIONS,
    split: RankSplitOption = "leave-one-out",
    seed: SeedOption = 0,
) -> None:
    """Train a head that ranks items by interactions alone.

    Example: loid-infer cf fit --domain video_games --model sasrec
    """
