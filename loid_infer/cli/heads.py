"""Commands that work on stored vectors: fit, score, similar."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import typer

from loid_infer.cli.options import (
    DeviceOption,
    DomainOption,
    DropoutOption,
    EncoderOption,
    EpochsOption,
    HeadsOption,
    JsonOption,
    KOption,
    LamOption,
    MarginOption,
    PresetOption,
    ProtocolOption,
    QuietOption,
    SeedOption,
    SplitOption,
    SplitSeedOption,
    WorkspaceOption,
    place,
)
from loid_infer.cli.terminal import People, show


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
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train the recommender head of a domain from its stored vectors.

    Example: loid-infer fit --domain video_games
    """
    from loid_infer.verbs.fit import fit as verb

    show(
        verb(
            domain,
            encoder=encoder,
            preset=preset,
            protocol=protocol,
            name=name,
            k=k,
            lam=lam,
            margin=margin,
            epochs=epochs,
            n_heads=n_heads,
            dropout=dropout,
            device=device,
            split=split,
            split_seed=split_seed,
            seed=seed,
            workspace=place(workspace),
            progress=People(quiet=quiet),
        ),
        as_json=json,
    )


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
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Predict the rating of every pair, unknown users and items included.

    Example: loid-infer score ratings.parquet --domain video_games
    """
    from loid_infer.verbs.score import score as verb

    result = verb(
        pairs, domain=domain, head=head, out=out, device=device, workspace=place(workspace),
        progress=People(quiet=quiet),
    )  # fmt: skip
    show(result, as_json=json)


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
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find the nearest items, users or reviews of a domain by their vectors.

    Example: loid-infer similar --domain video_games --text "the controls are terrible" -n 5
    """
    from loid_infer.verbs.similar import similar as verb

    result = verb(
        domain, item=item, user=user, text=text, of=of, n=n, encoder=encoder, device=device, workspace=place(workspace),
        progress=People(quiet=quiet),
    )  # fmt: skip
    if json:
        show(result, as_json=True)
        return
    found = asdict(result)
    found["neighbors"] = [_row(near) for near in found["neighbors"]]
    show(found, as_json=False)


def _row(near: dict[str, Any]) -> dict[str, Any]:
    if near["text"] is None:
        return {name: near[name] for name in ("id", "score", "n_reviews")}
    text = shorten(near["text"], 120, placeholder=" ..")
    return {"row": near["id"], **{name: near[name] for name in ("score", "rating", "item_id")}, "text": text}
