"""Commands and the verbs behind them have the same parameters."""

import inspect

import pytest
import typer
from typer.models import CommandInfo

from loid_infer.cli import declare
from loid_infer.cli.app import build
from tests.cli.test_cli import COMMANDS

COMMON = {"workspace", "json", "quiet"}


def commands(group: typer.Typer, prefix: str = "") -> dict[str, CommandInfo]:
    found = {f"{prefix}{one.name or one.callback.__name__}": one for one in group.registered_commands}
    for inner in group.registered_groups:
        found |= commands(inner.typer_instance, f"{prefix}{inner.name} ")
    return found


def read(option: inspect.Parameter) -> object:
    """Its default, as its own parser reads it."""
    (told,) = option.annotation.__metadata__
    return told.parser(option.default) if told.parser and option.default else option.default


def test_all_are_known() -> None:
    assert sorted(commands(build())) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_gives_its_verb_what_it_takes(name: str) -> None:
    callback = commands(build())[name].callback
    options = inspect.signature(callback).parameters
    verb = callback.verb if callable(callback.verb) else declare._imported(callback.verb)
    takes = inspect.signature(verb).parameters
    bag = any(one.kind is one.VAR_KEYWORD for one in takes.values())
    assert options.keys() >= COMMON
    assert bag or options.keys() - COMMON <= takes.keys()
    needed = {one for one, parameter in takes.items() if parameter.default is parameter.empty} - {"options"}
    assert needed <= options.keys() - COMMON | {"workspace", "progress"}
    if isinstance(callback.verb, str):  # what a user does not say is what a library's user does not say
        same = [one for one in options.keys() - COMMON if options[one].default is not inspect.Parameter.empty]
        told = {one: (read(options[one]) or None, takes[one].default or None) for one in same}
        assert {one: pair for one, pair in told.items() if pair[0] != pair[1]} == {}


@pytest.mark.parametrize("bag", [True, False])
def test_what_a_verb_says_reaches_people_unless_they_are_quiet(bag: bool, capsys: pytest.CaptureFixture[str]) -> None:
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
