"""The command-line app. A verb's module is imported when its command runs, so that help is fast.

This module imports nothing that takes time, so that Ctrl-C is handled from the start.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import typer

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_EXIT_USER, _EXIT_INTERRUPTED = 2, 130


def build() -> typer.Typer:
    """All commands, in the order in which they are declared."""
    import typer

    from loid_infer.cli import cache, commands, plugins

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
    try:
        for number in _SIGNALS:
            signal.signal(number, _stop)
        from loid_infer.errors import LoidError

        try:
            build()()
        except LoidError as error:
            sys.stderr.write(f"error: {error}\n")
            raise SystemExit(_EXIT_USER) from None
    except Stopped:
        _say_stopped()
        raise SystemExit(_EXIT_INTERRUPTED) from None
    finally:
        _ignore_signals()


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
    again = shlex.join(["loid-infer", *sys.argv[1:]])
    sys.stderr.write(f"\nstopped; committed work is kept. To continue: {again}\n")
    sys.stderr.flush()
