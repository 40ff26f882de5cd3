"""Commands on plugins: plugin train, merge, import, list, show, similarity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import structs

from loid_infer.cli.declare import command
from loid_infer.cli.options import (
    BaseOption,
    DeviceOption,
    DomainOption,
    MaxTokensOption,
    SeedOption,
    SplitOption,
    SplitSeedOption,
)
from loid_infer.errors import BadSetting
from loid_infer.plugins.settings import DEFAULT_SETTINGS, TrainSettings
from loid_infer.settings import DEFAULT_BASE

_NameOption = Annotated[str, typer.Option("--name", "-n", help="Name of the new plugin.")]


@command("train.plugin_train")
def train(
    domain: DomainOption,
    on: Annotated[
        list[str] | None, "A plugin to train on top of, which stays frozen; repeat for more. By default none."
    ] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Name of the plugin. By default the domain.")] = None,
    base: BaseOption = DEFAULT_BASE,
    settings: TrainSettings = DEFAULT_SETTINGS,
    split: SplitOption = "random",
    split_seed: SplitSeedOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Train a LoRA plugin to predict ratings from a domain's reviews. Run again, it continues where it was killed.

    Example: loid-infer plugin train --domain video_games --on electronics
    """


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        fix = "Give one number per plugin, like 1,0.5."
        raise BadSetting("not a list of numbers", where="--weights", got=text or "''", fix=fix) from None


@command("plugins.plugin_merge")
def merge(
    plugins: Annotated[
        list[str], typer.Argument(metavar="P1 P2...", help="Plugins of the same base, trained on the same plugins.")
    ],
    name: _NameOption,
    method: Annotated[str, "linear | ties | dare | dare_ties"],
    weights: Annotated[
        Any, typer.Option(parser=_numbers, metavar="W1,W2,...", help="Weight of each plugin. By default 1.")
    ] = None,
    density: Annotated[float | None, "Fraction of entries to keep (not for linear). By default 0.8."] = None,
    rank: Annotated[
        int | None, typer.Option(help="Keep the best approximation of this rank, as a peft folder.", min=1)
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Merge plugins into one; the result does not depend on their order.

    Example: loid-infer plugin merge electronics movies_tv --name both --method ties
    """


@command("plugins.plugin_import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a LoRA adapter saved by peft.")],
    name: _NameOption,
    base: BaseOption = DEFAULT_BASE,
    same_base: Annotated[bool, "The base is the one that the adapter names, under another name."] = False,
) -> None:
    """Import a LoRA adapter that was trained elsewhere.

    Example: loid-infer plugin import my-adapter --name mine
    """


def _short(result: Any) -> Any:
    """Digests are shortened to leave room for names."""
    return replace(result, plugins=tuple(replace(plugin, digest=plugin.digest[:16]) for plugin in result.plugins))


@command("plugins.plugin_list", people=_short)
def list_() -> None:
    """List the plugins with their domains and parents.

    Example: loid-infer plugin list
    """


@command("plugins.plugin_show")
def show_(name: Annotated[str, typer.Argument(metavar="P", help="Name of a plugin.")]) -> None:
    """Check a plugin's files and print its manifest.

    Example: loid-infer plugin show electronics
    """


def _matrix(result: Any) -> dict[str, Any]:
    fields = structs.asdict(result)
    domains, matrix = fields.pop("domains"), fields.pop("matrix")
    # An empty heading cannot be the name of a domain.
    rows = [{"": domain, **dict(zip(domains, row, strict=True))} for domain, row in zip(domains, matrix, strict=True)]
    return {**fields, "mean cosines": rows}


@command("similarity.plugin_similarity", people=_matrix)
def similarity(
    domains: Annotated[list[str], typer.Argument(metavar="DOMAIN...", help="Two or more domains.")],
    pooling: Annotated[str, "Pooling: mean | cls | last"] = "mean",
    n_texts: Annotated[int, typer.Option(help="Reviews sampled from each domain.", min=1)] = 100,
    base: BaseOption = DEFAULT_BASE,
    max_tokens: MaxTokensOption = None,
    seed: SeedOption = 0,
) -> None:
    """Compare domains by the mean cosine similarity of their reviews, with a heat map in reports/.

    Example: loid-infer plugin similarity video_games movies_tv
    """
