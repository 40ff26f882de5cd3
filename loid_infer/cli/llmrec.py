"""Commands on ranking heads over texts: llmrec fit, train."""

from __future__ import annotations

from typing import Annotated

import typer

from loid_infer.cli.declare import command
from loid_infer.cli.options import (
    BaseOption,
    DeviceOption,
    DomainsOption,
    EncoderOption,
    RankSplitOption,
    SeedOption,
    TemplateOption,
    TitleTokensOption,
)
from loid_infer.plugins.settings import DEFAULT_RANK_TRAIN_SETTINGS, RankTrainSettings
from loid_infer.rankers.settings import DEFAULT_RANK_OPTIONS, RankOptions
from loid_infer.settings import DEFAULT_BASE, TEMPLATE, TITLE_TOKENS


@command("rank.llmrec_fit")
def fit(
    domains: DomainsOption,
    head: Annotated[str, "sequence (texts) | sequence+id (texts and IDs)"] = "sequence+id",
    text_only: Annotated[bool, "Rank by the similarity of texts, without training."] = False,
    history: Annotated[str, "With --text-only, a user is the: mean (of titles) | joined (titles, one text)"] = "mean",
    title_tokens: TitleTokensOption = TITLE_TOKENS,
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


@command("llmrec.llmrec_train")
def train(
    domains: DomainsOption,
    on: Annotated[
        list[str] | None, "A plugin to train on top of, which stays frozen; repeat for more. By default none."
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Name of plugin, encoder and head. By default DOMAIN_llmrec.")
    ] = None,
    base: BaseOption = DEFAULT_BASE,
    pooling: Annotated[str, "Pooling: auto | cls | mean | last"] = "auto",
    template: TemplateOption = TEMPLATE,
    title_tokens: TitleTokensOption = TITLE_TOKENS,
    settings: RankTrainSettings = DEFAULT_RANK_TRAIN_SETTINGS,
    split: RankSplitOption = "leave-one-out",
    device: DeviceOption = "auto",
) -> None:
    """Train the encoder with LoRA to rank next items by texts, export it, and fit a head. Run again, it continues.

    Example: loid-infer llmrec train --domain video_games
    """
