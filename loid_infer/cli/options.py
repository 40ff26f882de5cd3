"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from loid_infer.settings import MAX_SEED

DomainOption = Annotated[str, "Name of the data set, chosen at ingest, for example video_games."]
DomainsOption = Annotated[list[str], "Name of a data set, chosen at ingest; repeat for ranking heads of several."]
EncoderOption = Annotated[str | None, "Name of an encoder. By default the one named like the domain, else `base`."]
SeedOption = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Random seed.")]
BaseOption = Annotated[
    str,
    "Base model: a Hugging Face or sentence-transformers folder, a GGUF file, a hub name, or `default`, the bundled "
    "all-MiniLM-L6-v2.",
]
MaxTokensOption = Annotated[
    int | None,
    "Maximum number of tokens; longer texts are truncated on the right. By default what the base says, else 256.",
]
SplitOption = Annotated[str, "Kind of split: random | time."]
SplitSeedOption = Annotated[int | None, "Random seed of the split. By default --seed."]
QuotingOption = Annotated[
    str, "Quotes in CSV and TSV: auto | standard | backslash (quotes escaped by one) | none (ordinary characters)."
]
DecoderOption = Annotated[str, "A decoder: a Hugging Face folder, a GGUF file, or a hub name."]
DeviceOption = Annotated[str, "auto | cpu | cuda"]
TemplateOption = Annotated[str, "Text of an item, with the fields title, brand, category and description."]
RankSplitOption = Annotated[str, "Kind of split: leave-one-out | time."]
TitleTokensOption = Annotated[
    int, typer.Option(min=1, help="Tokens after which the text of an item is cut where histories are joined.")
]
