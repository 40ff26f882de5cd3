"""Commands that make and run encoders: export, encode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from loid_infer.cli.options import (
    BaseOption,
    DeviceOption,
    DomainOption,
    JsonOption,
    MaxTokensOption,
    QuietOption,
    WorkspaceOption,
    place,
)
from loid_infer.cli.terminal import People, show
from loid_infer.settings import DEFAULT_BASE


def export(
    name: Annotated[
        str | None,
        typer.Option("--name", help="Of the encoder; the last plugin's by default, else `base`.", show_default=False),
    ] = None,
    base: BaseOption = DEFAULT_BASE,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            "-p",
            help="To add to the base, with all it was trained on; repeat for more.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="auto | fp32 | bf16 | fp16 | int8")] = "auto",
    calibrate_on: Annotated[
        str | None, typer.Option(help="For int8: the domain whose reviews set the scales.", show_default=False)
    ] = None,
    store: Annotated[str, typer.Option(help="Dtype of stored vectors: fp16 | fp32")] = "fp16",
    max_tokens: MaxTokensOption = None,
    tensorrt: Annotated[
        bool, typer.Option("--tensorrt", help="Prepare TensorRT engines too; tells what is missing for them.")
    ] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make an encoder that any runtime can open and prove itself on.

    Example: loid-infer export --plugin video_games
    """
    from loid_infer.verbs.export import export as verb

    show(
        verb(
            name,
            base=base,
            plugins=plugin or (),
            precision=precision,
            calibrate_on=calibrate_on,
            store=store,
            max_tokens=max_tokens,
            tensorrt=tensorrt,
            workspace=place(workspace),
            progress=People(quiet=quiet),
        ),
        as_json=json,
    )


def encode(
    domain: DomainOption,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            "-e",
            help="An export's name, repeat for more in one pass; the domain's own or `base` by default.",
            show_default=False,
        ),
    ] = None,
    runtime: Annotated[str, typer.Option(help="auto | torch | onnxruntime | openvino | tensorrt | fake")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="What the encoder must have: fp32 | bf16 | fp16 | int8", show_default=False)
    ] = None,
    device: DeviceOption = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Processors to use; all by default.", min=1, show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell hits, new texts and the cost.")] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Store the vector of every review of a domain; what is stored already is not computed again.

    Example: loid-infer encode --domain video_games
    """
    from loid_infer.verbs import encode as verbs

    options: dict[str, Any] = {
        "runtime": runtime,
        "precision": precision,
        "device": device,
        "n_threads": threads,
        "workspace": place(workspace),
        "progress": People(quiet=quiet),
    }
    if encoder and len(encoder) > 1:
        several: Callable[..., Any] = verbs.dry_run_all if dry_run else verbs.encode_all
        show(several(domain, encoders=encoder, **options), as_json=json)
    else:
        one: Callable[..., Any] = verbs.dry_run if dry_run else verbs.encode
        show(one(domain, encoder=encoder[0] if encoder else None, **options), as_json=json)
