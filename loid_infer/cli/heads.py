"""Commands on heads and stored vectors: fit, evaluate, score, similar."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loid_infer.cli.declare import command
from loid_infer.cli.options import DeviceOption, DomainOption, EncoderOption, SeedOption, SplitOption, SplitSeedOption
from loid_infer.heads.presets import DEFAULT_OPTIONS, HeadOptions

if TYPE_CHECKING:
    from loid_infer.heads.comparison import EvaluateResult


@command("fit.fit")
def fit(
    domain: DomainOption,
    encoder: EncoderOption = None,
    settings: HeadOptions = DEFAULT_OPTIONS,
    name: Annotated[
        str | None, typer.Option(help="Name of the head. By default that of the domain.", show_default=False)
    ] = None,
    device: DeviceOption = "auto",
    split: SplitOption = "random",
    split_seed: SplitSeedOption = None,
    seed: SeedOption = 0,
) -> None:
    """Train a domain's recommender head on stored vectors.

    Example: loid-infer fit --domain video_games
    """


def tables(result: EvaluateResult) -> dict[str, Any]:
    """The parts of an evaluation that are printed; the rest is in the file it names."""
    from loid_infer.heads.comparison import BASELINES, HEAD, NO_VARIANTS, model_and_encoder

    models = []
    for one in result.summary:
        model, encoder = model_and_encoder(one.system)
        reference = BASELINES[1] if model in NO_VARIANTS else HEAD
        if one.metric == "mse" and reference == model_and_encoder(one.reference)[0]:
            figures = {"MSE": f"{one.value:.4f}", "difference": f"{one.difference:+.4f}", "from": reference}
            interval = {"low": _signed(one.low), "high": _signed(one.high)}
            models.append({"model": model, "encoder": encoder or "", **figures, **interval})
    buckets = [
        {"by": one["by"], "bucket": one["bucket"], "pairs": one["n_test"]}
        | {name: f"{one[name]:.4f}" for name in ("bias", "head")}
        for one in result.by_bucket()
    ]
    last = result.split_seed + result.n_seeds - 1
    return {
        "domain": result.domain,
        "preset": result.preset,
        "protocol": result.protocol,
        "split": f"{result.split}, seeds {result.split_seed} to {last}",
        "95 % intervals over": result.interval,
        "path": result.path,
        "seconds": result.seconds,
        "test MSE": models,
        "by fewest reviews, and by rating": buckets,
    }


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


@command("evaluate.evaluate", people=tables)
def evaluate(
    domain: DomainOption,
    encoders: Annotated[
        list[str],
        typer.Option(
            "--encoder",
            "-e",
            help="Name of an export; repeat to compare. {seed} is replaced by the split's seed. By default that of the "
            "domain, else `base`.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer makes a new list
    seeds: Annotated[int, typer.Option(help="Number of splits.", min=1)] = 5,
    ablate: Annotated[bool, typer.Option("--ablate", help="Also change one part of the head at a time.")] = False,
    settings: HeadOptions = DEFAULT_OPTIONS,
    split: SplitOption = "random",
    split_seed: Annotated[
        int, typer.Option("--split-seed", "--seed", help="Random seed of the first split.", min=0)
    ] = 0,
) -> None:
    """Test a domain's head on several splits and compare it with baselines, with confidence intervals.

    Example: loid-infer evaluate --domain video_games --seeds 5 --ablate
    """


@command("score.score")
def score(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="Parquet or CSV file with user_id and item_id.")],
    domain: Annotated[
        str | None,
        typer.Option(
            "--domain",
            "-d",
            help="Domain of all pairs. By default what their column `domain` says, else that of the only head.",
            show_default=False,
        ),
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Name of the head. By default that of the domain.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Output file, parquet or CSV. By default PAIRS.scores.parquet or .csv.", show_default=False),
    ] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Predict the rating of every pair, including unknown users and items.

    Example: loid-infer score ratings.parquet --domain video_games
    """


def _rows(result: Any) -> dict[str, Any]:
    whole = asdict(result)
    return whole | {"neighbors": [row(neighbor) for neighbor in whole["neighbors"]]}


def row(neighbor: dict[str, Any]) -> dict[str, Any]:
    """The parts of a neighbor that are printed."""
    if neighbor["text"] is None:
        return {name: neighbor[name] for name in ("id", "score", "n_reviews")}
    text = shorten(neighbor["text"], 120, placeholder=" ..")
    return {"row": neighbor["id"], **{name: neighbor[name] for name in ("score", "rating", "item_id")}, "text": text}


@command("similar.similar", people=_rows)
def similar(
    domain: DomainOption,
    item: Annotated[str | None, typer.Option(help="ID of an item to compare with.", show_default=False)] = None,
    user: Annotated[str | None, typer.Option(help="ID of a user to compare with.", show_default=False)] = None,
    text: Annotated[str | None, typer.Option(help="A text to compare with.", show_default=False)] = None,
    of: Annotated[
        str | None,
        typer.Option(
            help="What to search: items | users | reviews. By default the kind that is compared with.",
            show_default=False,
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Number of neighbors.", min=1)] = 10,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Find the nearest items, users or reviews by cosine similarity of their vectors.

    Example: loid-infer similar --domain video_games --text "the controls are terrible" -n 5
    """
