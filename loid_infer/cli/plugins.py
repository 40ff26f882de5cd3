"""Commands on plugins: plugin train, merge, import, list, show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from loid_infer.cli.options import (
    BaseOption,
    DeviceOption,
    DomainOption,
    JsonOption,
    MaxTokensOption,
    QuietOption,
    SeedOption,
    SplitOption,
    SplitSeedOption,
    WorkspaceOption,
    place,
)
from loid_infer.cli.terminal import People, show
from loid_infer.errors import BadSetting
from loid_infer.plugins.settings import TARGETS, TrainSettings
from loid_infer.settings import DEFAULT_BASE, DEFAULT_MAX_TOKENS

_NameOption = Annotated[str, typer.Option("--name", "-n", help="Of the new plugin.", show_default=False)]
_TargetsOption = Annotated[
    str | None,
    typer.Option(help=f"Linear maps that get LoRA, of {','.join(TARGETS)}; all by default.", show_default=False),
]
_LayersOption = Annotated[
    int | None, typer.Option(help="How many of the top layers; all by default.", min=1, show_default=False)
]


def train(
    domain: DomainOption,
    on: Annotated[
        list[str] | None,
        typer.Option(help="A plugin that stays frozen beneath; repeat for more. None by default.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Of the plugin; the domain's by default.", show_default=False)
    ] = None,
    base: BaseOption = DEFAULT_BASE,
    rank: Annotated[int, typer.Option(help="Of LoRA's factors.", min=1)] = 32,
    alpha: Annotated[
        float | None, typer.Option(help="B A is scaled by alpha / rank; the rank by default.", show_default=False)
    ] = None,
    targets: _TargetsOption = None,
    layers: _LayersOption = None,
    epochs: Annotated[int, typer.Option(help="At most; ends early when validation stalls.", min=1)] = 3,
    learning_rate: Annotated[float, typer.Option(help="At its highest, after the warm-up.")] = 1e-3,
    max_tokens: MaxTokensOption = None,
    evals: Annotated[int, typer.Option(help="Validations an epoch.", min=1)] = 2,
    split: SplitOption = "random",
    split_seed: SplitSeedOption = None,
    seed: SeedOption = 0,
    precision: Annotated[str, typer.Option(help="Of the frozen part: auto | fp32 | bf16")] = "auto",
    device: DeviceOption = "auto",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Teach the encoder a domain: LoRA learns ratings from its reviews. Run it again to go on after a kill.

    Example: loid-infer plugin train --domain video_games --on electronics
    """
    from loid_infer.verbs.train import plugin_train as verb

    settings = TrainSettings(
        rank=rank, alpha=alpha, targets=_names(targets), layers=layers, epochs=epochs, learning_rate=learning_rate,
        max_tokens=max_tokens or DEFAULT_MAX_TOKENS, evals=evals, seed=seed, precision=precision,
    )  # fmt: skip
    result = verb(
        domain, settings=settings, base=base, on=on or (), name=name, split=split, split_seed=split_seed,
        device=device, workspace=place(workspace), progress=People(quiet=quiet),
    )  # fmt: skip
    show(result, as_json=json)


def _names(targets: str | None) -> tuple[str, ...]:
    return tuple(TARGETS) if targets is None else tuple(dict.fromkeys(part.strip() for part in targets.split(",")))


def merge(
    plugins: Annotated[list[str], typer.Argument(metavar="P1 P2...", help="Plugins of one base and one chain.")],
    name: _NameOption,
    method: Annotated[str, typer.Option(help="linear | ties | dare | dare_ties", show_default=False)],
    weights: Annotated[str | None, typer.Option(help="One each, like 1,0.5; 1 by default.", show_default=False)] = None,
    density: Annotated[
        float | None, typer.Option(help="Share of entries kept, 0.8 by default; linear has none.", show_default=False)
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(help="Keep the best approximation of this rank, as a peft folder.", min=1, show_default=False),
    ] = None,
    seed: SeedOption = 0,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Merge what plugins add into one plugin; their order changes nothing.

    Example: loid-infer plugin merge electronics movies_tv --name both --method ties
    """
    from loid_infer.verbs.plugins import plugin_merge as verb

    show(
        verb(
            plugins,
            name,
            method=method,
            weights=_numbers(weights),
            density=density,
            rank=rank,
            seed=seed,
            workspace=place(workspace),
            progress=People(quiet=quiet),
        ),
        as_json=json,
    )


def import_(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="A LoRA adapter saved by peft.")],
    name: _NameOption,
    base: BaseOption = DEFAULT_BASE,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring in a LoRA adapter that was trained elsewhere.

    Example: loid-infer plugin import my-adapter --name mine
    """
    from loid_infer.verbs.plugins import plugin_import as verb

    show(verb(source, name, base=base, workspace=place(workspace), progress=People(quiet=quiet)), as_json=json)


def list_(workspace: WorkspaceOption = None, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """List the plugins: how each was made, of which domains, on what.

    Example: loid-infer plugin list
    """
    from loid_infer.verbs.plugins import plugin_list as verb

    found = verb(workspace=place(workspace))
    if not json:  # whole digests would leave no room for names
        found = replace(found, plugins=tuple(replace(plugin, digest=plugin.digest[:16]) for plugin in found.plugins))
    show(found, as_json=json)


def show_(
    plugin: Annotated[str, typer.Argument(metavar="P", help="A plugin's name.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Print a plugin's manifest, once its files have been checked.

    Example: loid-infer plugin show electronics
    """
    from loid_infer.verbs.plugins import plugin_show as verb

    show(verb(plugin, workspace=place(workspace)), as_json=json)


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise BadSetting("not a list of weights", where="--weights", expected="numbers like 1,0.5", got=text or "''",
                         mend="Give one number for each plugin, with commas between.") from None  # fmt: skip
