"""Commands on decoders that answer whether a user likes an item: cora fit."""

from __future__ import annotations

from typing import Annotated

import typer

from loid_infer.cli.declare import command
from loid_infer.cli.options import DeviceOption, DomainOption, TitleTokensOption
from loid_infer.clicks.settings import DEFAULT_CORA_SETTINGS, PROMPT, CoraSettings
from loid_infer.settings import TITLE_TOKENS


@command("cora.cora_fit")
def fit(
    domain: DomainOption,
    base: Annotated[str, "A decoder: a Hugging Face folder, a GGUF file, or a hub name."],
    cf: Annotated[
        str | None, "Collaborative head of `cf fit --clicks`. By default the one with the best validation AUC."
    ] = None,
    text_only: Annotated[bool, "Let the decoder answer by titles alone, without training."] = False,
    encoder: Annotated[str | None, "With --text-only, an export of the base. By default it is exported."] = None,
    prompt: Annotated[str, "The question, with {history} and {title}."] = PROMPT,
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
