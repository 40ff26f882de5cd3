"""Commands on ranking heads over texts: llmrec fit."""

from __future__ import annotations

from typing import Annotated

import typer

from loid_infer.cli.declare import command
from loid_infer.cli.options import DomainsOption, EncoderOption, RankSplitOption, SeedOption, TemplateOption
from loid_infer.rankers.settings import DEFAULT_RANK_OPTIONS, RankOptions
from loid_infer.settings import TEMPLATE


@command("rank.llmrec_fit")
def fit(
    domains: DomainsOption,
    head: Annotated[str, "sequence (texts) | sequence+id (texts and IDs)"] = "sequence+id",
    text_only: Annotated[bool, "Rank by the similarity of texts, without training."] = False,
    encoder: EncoderOption = None,
    template: TemplateOption = TEMPLATE,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Name of the head. By default DOMAIN-HEAD.")] = None,
    settings: RankOptions = DEFAULT_RANK_OPTIONS,
    split: RankSplitOption = "leave-one-out",
    seed: SeedOption = 0,
) -> None:
    """Train a head that ranks items by their texts, from stored vectors. Texts that are not stored are encoded first.

    Example: loid-infer llmrec fit --domain video_games --text-only
    """
