"""The command-line app. A verb's module is imported when its command runs, so that help is fast."""

from __future__ import annotations

import shlex
import sys

import typer

from loid_infer.cli import cache, commands, plugins
from loid_infer.cli.terminal import EXIT_INTERRUPTED, EXIT_USER, Stopped, show_error, stop_on_signals
from loid_infer.errors import LoidError


def build() -> typer.Typer:
    """All commands, in the order in which they are declared."""
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
    app.add_typer(plugin, name="plugin")
    app.add_typer(stores, name="cache")
    for group, module in ((app, commands), (plugin, plugins), (stores, cache)):
        for declared in vars(module).values():
            if hasattr(declared, "verb"):
                group.command()(declared)
    return app


def main() -> None:
    """Entry point. User errors exit with 2, Ctrl-C with 130; other exceptions are bugs and show their traceback.

    With `--json` each of them is also one object on stdout.
    """
    stop_on_signals()
    as_json = "--json" in sys.argv
    try:
        # Without --json typer prints its usage errors and exits; with it they are raised.
        sys.exit(build()(standalone_mode=not as_json))
    except LoidError as error:
        show_error(error, "error: ", as_json=as_json)
        raise SystemExit(EXIT_USER) from None
    except Stopped:
        fix = f"To continue: {shlex.join(['loid-infer', *sys.argv[1:]])}"
        show_error(LoidError("stopped; committed work is kept", fix=fix), "\n", as_json=as_json)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except Exception as error:
        if as_json and hasattr(error, "format_message"):  # a usage error of typer
            usage = LoidError(error.format_message().removesuffix("."), fix="Add --help to see the options.")
            show_error(usage, "error: ", as_json=True)
            raise SystemExit(EXIT_USER) from None
        bug = LoidError(f"{type(error).__name__}: {error}", fix="This is a bug: please report the traceback.")
        show_error(bug, "", as_json=as_json)
        raise
