"""Commands and the verbs behind them have the same parameters."""

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
    found = {f"{prefix}{one.name or one.callback.__name__}": one for one in group.registered_commands}
    for inner in group.registered_groups:
        found |= commands(inner.typer_instance, f"{prefix}{inner.name} ")
    return found


def default(parameter: inspect.Parameter) -> object:
    """The default of an option, as its own parser reads it."""
    (kind,) = parameter.annotation.__metadata__
    return kind.parser(parameter.default) if kind.parser and parameter.default else parameter.default


def taken(verb: object) -> dict[str, object]:
    """What a verb takes, with its defaults; settings by their fields."""
    names = {}
    for one in inspect.signature(verb, eval_str=True).parameters.values():
        if is_dataclass(one.annotation) and one.name == "settings":
            names |= {part.name: getattr(one.default, part.name) for part in fields(one.annotation)}
        else:
            names[one.name] = one.default
    return names


def test_all_commands_are_registered() -> None:
    assert sorted(commands(build())) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_parameters_of_its_function(name: str) -> None:
    callback = commands(build())[name].callback
    options = inspect.signature(callback).parameters
    assert options.keys() >= COMMON
    if not isinstance(callback.verb, str):  # a wrapper that passes on what it gets
        return
    takes = taken(declare._imported(callback.verb))
    assert options.keys() - COMMON <= takes.keys()
    needed = {one for one, given in takes.items() if given is inspect.Parameter.empty}
    assert needed <= options.keys() - COMMON
    # Without an option a command does what the function does without the argument.
    same = [one for one in options.keys() - COMMON if options[one].default is not inspect.Parameter.empty]
    pairs = {one: (default(options[one]) or None, takes[one] or None) for one in same}
    assert {one: pair for one, pair in pairs.items() if pair[0] != pair[1]} == {}


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


@pytest.mark.parametrize("bag", [True, False])
def test_progress_messages_are_printed_unless_quiet(bag: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def named(progress, workspace):
        progress.say("it goes well")
        return {"n": 1}

    def open_ended(**options):
        return named(**options)

    @declare.command(open_ended if bag else named)
    def it() -> None:
        """Do it."""

    for quiet in (False, True):
        it(workspace=None, json=True, quiet=quiet)
        streams = capsys.readouterr()
        assert ("it goes well" in streams.err, streams.out.strip()) == (not quiet, '{"n": 1}')
