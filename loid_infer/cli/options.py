"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

DomainOption = Annotated[
    str, typer.Option("--domain", "-d", help="Name of the domain, for example video_games.", show_default=False)
]
EncoderOption = Annotated[
    str | None,
    typer.Option(
        "--encoder", "-e", help="Name of an export. By default that of the domain, else `base`.", show_default=False
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Random seed.")]
BaseOption = Annotated[
    str,
    typer.Option(
        help="Base model: a Hugging Face or sentence-transformers folder, a GGUF file, a hub name, or `default`, the "
        "bundled all-MiniLM-L6-v2."
    ),
]
MaxTokensOption = Annotated[
    int | None,
    typer.Option(
        help="Maximum number of tokens; longer texts are truncated on the right. By default what the base says, else "
        "256.",
        show_default=False,
    ),
]
SplitOption = Annotated[str, typer.Option(help="Kind of split: random | time.")]
SplitSeedOption = Annotated[
    int | None, typer.Option(help="Random seed of the split. By default that of --seed.", show_default=False)
]
DeviceOption = Annotated[str, typer.Option(help="auto | cpu | cuda")]
