"""Commands on decoders and collaborative models that are trained together: bdlm pairs and fit."""

from __future__ import annotations

from typing import Annotated

import typer

from loid_infer.cli.declare import command
from loid_infer.cli.options import (
    DecoderOption,
    DeviceOption,
    DomainOption,
    EncoderOption,
    SeedOption,
    TemplateOption,
    TitleTokensOption,
)
from loid_infer.clicks.settings import DEFAULT_BDLM_SETTINGS, BdlmSettings
from loid_infer.settings import TEMPLATE, TITLE_TOKENS


@command("drawing.bdlm_pairs")
def pairs(
    domain: DomainOption,
    negatives: Annotated[int, typer.Option(help="Items of each test target that its user never met.", min=1)] = 19,
    training: Annotated[
        str, "How the negative of each training interaction is drawn: even | popular, as half of those of test."
    ] = "even",
    users: Annotated[
        int | None, typer.Option(help="Users whose targets are tested, drawn at random. By default all.", min=1)
    ] = None,
    encoder: EncoderOption = None,
    template: TemplateOption = TEMPLATE,
    seed: SeedOption = 0,
) -> None:
    """Draw labeled pairs from a domain's interactions: each with items that its user never met, for test half of them
    popular and half with the nearest titles.

    Example: loid-infer bdlm pairs --domain movies
    """


@command("bdlm.bdlm_fit")
def fit(
    domain: DomainOption,
    base: DecoderOption,
    cf: Annotated[
        str | None, "Head of `cf fit --clicks` with mf or lightgcn. By default the best of them on validation."
    ] = None,
    prompt: Annotated[
        str | None,
        "The question, with {history}, {title}, {user}, {item}; to choose with {user}, {history}, {candidates}.",
    ] = None,
    title_tokens: TitleTokensOption = TITLE_TOKENS,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", "-n", help="Name of the encoder and, with -llm and -drs, of two heads; DOMAIN-bdlm[-choose]."
        ),
    ] = None,
    settings: BdlmSettings = DEFAULT_BDLM_SETTINGS,
    device: DeviceOption = "auto",
) -> None:
    """Train a decoder with tokens of users and items together with a collaborative model. Run again, it continues.

    Example: loid-infer bdlm fit --domain movies --base SmolLM2-135M-Instruct
    """
