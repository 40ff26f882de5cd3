"""Commands that work on stored vectors: fit, evaluate, score, similar."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loid_infer.cli.declare import command
from loid_infer.cli.options import (
    DeviceOption,
    DomainOption,
    DropoutOption,
    EncoderOption,
    EpochsOption,
    HeadsOption,
    KOption,
    LamOption,
    MarginOption,
    PresetOption,
    ProtocolOption,
    SeedOption,
    SplitOption,
    SplitSeedOption,
)

if TYPE_CHECKING:
    from loid_infer.heads.comparison import EvaluateResult


@command("fit.fit")
def fit(
    domain: DomainOption,
    encoder: EncoderOption = None,
    preset: PresetOption = "default",
    protocol: ProtocolOption = "strict",
    name: Annotated[str | None, typer.Option(help="Of the head; the domain's by default.", show_default=False)] = None,
    k: KOption = 5,
    lam: LamOption = 0.2,
    margin: MarginOption = None,
    epochs: EpochsOption = None,
    n_heads: HeadsOption = None,
    dropout: DropoutOption = None,
    device: DeviceOption = "auto",
    split: SplitOption = "random",
    split_seed: SplitSeedOption = None,
    seed: SeedOption = 0,
) -> None:
    """Train the recommender head of a domain from its stored vectors.

    Example: loid-infer fit --domain video_games
    """


def tables(result: EvaluateResult) -> dict[str, Any]:
    """What people want to see of an evaluation; the rest is in the file it names."""
    from loid_infer.heads.comparison import BASELINES, HEAD, NO_VARIANTS, model_and_encoder, records

    models = []
    for one in result.summary:
        model, encoder = model_and_encoder(one.system)
        reference = BASELINES[1] if model in NO_VARIANTS else HEAD
        if one.metric == "mse" and reference == model_and_encoder(one.reference)[0]:
            low, high = ("" if end is None else f"{end:+.4f}" for end in (one.low, one.high))
            figures = {"MSE": f"{one.value:.4f}", "difference": f"{one.difference:+.4f}", "from": reference}
            models.append({"model": model, "encoder": encoder or "", **figures, "low": low, "high": high})
    buckets = [
        {"by": one["by"], "bucket": one["bucket"], "pairs": one["n_test"]}
        | {name: f"{one[name]:.4f}" for name in ("bias", "head")}
        for one in records(result)["buckets"]
    ]
    last = result.split_seed + result.n_seeds - 1
    return {
        "domain": result.domain, "preset": result.preset, "protocol": result.protocol,
        "split": f"{result.split}, seeds {result.split_seed} to {last}", "95 % intervals over": result.interval,
        "path": result.path, "seconds": result.seconds, "test MSE": models, "by fewest reviews, and by rating": buckets,
    }  # fmt: skip


@command("evaluate.evaluate", people=tables)
def evaluate(
    domain: DomainOption,
    encoders: Annotated[
        list[str],
        typer.Option(
            "--encoder",
            "-e",
            help="Repeat to compare; {seed} stands for the split's seed. The domain's own or `base` by default.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer makes a list of its own
    seeds: Annotated[int, typer.Option(help="How many splits, by seed.", min=1)] = 5,
    ablate: Annotated[bool, typer.Option("--ablate", help="Also with one thing changed at a time.")] = False,
    preset: PresetOption = "default",
    protocol: ProtocolOption = "strict",
    k: KOption = 5,
    lam: LamOption = 0.2,
    margin: MarginOption = None,
    epochs: EpochsOption = None,
    n_heads: HeadsOption = None,
    dropout: DropoutOption = None,
    split: SplitOption = "random",
    split_seed: Annotated[int, typer.Option("--split-seed", "--seed", help="The first.", min=0)] = 0,
) -> None:
    """Test a domain's head on several splits, beside baselines, with intervals.

    Example: loid-infer evaluate --domain video_games --seeds 5 --ablate
    """


@command("score.score")
def score(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="Parquet or CSV with user_id, item_id.")],
    domain: Annotated[
        str | None,
        typer.Option(
            "--domain",
            "-d",
            help="Of all pairs; else their column `domain`, else the only head there is.",
            show_default=False,
        ),
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="A head's name; the domain's by default.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Parquet or CSV; PAIRS.scores.parquet by default.", show_default=False)
    ] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Predict the rating of every pair, unknown users and items included.

    Example: loid-infer score ratings.parquet --domain video_games
    """


def _rows(result: Any) -> dict[str, Any]:
    found = asdict(result)
    return found | {"neighbors": [row(near) for near in found["neighbors"]]}


def row(near: dict[str, Any]) -> dict[str, Any]:
    """What people want to see of a neighbor."""
    if near["text"] is None:
        return {name: near[name] for name in ("id", "score", "n_reviews")}
    text = shorten(near["text"], 120, placeholder=" ..")
    return {"row": near["id"], **{name: near[name] for name in ("score", "rating", "item_id")}, "text": text}


@command("similar.similar", people=_rows)
def similar(
    domain: DomainOption,
    item: Annotated[str | None, typer.Option(help="What is like this item?", show_default=False)] = None,
    user: Annotated[str | None, typer.Option(help="Who writes like this user?", show_default=False)] = None,
    text: Annotated[str | None, typer.Option(help="Which reviews are like this text?", show_default=False)] = None,
    of: Annotated[
        str | None,
        typer.Option(help="Look among items | users | reviews; what is asked about by default.", show_default=False),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="How many.", min=1)] = 10,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Find the nearest items, users or reviews of a domain by their vectors.

    Example: loid-infer similar --domain video_games --text "the controls are terrible" -n 5
    """
