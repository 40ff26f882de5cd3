"""A command made of its declaration: parameters are its options, the docstring its help, and a verb does the work."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from loid_infer.cli.terminal import EXIT_USER, People, show
from loid_infer.settings import Workspace

_WORKSPACE = Annotated[
    Path | None,
    typer.Option(
        "-w",
        "--workspace",
        help="Folder that holds data/, exports/ and cache/; $LOID_WORKSPACE, else the current folder.",
        show_default=False,
    ),
]
_COMMON = {
    "workspace": (_WORKSPACE, None),
    "json": (Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")], False),
    "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")], False),
}


def command(
    verb: str | Callable[..., Any],
    *,
    people: Callable[[Any], Any] = lambda result: result,
    bad: Callable[[Any], bool] = lambda result: False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a declaration into the command that calls `verb` and prints its result.

    Args:
        verb: `module.function` below `loid_infer.verbs`, imported when the command runs; or any function. It is called
            with every declared parameter by its name, with `workspace` and, if it takes one, `progress`.
        people: what people are shown of a result; programs get all of it.
        bad: whether a result that is printed ends the command with exit code 2.
    """

    def make(declaration: Callable[..., None]) -> Callable[..., None]:
        def _command(**given: Any) -> None:
            workspace, as_json, quiet = (given.pop(name) for name in _COMMON)
            run = _imported(verb) if isinstance(verb, str) else verb
            takes = inspect.signature(run).parameters.values()
            if any(one.name == "progress" or one.kind is one.VAR_KEYWORD for one in takes):
                given["progress"] = People(quiet=quiet)
            result = run(**given, workspace=Workspace.of(workspace))
            show(result if as_json else people(result), as_json=as_json)
            if bad(result):
                raise typer.Exit(EXIT_USER)

        kind = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            one.replace(kind=kind) for one in inspect.signature(declaration, eval_str=True).parameters.values()
        ]
        parameters += [
            inspect.Parameter(name, kind, default=default, annotation=annotation)
            for name, (annotation, default) in _COMMON.items()
        ]
        _command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        _command.__annotations__ = {one.name: one.annotation for one in parameters}
        _command.__doc__, _command.__name__ = declaration.__doc__, declaration.__name__.rstrip("_")
        _command.verb = verb  # type: ignore[attr-defined]
        return _command

    return make


def _imported(verb: str) -> Callable[..., Any]:
    module, name = verb.split(".")
    found: Callable[..., Any] = getattr(importlib.import_module(f"loid_infer.verbs.{module}"), name)
    return found
