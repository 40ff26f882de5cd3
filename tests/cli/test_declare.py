"""Commands have the parameters of the functions that they call."""

import inspect
from dataclasses import dataclass, fields, is_dataclass

import pytest
import typer
from typer.models import CommandInfo
from typer.testing import CliRunner

from loid_infer.cli import declare
from loid_infer.cli.app import build
from loid_infer.settings import option
from tests.cli.test_cli import COMMANDS

COMMON = {"workspace", "json", "quiet"}


def commands(group: typer.Typer, prefix: str = "") -> dict[str, CommandInfo]:
    by_name = {f"{prefix}{info.name or info.callback.__name__}": info for info in group.registered_commands}
    for inner in group.registered_groups:
        by_name |= commands(inner.typer_instance, f"{prefix}{inner.name} ")
    return by_name


def default(parameter: inspect.Parameter) -> object:
    """The default of an option, as its own parser reads it."""
    (kind,) = parameter.annotation.__metadata__
    return kind.parser(parameter.default) if kind.parser and parameter.default else parameter.default


def parameters_of(function: object) -> dict[str, object]:
    """The parameters of a function with their defaults; those of `settings` by field."""
    names = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if is_dataclass(parameter.annotation) and parameter.name == "settings":
            names |= {field.name: getattr(parameter.default, field.name) for field in fields(parameter.annotation)}
        else:
            names[parameter.name] = parameter.default
    return names


def test_all_commands_are_registered() -> None:
    assert sorted(commands(build())) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_parameters_of_its_function(name: str) -> None:
    callback = commands(build())[name].callback
    options = inspect.signature(callback).parameters
    assert options.keys() >= COMMON
    if not isinstance(callback.verb, str):  # a wrapper that passes its arguments on
        return
    parameters = parameters_of(declare._imported(callback.verb))
    assert options.keys() - COMMON <= parameters.keys()
    required = {name for name, value in parameters.items() if value is inspect.Parameter.empty}
    assert required <= options.keys() - COMMON
    # The default of an option equals the default of the argument.
    with_default = [name for name in options.keys() - COMMON if options[name].default is not inspect.Parameter.empty]
    pairs = {name: (default(options[name]) or None, parameters[name] or None) for name in with_default}
    assert {name: pair for name, pair in pairs.items() if pair[0] != pair[1]} == {}


@dataclass(frozen=True)
class Settings:
    rate: float = option(0.5, "Rate.", min=0, max=1)
    names: tuple[str, ...] = option((), "Names.")
    most: int | None = option(None, "Maximum.", min=1, max=9)
    hidden: int = 7


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], Settings()),
        (["--rate", "1", "--names", "a, b,a", "--most", "3"], Settings(1.0, ("a", "b"), 3)),
        (["--rate", "2"], None),
        (["--hidden", "3"], None),
    ],
)
def test_settings_become_options(arguments: list[str], expected: Settings | None) -> None:
    got = []

    def verb(settings, workspace):
        got.append(settings)
        return {}

    @declare.command(verb)
    def it(settings: Settings = Settings()) -> None:
        """Do it."""

    app = typer.Typer()
    app.command()(it)
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, got) == ((0, [expected]) if expected else (2, []))


@pytest.mark.parametrize("keyword_arguments", [True, False])
def test_progress_messages_are_printed_unless_quiet(
    keyword_arguments: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_parameters(progress, workspace):
        progress.say("it goes well")
        return {"n": 1}

    def with_keyword_arguments(**options):
        return with_parameters(**options)

    @declare.command(with_keyword_arguments if keyword_arguments else with_parameters)
    def it() -> None:
        """Do it."""

    for quiet in (False, True):
        it(workspace=None, json=True, quiet=quiet)
        streams = capsys.readouterr()
        assert ("it goes well" in streams.err, streams.out.strip()) == (not quiet, '{"n": 1}')
