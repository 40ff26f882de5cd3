"""Commands that make and run encoders: export, encode."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from loid_infer.cli.declare import command
from loid_infer.cli.options import BaseOption, DeviceOption, DomainOption, MaxTokensOption
from loid_infer.errors import BadSetting
from loid_infer.settings import DEFAULT_BASE


@command("export.export")
def export(
    name: Annotated[
        str | None,
        typer.Option(help="Name of the encoder. By default that of the last plugin, else `base`.", show_default=False),
    ] = None,
    base: BaseOption = DEFAULT_BASE,
    plugins: Annotated[
        list[str],
        typer.Option(
            "--plugin",
            "-p",
            help="A plugin to fold in, with the plugins it was trained on; repeat for more.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer makes a new list
    pooling: Annotated[str, typer.Option(help="Pooling: auto (what the base says) | cls | mean | last")] = "auto",
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize",
            help="Scale vectors to unit length. By default what the base says.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Prefix of every text. By default that of the base.", show_default=False)
    ] = None,
    prompt_name: Annotated[
        str | None, typer.Option(help="Name of a prompt of a sentence-transformers folder.", show_default=False)
    ] = None,
    precision: Annotated[str, typer.Option(help="auto | fp32 | bf16 | fp16 | int8")] = "auto",
    calibrate_on: Annotated[
        str | None, typer.Option(help="Domain whose reviews calibrate int8.", show_default=False)
    ] = None,
    store: Annotated[str, typer.Option(help="Data type of stored vectors: fp16 | fp32")] = "fp16",
    max_tokens: MaxTokensOption = None,
    tensorrt: Annotated[
        bool, typer.Option("--tensorrt", help="Build TensorRT engines too, or say what is missing.")
    ] = False,
) -> None:
    """Export a model, with plugins folded in, as an encoder that every runtime can run.

    Example: loid-infer export --plugin video_games
    """


def _each(encoder: list[str] | None, dry_run: bool, **options: Any) -> Any:
    """Encode with one encoder after the other."""
    from loid_infer.verbs.encode import encode, encode_dry_run

    verb = encode_dry_run if dry_run else encode
    names: list[str | None] = [*(encoder or [])] or [None]
    if len(set(names)) < len(names):
        raise BadSetting("an encoder is given twice", where="--encoder", got=", ".join(map(str, names)))
    results = [verb(encoder=name, **options) for name in names]
    return results[0] if len(results) == 1 else {"encoders": [asdict(result) for result in results]}


@command(_each)
def encode(
    domain: DomainOption,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            "-e",
            help="Name of an export; repeat for more. By default that of the domain, else `base`.",
            show_default=False,
        ),
    ] = None,
    runtime: Annotated[str, typer.Option(help="auto | torch | onnxruntime | openvino | tensorrt | fake")] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            help="Required precision: fp32 | bf16 | fp16 | int8. By default that of the encoder.", show_default=False
        ),
    ] = None,
    device: DeviceOption = "auto",
    n_threads: Annotated[
        int | None, typer.Option("--threads", help="Number of CPU threads. By default all.", min=1, show_default=False)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count stored and new texts and estimate the cost, without encoding.")
    ] = False,
) -> None:
    """Compute and store the vector of every review of a domain that is not stored yet.

    Example: loid-infer encode --domain video_games
    """
