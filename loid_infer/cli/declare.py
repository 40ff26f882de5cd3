"""Makes a command of its declaration: parameters are its options, the docstring its help, and a verb does the work."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from loid_infer.cli.terminal import EXIT_USER, People, in_workspace, show
from loid_infer.errors import LoidError
from loid_infer.settings import Workspace

# The flags of options that have a short one, or another name than their parameter.
_FLAGS = {
    "workspace": ("-w", "--workspace"),
    "quiet": ("--quiet", "-q"),
    "domain": ("--domain", "-d"),
    "domains": ("--domain", "-d"),
    "encoder": ("--encoder", "-e"),
    "encoders": ("--encoder", "-e"),
    "heads": ("--head",),
    "plugins": ("--plugin", "-p"),
}


def _common(
    workspace: Annotated[
        Path | None, "Folder with data/, exports/ and cache/. By default $LOID_WORKSPACE, else the current folder."
    ] = None,
    json: Annotated[bool, "Print one JSON object on stdout."] = False,
    quiet: Annotated[bool, "Print nothing but errors on stderr."] = False,
) -> None:
    """The options of every command."""


def command(
    verb: str | Callable[..., Any],
    *,
    people: Callable[[Any], Any] = lambda result: result,
    bad: Callable[[Any], bool | str | None] = lambda result: None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a declaration into the command that calls `verb` and prints its result.

    A parameter is annotated with a `typer.Option`, a `typer.Argument`, or just the help text of an option. One whose
    annotation is a dataclass of settings becomes one option per field with a help text in its metadata; the verb gets
    the dataclass.

    Args:
        verb: `module.function` in `loid_infer.verbs`, imported when the command runs; or any function. It is called
            with every declared parameter by name unless it is None, with `workspace` and, if it takes one, `progress`.
        people: what is shown without `--json`; with it, the whole result is.
        bad: whether a printed result ends the command with exit code 2; a text is printed as the error.
    """

    def make(declaration: Callable[..., None]) -> Callable[..., None]:
        declared = inspect.signature(declaration, eval_str=True).parameters.values()
        settings: dict[str, Any] = {item.name: item.annotation for item in declared if is_dataclass(item.annotation)}

        def _command(*, workspace: Path | None, json: bool, quiet: bool, **options: Any) -> None:
            arguments = {name: value for name, value in options.items() if value is not None}
            for name, kind in settings.items():
                names = [field.name for field in fields(kind) if field.metadata and field.name in arguments]
                arguments[name] = kind(**{field: arguments.pop(field) for field in names})
            run = _imported(verb) if isinstance(verb, str) else verb
            takes = inspect.signature(run).parameters.values()
            if any(item.name == "progress" or item.kind is item.VAR_KEYWORD for item in takes):
                arguments["progress"] = People(quiet=quiet)
            try:
                result = run(**arguments, workspace=Workspace.of(workspace))
            except LoidError as error:
                error.fix = in_workspace(error.fix, workspace) if workspace else error.fix
                raise
            show(result if json else people(result), as_json=json)
            problem = bad(result)
            if isinstance(problem, str):
                sys.stderr.write(f"error: {problem}\n")
            if problem:
                raise typer.Exit(EXIT_USER)

        common = inspect.signature(_common, eval_str=True).parameters.values()
        parameters = [option for item in (*declared, *common) for option in _options(item)]
        _command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        _command.__annotations__ = {option.name: option.annotation for option in parameters}
        _command.__doc__, _command.__name__ = declaration.__doc__, declaration.__name__.rstrip("_")
        _command.verb = verb  # type: ignore[attr-defined]
        return _command

    return make


def _options(declared: inspect.Parameter) -> list[inspect.Parameter]:
    kind = declared.annotation
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return [
            _option(part.name, hints[part.name], part.default, part.metadata) for part in fields(kind) if part.metadata
        ]
    hint, about = get_args(kind)
    if isinstance(about, str):
        return [_option(declared.name, hint, declared.default, {"help": about})]
    return [declared.replace(kind=inspect.Parameter.KEYWORD_ONLY)]


def _option(name: str, hint: Any, default: Any, about: Mapping[str, Any]) -> inspect.Parameter:
    """A parameter that is an option; a tuple of strings is given as A,B,C, and a bool that is False by a flag."""
    flags = _FLAGS.get(name, (f"--{name.replace('_', '-')}",) if hint is bool else ())
    if hint == tuple[str, ...]:
        hint, about = Any, {**about, "parser": _separated, "metavar": "A,B,...", "show_default": False}
    annotation = Annotated[hint, typer.Option(*flags, **about)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _separated(text: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(","))) if isinstance(text, str) else text


def _imported(verb: str) -> Callable[..., Any]:
    module, name = verb.split(".")
    function: Callable[..., Any] = getattr(importlib.import_module(f"loid_infer.verbs.{module}"), name)
    return function
