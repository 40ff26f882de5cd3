"""The command that compares domains: plugin similarity."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from loid_infer.cli.options import (
    BaseOption,
    JsonOption,
    MaxTokensOption,
    QuietOption,
    SeedOption,
    WorkspaceOption,
    place,
)
from loid_infer.cli.terminal import People, show
from loid_infer.settings import DEFAULT_BASE


def similarity(
    domains: Annotated[list[str], typer.Argument(metavar="DOMAIN...", help="Domains that were ingested, two or more.")],
    pooling: Annotated[str, typer.Option(help="One vector of a text's tokens: mean | cls")] = "mean",
    n_texts: Annotated[int, typer.Option(help="Reviews drawn of each domain.", min=1)] = 100,
    base: BaseOption = DEFAULT_BASE,
    max_tokens: MaxTokensOption = None,
    seed: SeedOption = 0,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare domains by the mean cosine of their reviews, with a heat map in reports/.

    Example: loid-infer plugin similarity video_games movies_tv
    """
    from loid_infer.verbs.similarity import plugin_similarity as verb

    result = verb(
        domains,
        base=base,
        pooling=pooling,
        n_texts=n_texts,
        max_tokens=max_tokens,
        seed=seed,
        workspace=place(workspace),
        progress=People(quiet=quiet),
    )
    if json:
        show(result, as_json=True)
        return
    rows = zip(result.domains, result.matrix, strict=True)
    # A head of its own for the first column cannot be a domain's name if it is empty.
    matrix = [{"": domain, **dict(zip(result.domains, values, strict=True))} for domain, values in rows]
    rest = {name: value for name, value in asdict(result).items() if name not in ("domains", "matrix")}
    show({**rest, "mean cosines": matrix}, as_json=False)
