"""Commands on plugins: plugin train, merge, import, list, show, similarity."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import to_builtins

from loid_infer.architectures.family import TARGETS
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
from loid_infer.plugins.settings import TrainSettings
from loid_infer.settings import DEFAULT_BASE, DEFAULT_MAX_TOKENS

_NameOption = Annotated[str, typer.Option("--name", "-n", help="Of the new plugin.", show_default=False)]


def _train(max_tokens: int | None, targets: str | None, **options: Any) -> Any:
    from loid_infer.verbs.train import plugin_train

    names = () if targets is None else tuple(dict.fromkeys(part.strip() for part in targets.split(",")))
    given = {field.name: options.pop(field.name) for field in fields(TrainSettings) if field.name in options}
    settings = TrainSettings(**given, targets=names, max_tokens=max_tokens or DEFAULT_MAX_TOKENS)
    return plugin_train(**options, settings=settings)


@command(_train)
def train(
    domain: DomainOption,
    on: Annotated[
        list[str],
        typer.Option(help="A plugin that stays frozen beneath; repeat for more. None by default.", show_default=False),
    ] = [],  # noqa: B006 - typer makes a list of its own
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Of the plugin; the domain's by default.", show_default=False)
    ] = None,
    base: BaseOption = DEFAULT_BASE,
    rank: Annotated[int, typer.Option(help="Of LoRA's factors.", min=1)] = 32,
    alpha: Annotated[
        float | None, typer.Option(help="B A is scaled by alpha / rank; the rank by default.", show_default=False)
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            help=f"Linear maps that get LoRA, of {','.join(TARGETS)}; all that the base has by default.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help="How many of the top layers; all by default.", min=1, show_default=False)
    ] = None,
    epochs: Annotated[int, typer.Option(help="At most; ends early when validation stalls.", min=1)] = 3,
    learning_rate: Annotated[float, typer.Option(help="At its highest, after the warm-up.")] = 1e-3,
    max_tokens: MaxTokensOption = None,
    evals: Annotated[int, typer.Option(help="Validations an epoch.", min=1)] = 2,
    split: SplitOption = "random",
    split_seed: SplitSeedOption = None,
    seed: SeedOption = 0,
    precision: Annotated[str, typer.Option(help="Of the frozen part: auto | fp32 | bf16")] = "auto",
    device: DeviceOption = "auto",
) -> None:
    """Teach the encoder a domain: LoRA learns ratings from its reviews. Run it again to go on after a kill.

    Example: loid-infer plugin train --domain video_games --on electronics
    """


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise BadSetting("not a list of weights", where="--weights", expected="numbers like 1,0.5", got=text or "''",
                         mend="Give one number for each plugin, with commas between.") from None  # fmt: skip


@command("plugins.plugin_merge")
def merge(
    plugins: Annotated[list[str], typer.Argument(metavar="P1 P2...", help="Plugins of one base and one chain.")],
    name: _NameOption,
    method: Annotated[str, typer.Option(help="linear | ties | dare | dare_ties", show_default=False)],
    weights: Annotated[
        Any,
        typer.Option(parser=_numbers, metavar="TEXT", help="One each, like 1,0.5; 1 by default.", show_default=False),
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="Share of entries kept, 0.8 by default; linear has none.", show_default=False)
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(help="Keep the best approximation of this rank, as a peft folder.", min=1, show_default=False),
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Merge what plugins add into one plugin; their order changes nothing.

    Example: loid-infer plugin merge electronics movies_tv --name both --method ties
    """


@command("plugins.plugin_import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="A LoRA adapter saved by peft.")],
    name: _NameOption,
    base: BaseOption = DEFAULT_BASE,
) -> None:
    """Bring in a LoRA adapter that was trained elsewhere.

    Example: loid-infer plugin import my-adapter --name mine
    """


def _short(found: Any) -> Any:
    """Whole digests would leave no room for names."""
    return replace(found, plugins=tuple(replace(plugin, digest=plugin.digest[:16]) for plugin in found.plugins))


@command("plugins.plugin_list", people=_short)
def list_() -> None:
    """List the plugins: how each was made, of which domains, on what.

    Example: loid-infer plugin list
    """


@command("plugins.plugin_show")
def show_(name: Annotated[str, typer.Argument(metavar="P", help="A plugin's name.")]) -> None:
    """Print a plugin's manifest, once its files have been checked.

    Example: loid-infer plugin show electronics
    """


def _matrix(result: Any) -> dict[str, Any]:
    rows = zip(result.domains, result.matrix, strict=True)
    # A head of its own for the first column cannot be a domain's name if it is empty.
    matrix = [{"": domain, **dict(zip(result.domains, values, strict=True))} for domain, values in rows]
    rest = {name: value for name, value in to_builtins(result).items() if name not in ("domains", "matrix")}
    return {**rest, "mean cosines": matrix}


@command("similarity.plugin_similarity", people=_matrix)
def similarity(
    domains: Annotated[list[str], typer.Argument(metavar="DOMAIN...", help="Domains that were ingested, two or more.")],
    pooling: Annotated[str, typer.Option(help="One vector of a text's tokens: mean | cls | last")] = "mean",
    n_texts: Annotated[int, typer.Option(help="Reviews drawn of each domain.", min=1)] = 100,
    base: BaseOption = DEFAULT_BASE,
    max_tokens: MaxTokensOption = None,
    seed: SeedOption = 0,
) -> None:
    """Compare domains by the mean cosine of their reviews, with a heat map in reports/.

    Example: loid-infer plugin similarity video_games movies_tv
    """
