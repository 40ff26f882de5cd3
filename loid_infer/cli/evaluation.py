"""The command that says how good a head is, and how sure that is: evaluate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from loid_infer.cli.options import (
    DomainOption,
    DropoutOption,
    EpochsOption,
    HeadsOption,
    JsonOption,
    KOption,
    LamOption,
    MarginOption,
    PresetOption,
    ProtocolOption,
    QuietOption,
    SplitOption,
    WorkspaceOption,
    place,
)
from loid_infer.cli.terminal import People, show

if TYPE_CHECKING:
    from loid_infer.verbs.evaluate import EvaluateResult


def evaluate(
    domain: DomainOption,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            "-e",
            help="Repeat to compare; {seed} stands for the split's seed. The domain's own or `base` by default.",
            show_default=False,
        ),
    ] = None,
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
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Test a domain's head on several splits, beside baselines, with intervals.

    Example: loid-infer evaluate --domain video_games --seeds 5 --ablate
    """
    from loid_infer.verbs.evaluate import evaluate as verb

    result = verb(
        domain, encoders=encoder or [], seeds=seeds, ablate=ablate, preset=preset, protocol=protocol, k=k, lam=lam,
        margin=margin, epochs=epochs, n_heads=n_heads, dropout=dropout, split=split, split_seed=split_seed,
        workspace=place(workspace), progress=People(quiet=quiet),
    )  # fmt: skip
    show(result if json else _tables(result), as_json=json)


def _tables(result: EvaluateResult) -> dict[str, Any]:
    """What people want to see of it; the rest is in the file it names."""
    from loid_infer.heads.comparison import NO_VARIANTS

    models = []
    for model in result.summary:
        varied = model.model not in NO_VARIANTS
        found = (
            (model.against_head, model.against_head_low, model.against_head_high) if varied
            else (model.against_bias, model.against_bias_low, model.against_bias_high)
        )  # fmt: skip
        mean, low, high = ("" if value is None else f"{value:+.4f}" for value in found)
        models.append({"model": model.model, "encoder": model.encoder or "", "MSE": f"{model.mse:.4f}",
                       "difference": mean, "from": "head" if varied else "bias", "low": low, "high": high})  # fmt: skip
    buckets = [
        {"by": one.by, "bucket": one.bucket, "pairs": one.n_test, "bias": f"{one.bias:.4f}", "head": f"{one.head:.4f}"}
        for one in result.buckets
    ]
    last = result.split_seed + result.n_seeds - 1
    return {
        "domain": result.domain, "preset": result.preset, "protocol": result.protocol,
        "split": f"{result.split}, seeds {result.split_seed} to {last}", "95 % intervals over": result.interval,
        "path": result.path, "seconds": result.seconds, "test MSE": models, "by fewest reviews, and by rating": buckets,
    }  # fmt: skip
