"""The options that many commands share, written once."""

from __future__ import annotations

from typing import Annotated

import typer

DomainOption = Annotated[
    str, typer.Option("--domain", "-d", help="Product category, e.g. video_games.", show_default=False)
]
EncoderOption = Annotated[
    str | None,
    typer.Option(
        "--encoder", "-e", help="An export's name; the domain's own or `base` by default.", show_default=False
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Of everything random.")]
BaseOption = Annotated[
    str,
    typer.Option(
        help="A folder of Hugging Face or sentence-transformers, a GGUF file, a hub name, or `default`: the bundled "
        "all-MiniLM-L6-v2."
    ),
]
MaxTokensOption = Annotated[
    int | None,
    typer.Option(
        help="Longest input; by default as the base says, else 256. Longer texts are cut on the right.",
        show_default=False,
    ),
]
SplitOption = Annotated[str, typer.Option(help="random | time")]
SplitSeedOption = Annotated[int | None, typer.Option(help="Of the split; --seed by default.", show_default=False)]
PresetOption = Annotated[str, typer.Option(help="default | paper")]
ProtocolOption = Annotated[str, typer.Option(help="strict: never shows the target review | paper: does, as the paper")]
KOption = Annotated[int, typer.Option("--k", help="Reviews drawn of a user and of an item.", min=1)]
LamOption = Annotated[float, typer.Option("--lam", help="Weight of the triplet loss.", min=0)]
MarginOption = Annotated[
    float | None, typer.Option(help="Of the triplet loss; the preset's by default.", show_default=False)
]
EpochsOption = Annotated[int | None, typer.Option(help="At most; the preset's by default.", min=1, show_default=False)]
HeadsOption = Annotated[
    int | None, typer.Option("--n-heads", help="Of attention; the preset's by default.", min=1, show_default=False)
]
DropoutOption = Annotated[float | None, typer.Option(help="The preset's by default.", min=0, show_default=False)]
DeviceOption = Annotated[str, typer.Option(help="auto | cpu | cuda")]
