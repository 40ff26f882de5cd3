"""The commands without a group, in the order a new user needs them: from vectors to heads and what they say."""

from __future__ import annotations

from dataclasses import asdict, fields
from textwrap import shorten
from typing import Annotated, Any

import typer

from loid_infer.cli import evaluation
from loid_infer.cli.declare import command
from loid_infer.cli.options import (
    DeviceOption,
    DomainOption,
    DomainsOption,
    EncoderOption,
    QuotingOption,
    SeedOption,
    SplitOption,
    SplitSeedOption,
)
from loid_infer.errors import BadSetting
from loid_infer.heads.presets import DEFAULT_OPTIONS, HeadOptions


@command("fit.fit")
def fit(
    domain: DomainOption,
    encoder: EncoderOption = None,
    settings: HeadOptions = DEFAULT_OPTIONS,
    name: Annotated[str | None, "Name of the head. By default the domain, or DOMAIN-paper with that protocol."] = None,
    device: DeviceOption = "auto",
    split: SplitOption = "random",
    split_seed: SplitSeedOption = None,
    seed: SeedOption = 0,
) -> None:
    """Train a domain's recommender head on stored vectors.

    Example: loid-infer fit --domain video_games
    """


@command("score.score")
def score(
    pairs: Annotated[
        str, typer.Argument(metavar="PAIRS", help="Parquet or CSV file or address, with user_id and item_id.")
    ],
    domain: Annotated[
        str | None, "Domain of all pairs. By default what their column `domain` says, else that of the only head."
    ] = None,
    head: Annotated[str | None, "Name of the head. By default the domain."] = None,
    quoting: QuotingOption = "auto",
    label: Annotated[str | None, "Column of labels, 1 or 0, with which the AUC is computed."] = None,
    out: Annotated[str | None, "Output file or address. By default PAIRS.scores.parquet or .csv."] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Predict the rating of every pair, including unknown users and items.

    Example: loid-infer score ratings.parquet --domain video_games
    """


def _evaluate(
    domains: list[str],
    heads: list[str] | None = None,
    candidates: str | None = None,
    clicks: bool = False,
    ablate: bool = False,
    settings: Any = None,
    **options: Any,
) -> Any:
    """Evaluate ranking heads where one is asked for or the domain has no ratings, else the head on reviews."""
    from loid_infer.data.reviews import is_implicit

    workspace = options["workspace"]
    if clicks:
        from loid_infer.verbs.labels import evaluate_clicks

        unused = (
            sorted({*options} - {"workspace", "progress"}) + ["candidates"] * bool(candidates) + ["ablate"] * ablate
        )
        _refuse_options(unused, settings, "heads on labeled pairs")
        if len(domains) > 1:
            what, fix = "heads on labeled pairs are of one domain", "Give one --domain."
            raise BadSetting(what, where="--domain", got=", ".join(domains), fix=fix)
        return evaluate_clicks(domains[0], heads=heads or (), **options)
    if heads or candidates or len(domains) > 1 or is_implicit(workspace.table(domains[0])):
        from loid_infer.verbs.rankings import evaluate_ranking

        unused = sorted({*options} - {"split", "workspace", "progress"}) + ["ablate"] * ablate
        _refuse_options(unused, settings, "ranking heads")
        return evaluate_ranking(domains, heads=heads or (), candidates=candidates or "full", **options)
    from loid_infer.verbs.evaluate import evaluate as on_reviews

    return on_reviews(domain=domains[0], ablate=ablate, settings=settings, **options)


def _refuse_options(unused: list[str], settings: Any, of: str) -> None:
    unused += [field.name for field in fields(settings) if getattr(settings, field.name) != field.default]
    if unused:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        raise BadSetting(f"an option that does not apply to {of}", where=names, fix=f"Omit {names}.")


@command(_evaluate, people=evaluation.tables, bad=evaluation.unwritten)
def evaluate(
    domains: DomainsOption,
    heads: Annotated[
        list[str] | None,
        "Name of a ranking head, or one on labeled pairs; repeat for more. By default all of exactly these domains.",
    ] = None,
    candidates: Annotated[
        str | None, "Ranking heads: full, all items of the target's domain, or a number of drawn negatives."
    ] = None,
    clicks: Annotated[bool, "Test heads on labeled pairs instead, with --head or all of the domain."] = False,
    encoders: Annotated[
        list[str] | None,
        "Name of an encoder; repeat to compare. {seed} is replaced by the split's seed. By default the one named like "
        "the domain, else `base`.",
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of splits. By default 5.", min=1)] = None,
    ablate: Annotated[bool, "Also change one part of the head at a time."] = False,
    settings: HeadOptions = DEFAULT_OPTIONS,
    split: Annotated[
        str | None, "random (default) | time; of ranking heads leave-one-out | time, as they were fitted."
    ] = None,
    split_seed: Annotated[
        int | None, typer.Option("--split-seed", "--seed", help="Random seed of the first split. By default 0.", min=0)
    ] = None,
) -> None:
    """Test a domain's head on several splits and compare it with baselines, with confidence intervals; or rank the
    test items of all users with ranking heads; or predict labels.

    Ranking heads are tested if one is named, if --candidates is given, or if the domain has no ratings.

    Example: loid-infer evaluate --domain video_games --seeds 5 --ablate
    """


@command("recommend.recommend")
def recommend(
    users: Annotated[
        str | None,
        typer.Argument(
            metavar="[USERS]",
            help="Parquet or CSV file with user_id and, if you like, history: item ids. By default all users.",
        ),
    ] = None,
    *,
    domain: DomainOption,
    head: Annotated[str | None, "Name of the ranking head. By default the best of the domain on validation."] = None,
    n: Annotated[int, typer.Option("-n", help="Number of items per user.", min=1)] = 20,
    include_seen: Annotated[bool, "Also recommend items of the history."] = False,
    out: Annotated[
        str | None,
        "Output file or address, parquet or CSV. By default DOMAIN or USERS with .recommendations.parquet or .csv.",
    ] = None,
) -> None:
    """Write the items that a ranking head puts first for every user.

    Example: loid-infer recommend --domain video_games -n 10
    """


@command("report.report")
def report(domain: Annotated[str | None, "Only this domain. By default all."] = None) -> None:
    """Write a self-contained HTML report of everything that was measured.

    Example: loid-infer report
    """


def _rows(result: Any) -> dict[str, Any]:
    fields = asdict(result)
    return fields | {"neighbors": [row(neighbor) for neighbor in fields["neighbors"]]}


def row(neighbor: dict[str, Any]) -> dict[str, Any]:
    """The parts of a neighbor that are printed."""
    if neighbor["text"] is None:
        return {name: neighbor[name] for name in ("id", "score", "n_reviews")}
    text = shorten(neighbor["text"], 120, placeholder=" ..")
    return {"row": neighbor["id"], **{name: neighbor[name] for name in ("score", "rating", "item_id")}, "text": text}


@command("similar.similar", people=_rows)
def similar(
    domain: DomainOption,
    item: Annotated[str | None, "ID of an item to compare with."] = None,
    user: Annotated[str | None, "ID of a user to compare with."] = None,
    text: Annotated[str | None, "A text to compare with."] = None,
    of: Annotated[
        str | None, "What to search: items | users | reviews. By default the kind that is compared with."
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Number of neighbors.", min=1)] = 10,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Find the nearest items, users or reviews by cosine similarity of their vectors.

    Example: loid-infer similar --domain video_games --text "the controls are terrible" -n 5
    """


def _checks(result: Any) -> dict[str, Any]:
    return {"checks": [{"name": c.name, "ok": c.ok, "detail": c.detail, "fix": c.mend} for c in result.checks]}


@command("doctor.doctor", people=_checks)
def doctor() -> None:
    """Report versions, runtimes and common problems of this machine.

    Example: loid-infer doctor
    """
