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
        str | None, typer.Option(help="Of the encoder; the last plugin's by default, else `base`.", show_default=False)
    ] = None,
    base: BaseOption = DEFAULT_BASE,
    plugins: Annotated[
        list[str],
        typer.Option(
            "--plugin",
            "-p",
            help="To add to the base, with all it was trained on; repeat for more.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer makes a list of its own
    pooling: Annotated[
        str, typer.Option(help="What is read of the last layer: auto, as the base says | cls | mean | last")
    ] = "auto",
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize",
            help="Vectors of unit length; as the base says by default.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Put before every text; the base's own by default.", show_default=False)
    ] = None,
    prompt_name: Annotated[
        str | None, typer.Option(help="One of a sentence-transformers folder's prompts.", show_default=False)
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
) -> None:
    """Make an encoder that any runtime can open and prove itself on.

    Example: loid-infer export --plugin video_games
    """


def _each(encoder: list[str] | None, **options: Any) -> Any:
    """`encode` with one encoder after the other."""
    from loid_infer.verbs.encode import encode as verb

    names: list[str | None] = [*(encoder or [])] or [None]
    if len(set(names)) < len(names):
        raise BadSetting(
            "an encoder is named twice",
            where="--encoder",
            expected="each once",
            got=", ".join(map(str, names)),
            mend="Give each name once.",
        )
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
            help="An export's name, repeat for more; the domain's own or `base` by default.",
            show_default=False,
        ),
    ] = None,
    runtime: Annotated[str, typer.Option(help="auto | torch | onnxruntime | openvino | tensorrt | fake")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="What the encoder must have: fp32 | bf16 | fp16 | int8", show_default=False)
    ] = None,
    device: DeviceOption = "auto",
    n_threads: Annotated[
        int | None, typer.Option("--threads", help="Processors to use; all by default.", min=1, show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell hits, new texts and the cost.")] = False,
) -> None:
    """Store the vector of every review of a domain; what is stored already is not computed again.

    Example: loid-infer encode --domain video_games
    """
