"""Makes a command of its declaration: parameters are its options, the docstring its help, and a verb does the work."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from loid_infer.cli.terminal import EXIT_USER, People, show
from loid_infer.settings import Workspace

_WORKSPACE = Annotated[
    Path | None,
    typer.Option(
        "-w",
        "--workspace",
        help="Folder with data/, exports/ and cache/. By default $LOID_WORKSPACE, else the current folder.",
        show_default=False,
    ),
]
_COMMON = {
    "workspace": (_WORKSPACE, None),
    "json": (Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")], False),
    "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors on stderr.")], False),
}


def command(
    verb: str | Callable[..., Any],
    *,
    people: Callable[[Any], Any] = lambda result: result,
    bad: Callable[[Any], bool] = lambda result: False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a declaration into the command that calls `verb` and prints its result.

    A parameter whose annotation is a dataclass of settings becomes one option per field with a help text in its
    metadata; the verb gets the dataclass.

    Args:
        verb: `module.function` in `loid_infer.verbs`, imported when the command runs; or any function. It is called
            with every declared parameter by name, with `workspace` and, if it takes one, `progress`.
        people: what is shown without `--json`; with it, the whole result is.
        bad: whether a printed result ends the command with exit code 2.
    """

    def make(declaration: Callable[..., None]) -> Callable[..., None]:
        declared = inspect.signature(declaration, eval_str=True).parameters.values()
        settings: dict[str, Any] = {one.name: one.annotation for one in declared if is_dataclass(one.annotation)}

        def _command(**given: Any) -> None:
            workspace, as_json, quiet = (given.pop(name) for name in _COMMON)
            for name, kind in settings.items():
                chosen = {one.name: given.pop(one.name) for one in fields(kind) if one.metadata}
                given[name] = kind(**{key: value for key, value in chosen.items() if value is not None})
            run = _imported(verb) if isinstance(verb, str) else verb
            takes = inspect.signature(run).parameters.values()
            if any(one.name == "progress" or one.kind is one.VAR_KEYWORD for one in takes):
                given["progress"] = People(quiet=quiet)
            result = run(**given, workspace=Workspace.of(workspace))
            show(result if as_json else people(result), as_json=as_json)
            if bad(result):
                raise typer.Exit(EXIT_USER)

        parameters = [option for one in declared for option in _options(one)]
        parameters += [_keyword(name, annotation, default) for name, (annotation, default) in _COMMON.items()]
        _command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        _command.__annotations__ = {one.name: one.annotation for one in parameters}
        _command.__doc__, _command.__name__ = declaration.__doc__, declaration.__name__.rstrip("_")
        _command.verb = verb  # type: ignore[attr-defined]
        return _command

    return make


def _options(declared: inspect.Parameter) -> list[inspect.Parameter]:
    kind = declared.annotation
    if not is_dataclass(kind):
        return [declared.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
    hints = get_type_hints(kind)
    return [_keyword(one.name, _annotation(one, hints[one.name]), one.default) for one in fields(kind) if one.metadata]


def _annotation(field: Field[Any], hint: Any) -> Any:
    """A field of settings as an option; a tuple of strings is given as A,B,C."""
    several = hint == tuple[str, ...]
    option = typer.Option(
        f"--{field.name.replace('_', '-')}",
        **field.metadata,
        show_default=field.default not in (None, ()),
        parser=_separated if several else None,
        metavar="A,B,..." if several else None,
    )
    return Annotated[Any if several else hint, option]


def _separated(text: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(","))) if isinstance(text, str) else text


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _imported(verb: str) -> Callable[..., Any]:
    module, name = verb.split(".")
    function: Callable[..., Any] = getattr(importlib.import_module(f"loid_infer.verbs.{module}"), name)
    return function
