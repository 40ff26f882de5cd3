"""Commands on collaborative models: cf fit."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from loid_infer.cli.declare import command
from loid_infer.cli.options import DomainsOption, SeedOption
from loid_infer.errors import BadSetting
from loid_infer.rankers.settings import DEFAULT_RANK_OPTIONS, RankOptions


def _fit(
    domains: list[str], clicks: bool = False, model: str | None = None, split: str | None = None, **options: Any
) -> Any:
    """Fit a ranking head, or one on labeled pairs."""
    if not clicks:
        from loid_infer.verbs.rank import cf_fit

        return cf_fit(domains, model=model or "sasrec", split=split or "leave-one-out", **options)
    from loid_infer.verbs.cora import cf_fit_clicks

    if split is not None:
        what, fix = "labeled pairs have the parts of their source, or are split by time", "Omit --split."
        raise BadSetting(what, where="--split", fix=fix)
    if len(domains) > 1:
        what, fix = "a head on labeled pairs is of one domain", "Give one --domain."
        raise BadSetting(what, where="--domain", got=", ".join(domains), fix=fix)
    return cf_fit_clicks(domains[0], model=model or "mf", **options)


@command(_fit)
def fit(
    domains: DomainsOption,
    clicks: Annotated[bool, "Predict the labels of pairs, of `ingest --clicks`, instead of the next item."] = False,
    model: Annotated[
        str | None,
        "popularity | recent | cooccurrence | mf | lightgcn | sasrec (default); with --clicks mf (default) | ncf | "
        "lightgcn | sasrec",
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", "-n", help="Name of the head. By default DOMAIN-MODEL, with --clicks DOMAIN-MODEL-clicks."
        ),
    ] = None,
    settings: RankOptions = DEFAULT_RANK_OPTIONS,
    split: Annotated[str | None, "Kind of split: leave-one-out (default) | time."] = None,
    seed: SeedOption = 0,
) -> None:
    """Train a head that ranks items by interactions alone, or predicts whether a user likes an item.

    Example: loid-infer cf fit --domain video_games --model sasrec
    """
