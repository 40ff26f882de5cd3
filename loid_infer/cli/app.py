"""The command-line app. A verb's module is imported when its command runs, so that help is fast."""

from __future__ import annotations

import sys

import typer

from loid_infer.cli import cache, encoders, heads, plugins, reports, tables
from loid_infer.cli.terminal import Stopped, failed, interrupted, stop_on_signals
from loid_infer.errors import LoidError

_HELP = "Encode review texts once, store the vectors, train recommender heads on them, and score pairs."


def build() -> typer.Typer:
    """All commands, in the order a new user needs them."""
    app = typer.Typer(
        name="loid-infer",
        help=_HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command in (
        tables.sample,
        tables.ingest,
        encoders.export,
        encoders.encode,
        heads.fit,
        heads.score,
        heads.evaluate,
        reports.report,
        heads.similar,
        reports.doctor,
    ):
        app.command()(command)
    additions = typer.Typer(no_args_is_help=True, help="Train, merge, import and compare LoRA plugins.")
    for name, of_plugins in (
        ("train", plugins.train),
        ("merge", plugins.merge),
        ("import", plugins.import_),
        ("list", plugins.list_),
        ("show", plugins.show_),
        ("similarity", plugins.similarity),
    ):
        additions.command(name)(of_plugins)
    app.add_typer(additions, name="plugin")
    stores = typer.Typer(no_args_is_help=True, help="Inspect, check, repair, export and import stores of vectors.")
    for of_stores in (cache.info, cache.verify, cache.salvage, cache.compact, cache.gc, cache.export):
        stores.command()(of_stores)
    stores.command("import")(cache.import_)
    app.add_typer(stores, name="cache")
    return app


def main() -> None:
    """Entry point. User errors exit with 2, Ctrl-C with 130; other exceptions are bugs and show their traceback."""
    stop_on_signals()
    try:
        build()()
    except LoidError as error:
        failed(error)
    except Stopped:
        interrupted(sys.argv[1:])
