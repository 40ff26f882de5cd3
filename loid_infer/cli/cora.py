"""Commands on decoders that answer whether a user likes an item: cora fit, train."""

from __future__ import annotations

from typing import Annotated

import typer

from loid_infer.cli.declare import command
from loid_infer.cli.options import DecoderOption, DeviceOption, DomainOption, TitleTokensOption
from loid_infer.clicks.settings import (
    DEFAULT_ANSWER_SETTINGS,
    DEFAULT_CORA_SETTINGS,
    PROMPT,
    AnswerSettings,
    CoraSettings,
)
from loid_infer.settings import TITLE_TOKENS

_PromptOption = Annotated[str, "The question, with {history} and {title}."]


@command("cora.cora_fit")
def fit(
    domain: DomainOption,
    base: DecoderOption,
    cf: Annotated[
        str | None, "Collaborative head of `cf fit --clicks`. By default the one with the best validation AUC."
    ] = None,
    text_only: Annotated[bool, "Let the decoder answer by titles alone, without training."] = False,
    encoder: Annotated[str | None, "With --text-only, an export of the base. By default it is exported."] = None,
    prompt: _PromptOption = PROMPT,
    title_tokens: TitleTokensOption = TITLE_TOKENS,
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Name of the head. By default DOMAIN-cora-MODEL or DOMAIN-text.")
    ] = None,
    settings: CoraSettings = DEFAULT_CORA_SETTINGS,
    device: DeviceOption = "auto",
) -> None:
    """Train increments of a frozen decoder's weights from collaborative vectors (CoRA). Run again, it continues.

    Example: loid-infer cora fit --domain movies --base SmolLM2-135M-Instruct
    """


@command("tallrec.cora_train")
def train(
    domain: DomainOption,
    base: DecoderOption,
    on: Annotated[
        list[str] | None, "A plugin to train on top of, which stays frozen; repeat for more. By default none."
    ] = None,
    prompt: _PromptOption = PROMPT,
    title_tokens: TitleTokensOption = TITLE_TOKENS,
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Name of plugin, encoder and head. By default DOMAIN-tallrec.")
    ] = None,
    settings: AnswerSettings = DEFAULT_ANSWER_SETTINGS,
    device: DeviceOption = "auto",
) -> None:
    """Train a decoder with LoRA to answer by titles (TALLRec), export it, and fit a head. Run again, it continues.

    Example: loid-infer cora train --domain movies --base SmolLM2-135M-Instruct
    """
