"""The commands without a group, in the order a new user needs them."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import typer

import loid_infer
from loid_infer.cli import evaluation
from loid_infer.cli.declare import command
from loid_infer.cli.options import (
    BaseOption,
    DeviceOption,
    DomainOption,
    DomainsOption,
    EncoderOption,
    MaxTokensOption,
    QuotingOption,
    SeedOption,
    SplitOption,
    SplitSeedOption,
    TemplateOption,
    TitleTokensOption,
)
from loid_infer.errors import BadSetting
from loid_infer.heads.presets import DEFAULT_OPTIONS, HeadOptions
from loid_infer.settings import DEFAULT_BASE, SAMPLE_DOMAINS, TEMPLATE, TITLE_TOKENS


@command("tables.sample")
def sample(
    domains: Annotated[
        list[str] | None, f"A domain to write; repeat for more. By default {', '.join(SAMPLE_DOMAINS)}."
    ] = None,
    n_reviews: Annotated[int, typer.Option(help="Reviews per domain.", min=1)] = 2000,
    seed: SeedOption = 0,
) -> None:
    """Write synthetic reviews with a known structure.

    Example: loid-infer sample --domain video_games --n-reviews 5000
    """


def _mapping(columns: str) -> dict[str, str]:
    pairs = [[side.strip() for side in part.split("=", 1)] for part in columns.split(",")]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        expected = "user_id=..,item_id=..,rating=..,text=.. with the source's column after each ="
        raise BadSetting("not a list of columns", where="--columns", expected=expected, got=columns)
    if len(dict(pairs)) < len(pairs):
        raise BadSetting("a column is mapped twice", where="--columns", got=columns, fix="Keep one of the mappings.")
    return dict(pairs)


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        expected = "LOW,HIGH like 1,5"
        raise BadSetting("not a range of ratings", where="--rating-range", expected=expected, got=text) from None
    return low, high


# What `ingest` reads instead of reviews: the option, the verb, and which of the options below apply.
_KINDS = {
    "items": ("ingest_items", ()),
    "implicit": ("ingest_implicit", ("duplicates",)),
    "clicks": ("ingest_clicks", ("duplicates", "liked_from")),
}


def _ingest(
    items: bool,
    implicit: bool,
    clicks: bool,
    duplicates: str | None = None,
    rating_range: Any = None,
    liked_from: float | None = None,
    **options: Any,
) -> Any:
    """Ingest reviews, items, interactions or labeled pairs."""
    kinds = [name for name, chosen in (("items", items), ("implicit", implicit), ("clicks", clicks)) if chosen]
    if len(kinds) > 1:
        what, fix = "one command reads one kind of rows", "Run it once with each option."
        raise BadSetting(what, where=", ".join(f"--{kind}" for kind in kinds), fix=fix)
    kind = kinds[0] if kinds else ""
    verb, used = _KINDS.get(kind, ("ingest", ("duplicates", "rating_range")))
    given = {"duplicates": duplicates, "rating_range": rating_range, "liked_from": liked_from}
    given = {name: value for name, value in given.items() if value is not None}
    if unused := sorted({*given} - {*used}):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        what = f"an option that does not apply with --{kind}" if kind else "an option that only --clicks has"
        raise BadSetting(what, where=names, fix=f"Omit {names}.")
    return getattr(loid_infer, verb)(**given, **options)


@command(_ingest)
def ingest(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SRC...", help="Files or folders of them, read in the given order.")
    ],
    domain: DomainOption,
    items: Annotated[bool, "Read item metadata (titles) instead of reviews, into a table of its own."] = False,
    implicit: Annotated[bool, "Read interactions without rating and text instead of reviews."] = False,
    clicks: Annotated[bool, "Read pairs with a label, 1 or 0, instead of reviews, into a table of its own."] = False,
    format: Annotated[
        str, "auto | amazon2014 | amazon2018 | amazon2023 | jsonl | csv | tsv | parquet | movielens"
    ] = "auto",
    columns: Annotated[
        Any,
        typer.Option(
            parser=_mapping,
            metavar="TEXT",
            help="Names of the source's columns, like user_id=reviewer,text=comment; also item_id, rating, timestamp. "
            "With --items: item_id, title, brand, category, description; with --implicit: user_id, item_id, "
            "timestamp, position; with --clicks also label and split.",
        ),
    ] = None,
    quoting: QuotingOption = "auto",
    duplicates: Annotated[
        str | None,
        "Rows of the same user and item: keep-last (default) | keep-first (default with --implicit and --clicks) | "
        "error; with these two also keep-all.",
    ] = None,
    on_bad: Annotated[str, "Bad lines: error | skip"] = "error",
    liked_from: Annotated[float | None, "With --clicks: labels are ratings, positive from here on."] = None,
    rating_range: Annotated[
        Any, typer.Option(parser=_range, metavar="LOW,HIGH", help="Lowest and highest valid rating. By default 1,5.")
    ] = None,
) -> None:
    """Read review files into a domain's table; or titles of its items, interactions without ratings, or labeled pairs.

    Example: loid-infer ingest reviews_Musical_Instruments_5.json.gz --domain musical_instruments
    """


@command("export.export")
def export(
    name: Annotated[str | None, "Name of the encoder. By default that of the last plugin, else `base`."] = None,
    base: BaseOption = DEFAULT_BASE,
    plugins: Annotated[
        list[str] | None, "A plugin to fold in, with the plugins it was trained on; repeat for more."
    ] = None,
    pooling: Annotated[str, "Pooling: auto (what the base says) | cls | mean | last"] = "auto",
    normalize: Annotated[bool | None, "Scale vectors to unit length. By default what the base says."] = None,
    prompt: Annotated[str | None, "Prefix of every text. By default that of the base."] = None,
    prompt_name: Annotated[str | None, "Name of a prompt of a sentence-transformers folder."] = None,
    precision: Annotated[str, "auto | fp32 | bf16 | fp16 | int8"] = "auto",
    calibrate_on: Annotated[str | None, "Domain whose reviews calibrate int8."] = None,
    store: Annotated[str, "Data type of stored vectors: fp16 | fp32"] = "fp16",
    max_tokens: MaxTokensOption = None,
    tensorrt: Annotated[bool, "Build TensorRT engines too, or say what is missing."] = False,
) -> None:
    """Export a model, with plugins folded in, as an encoder that every runtime can run.

    Example: loid-infer export --plugin video_games
    """


def _encode_each(dry_run: bool, encoder: list[str] | None = None, **options: Any) -> Any:
    """Encode with one encoder after the other."""
    from loid_infer.verbs.encode import encode, encode_dry_run

    verb = encode_dry_run if dry_run else encode
    names: list[str | None] = [*(encoder or [])] or [None]
    if len(set(names)) < len(names):
        raise BadSetting("an encoder is given twice", where="--encoder", got=", ".join(map(str, names)))
    results = [verb(encoder=name, **options) for name in names]
    return results[0] if len(results) == 1 else {"encoders": results}


@command(_encode_each)
def encode(
    domain: DomainOption,
    of: Annotated[str, "reviews | items | histories"] = "reviews",
    template: TemplateOption = TEMPLATE,
    title_tokens: TitleTokensOption = TITLE_TOKENS,
    encoder: Annotated[
        list[str] | None, "Name of an encoder; repeat for more. By default the one named like the domain, else `base`."
    ] = None,
    runtime: Annotated[str, "auto | torch | onnxruntime | openvino | tensorrt"] = "auto",
    precision: Annotated[
        str | None, "Required precision: fp32 | bf16 | fp16 | int8. By default that of the encoder."
    ] = None,
    device: DeviceOption = "auto",
    n_threads: Annotated[
        int | None, typer.Option("--threads", help="Number of CPU threads. By default all.", min=1)
    ] = None,
    n_streams: Annotated[
        int | None,
        typer.Option("--streams", help="Batches that OpenVINO computes at once. By default what is fastest.", min=1),
    ] = None,
    dry_run: Annotated[bool, "Count stored and new texts and estimate the cost, without encoding."] = False,
) -> None:
    """Compute the vectors of a domain's reviews, or of its items or histories, that are not stored yet, and store them.

    Example: loid-infer encode --domain video_games
    """


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
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="Parquet or CSV file with user_id and item_id.")],
    domain: Annotated[
        str | None, "Domain of all pairs. By default what their column `domain` says, else that of the only head."
    ] = None,
    head: Annotated[str | None, "Name of the head. By default the domain."] = None,
    quoting: QuotingOption = "auto",
    label: Annotated[str | None, "Column of labels, 1 or 0, with which the AUC is computed."] = None,
    out: Annotated[Path | None, "Output file, parquet or CSV. By default PAIRS.scores.parquet or .csv."] = None,
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
        Path | None,
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
        Path | None, "Output file, parquet or CSV. By default DOMAIN or USERS with .recommendations.parquet or .csv."
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
