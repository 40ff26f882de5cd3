"""The command-line app. A verb's module is imported when its command runs, so that help is fast.

This module imports nothing that takes time, so that Ctrl-C is handled from the start.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import typer

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_EXIT_INTERRUPTED = 130
_ALONE = {"--ray": "local", "--shard": "auto"}  # options of encode


def build() -> typer.Typer:
    """All commands, in the order in which they are declared."""
    import typer

    from loid_infer.cli import bdlm, cache, cf, commands, cora, heads, llmrec, plugins

    app = typer.Typer(
        name="loid-infer",
        help="Encode review texts once, store the vectors, train recommender heads on them, and score pairs.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    plugin = typer.Typer(no_args_is_help=True, help="Train, merge, import and compare LoRA plugins.")
    stores = typer.Typer(no_args_is_help=True, help="Inspect, check, repair, clean up, export and import the stores.")
    by_text = typer.Typer(no_args_is_help=True, help="Train heads that rank items by their texts (LLM-Rec).")
    by_interactions = typer.Typer(no_args_is_help=True, help="Train heads on interactions alone.")
    answers = typer.Typer(no_args_is_help=True, help="Train heads in which a decoder answers by titles (CoRA).")
    app.add_typer(plugin, name="plugin")
    app.add_typer(by_text, name="llmrec")
    app.add_typer(by_interactions, name="cf")
    together = typer.Typer(no_args_is_help=True, help="Train a decoder and a collaborative model together (BDLM).")
    app.add_typer(answers, name="cora")
    app.add_typer(together, name="bdlm")
    app.add_typer(stores, name="cache")
    for group, module in (
        (app, commands),
        (app, heads),
        (plugin, plugins),
        (by_text, llmrec),
        (by_interactions, cf),
        (answers, cora),
        (together, bdlm),
        (stores, cache),
    ):
        for declared in vars(module).values():
            if hasattr(declared, "verb"):
                group.command()(declared)
    return app


def main() -> None:
    """Entry point. User errors exit with 2, Ctrl-C with 130; other exceptions are bugs and show their traceback.

    With `--json` each of them is also one object on stdout.
    """
    try:
        for number in _SIGNALS:
            signal.signal(number, _stop)
        _run(as_json="--json" in sys.argv)
    except Stopped:
        _say_stopped()
        raise SystemExit(_EXIT_INTERRUPTED) from None
    finally:
        _ignore_signals()


def _run(as_json: bool) -> NoReturn:
    from loid_infer.cli.terminal import EXIT_USER, show_error
    from loid_infer.errors import LoidError
    from loid_infer.settings import wait_briefly

    wait_briefly()
    try:
        sys.argv[1:] = with_values(sys.argv[1:])
        # Without --json typer prints its usage errors and exits; with it they are raised.
        sys.exit(build()(standalone_mode=not as_json))
    except LoidError as error:
        show_error(error, "error: ", as_json=as_json)
        raise SystemExit(EXIT_USER) from None
    except Exception as error:
        if as_json and hasattr(error, "format_message"):  # a usage error of typer
            usage = LoidError(error.format_message().removesuffix("."), fix="Add --help to see the options.")
            show_error(usage, "error: ", as_json=True)
            raise SystemExit(EXIT_USER) from None
        bug = LoidError(f"{type(error).__name__}: {error}", fix="This is a bug: please report the traceback.")
        show_error(bug, "", as_json=as_json)
        raise


def with_values(arguments: list[str]) -> list[str]:
    """Command-line arguments with the value of an option that may stand alone, which typer does not know."""
    ends = [*arguments[1:], "-"]
    return [
        part
        for given, after in zip(arguments, ends, strict=bool(arguments))
        for part in ([given, _ALONE[given]] if given in _ALONE and after.startswith("-") else [given])
    ]


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not KeyboardInterrupt, which typer would convert to its own exit code."""


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Raise `Stopped`, so that context managers commit finished work; in an import, which may hide it, exit at once."""
    _ignore_signals()  # a second signal would interrupt the last commit
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            _say_stopped()
            os._exit(_EXIT_INTERRUPTED)
        frame = frame.f_back
    raise Stopped


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _say_stopped() -> None:
    what, fix = "stopped; committed work is kept", f"To continue: {shlex.join(['loid-infer', *sys.argv[1:]])}"
    sys.stderr.write(f"\n{what}. {fix}\n")
    sys.stderr.flush()
    if "--json" in sys.argv:
        empty = {"where": "", "expected": "", "got": ""}
        sys.stdout.write(json.dumps({"error": {"what": what, **empty, "fix": fix}}) + "\n")
        sys.stdout.flush()
