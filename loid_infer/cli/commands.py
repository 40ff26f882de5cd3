"""The commands without a group, in the order a new user needs them: from texts to vectors."""

from __future__ import annotations

import importlib
import inspect
from typing import Annotated, Any

import typer

import loid_infer
from loid_infer.cli.declare import command
from loid_infer.cli.options import (
    BaseOption,
    DeviceOption,
    DomainOption,
    MaxTokensOption,
    QuotingOption,
    SeedOption,
    TemplateOption,
    TitleTokensOption,
)
from loid_infer.errors import BadSetting
from loid_infer.settings import DEFAULT_BASE, SAMPLE_DOMAINS, TEMPLATE, TITLE_TOKENS


@command("tables.sample")
def sample(
    domains: Annotated[
        list[str] | None, f"A domain to write; repeat for more. By default {', '.join(SAMPLE_DOMAINS)}."
    ] = None,
    n_reviews: Annotated[int, typer.Option(help="Reviews per domain; with --implicit, labeled pairs.", min=1)] = 2000,
    implicit: Annotated[bool, "Write likes and items with titles instead of reviews."] = False,
    seed: SeedOption = 0,
) -> None:
    """Write synthetic reviews, or likes, with a known structure.

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
        list[str], typer.Argument(metavar="SRC...", help="Files, folders or addresses, read in the given order.")
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


# The verb of each option of `encode` that does something else than to encode here, and which others it takes.
_RUNS = {
    "dry_run": ("encode", "encode_dry_run", ()),
    "shard": ("shards", "encode_shard", ("shard", "shard_folder")),
    "status": ("shards", "encode_status", ("shard_folder",)),
    "collect": ("shards", "encode_collect", ("shard_folder",)),
    "ray": ("cluster", "encode_ray", ("ray", "shard_folder", "workers", "patience")),
}


def _encode_each(encoder: list[str] | None = None, **options: Any) -> Any:
    """Encode with one encoder after the other."""
    own = {name: options.pop(name, None) for name in (*_RUNS, "shard_folder", "workers", "patience")}
    given = {name: value for name, value in own.items() if value is not None and value is not False}
    for name in [name for name, value in given.items() if value == ""]:
        raise BadSetting("an empty value", where=f"--{name.replace('_', '-')}", fix="Give a value, or omit the option.")
    chosen = [name for name in _RUNS if name in given]
    if len(chosen) > 1:
        what, fix = "one command does one of these", "Run it once with each option."
        raise BadSetting(what, where=", ".join(f"--{name.replace('_', '-')}" for name in chosen), fix=fix)
    module, name, takes = _RUNS[chosen[0]] if chosen else ("encode", "encode", ())
    if unused := sorted({*given} - {*chosen} - {*takes}):
        names = ", ".join(f"--{option.replace('_', '-')}" for option in unused)
        what = (
            f"an option that does not apply with --{chosen[0]}" if chosen else "an option of encode on several machines"
        )
        raise BadSetting(what, where=names, fix=f"Omit {names}.")
    verb = getattr(importlib.import_module(f"loid_infer.verbs.{module}"), name)
    options |= {option: given[option] for option in takes if option in given}
    known = inspect.signature(verb).parameters
    for option, flag in (("device", "--device"), ("n_threads", "--threads"), ("n_streams", "--streams")):
        if option not in known and options.get(option) not in (None, "auto"):
            raise BadSetting(f"an option that does not apply with --{chosen[0]}", where=flag, fix=f"Omit {flag}.")
    options = {option: value for option, value in options.items() if option in known}
    encoders: list[str | None] = [*(encoder or [])] or [None]
    if len(set(encoders)) < len(encoders):
        raise BadSetting("an encoder is given twice", where="--encoder", got=", ".join(map(str, encoders)))
    results = [verb(encoder=name, **options) for name in encoders]
    return results[0] if len(results) == 1 else {"encoders": results}


def _incomplete(result: Any) -> bool:
    """Whether a status or a collection lacks shards."""
    results = result["encoders"] if isinstance(result, dict) else [result]
    return any(hasattr(one, "missing") and (one.n_missing or getattr(one, "n_without", 0)) for one in results)


@command(_encode_each, bad=_incomplete)
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
        int | None,
        typer.Option(
            "--threads", help="Number of CPU threads, by default all; of each worker with --ray, by default 4.", min=1
        ),
    ] = None,
    n_streams: Annotated[
        int | None,
        typer.Option("--streams", help="Batches that OpenVINO computes at once. By default what is fastest.", min=1),
    ] = None,
    dry_run: Annotated[bool, "Count stored and new texts and estimate the cost, without encoding."] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="[I/N]",
            help="Compute shard I of N only, I from 0 on, into files that --collect joins. Without a value, or as "
            "auto/N, what the environment of an array job says (SLURM, Kubernetes, AWS Batch, ...).",
        ),
    ] = None,
    status: Annotated[bool, "Say which shards are missing. Exit code 2 if any is."] = False,
    collect: Annotated[bool, "Join the shards into the store. Exit code 2 if any is missing."] = False,
    shard_folder: Annotated[
        str | None, "Folder or address, like s3://bucket/runs, that all processes share. By default cache/shards."
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Compute on a Ray cluster: HOST:PORT of its head, auto, or local, which is the default.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="With --ray: number of processes. By default all that fit.", min=1)
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(help="With --ray: seconds without a finished part until the job is started again.", min=1),
    ] = None,
) -> None:
    """Compute the vectors of a domain's reviews, or of its items or histories, that are not stored yet, and store them.

    Example: loid-infer encode --domain video_games
    """
