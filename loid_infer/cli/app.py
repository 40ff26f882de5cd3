"""The command-line app. A verb's module is imported when its command runs, so that help is fast."""

from __future__ import annotations

import shlex
import sys

import typer

from loid_infer.cli import cache, commands, plugins
from loid_infer.cli.terminal import EXIT_INTERRUPTED, EXIT_USER, Stopped, stop_on_signals
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
    """Entry point. User errors exit with 2, Ctrl-C with 130; other exceptions are bugs and show their traceback."""
    stop_on_signals()
    try:
        build()()
    except LoidError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(EXIT_USER) from None
    except Stopped:
        again = shlex.join(["loid-infer", *sys.argv[1:]])
        sys.stderr.write(f"\nstopped; committed work is kept. To continue: {again}\n")
        raise SystemExit(EXIT_INTERRUPTED) from None
