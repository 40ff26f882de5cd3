"""The app: every command under its name. A verb's module is imported when its command runs, so help is fast."""

from __future__ import annotations

import sys

import typer

from loid_infer.cli import cache, encoders, heads, plugins, reports, tables
from loid_infer.cli.terminal import Stopped, failed, interrupted, stop_on_signals
from loid_infer.errors import LoidError

_HELP = "Encode reviews once, keep the vectors, train a light recommender head on them, score pairs."


def build() -> typer.Typer:
    """All commands, in the order in which a newcomer needs them."""
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
    additions = typer.Typer(no_args_is_help=True, help="What an encoder learns from domains: train, merge, look.")
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
    stores = typer.Typer(no_args_is_help=True, help="Look at the stored vectors, check them, hand them out.")
    for of_stores in (cache.info, cache.verify, cache.salvage, cache.compact, cache.gc, cache.export):
        stores.command()(of_stores)
    stores.command("import")(cache.import_)
    app.add_typer(stores, name="cache")
    return app


def main() -> None:
    """Entry point: user errors exit 2 in one paragraph, Ctrl-C exits 130, bugs keep their traceback."""
    stop_on_signals()
    try:
        build()()
    except LoidError as error:
        failed(error)
    except Stopped:
        interrupted(sys.argv[1:])
