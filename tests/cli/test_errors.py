"""Errors of commands: one JSON object with `--json`, and commands in advice that work as they are."""

import json
import shlex
from pathlib import Path

import pytest

from loid_infer.cli import app
from loid_infer.cli.terminal import Stopped, in_workspace
from loid_infer.verbs import doctor


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(app, "stop_on_signals", lambda: None)

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.argv", ["loid-infer", *arguments])
        with pytest.raises(SystemExit) as end:
            app.main()
        return end.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("arguments", "what", "fix"),
    [
        ("encode --json --domain toys", "no table for domain 'toys'", "loid-infer ingest SRC"),
        ("encode --json --domain A", "invalid domain name", "Choose"),
        ("encode --json", "Missing option '--domain'", "--help"),
        ("encode --json --domain", "requires an argument", "--help"),
        ("similar --domain toys -n many --json", "Invalid value for '-n'", "--help"),
        (
            "plugin merge one --name m --method ties --weights x --json",
            "not a list of numbers",
            "one number per plugin",
        ),
        ("nothing --json", "No such command 'nothing'", "--help"),
        ("cache nothing --json", "No such command 'nothing'", "--help"),
    ],
)
def test_with_json_an_error_is_one_object_on_stdout(run, tmp_path, monkeypatch, arguments, what, fix) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments.split())
    error = json.loads(out)["error"]
    assert (code, len(out.splitlines()), len(err.splitlines())) == (2, 1, 1)
    assert error.keys() == {"what", "where", "expected", "got", "fix"}
    assert what in error["what"] and fix in error["fix"]
    assert err.startswith("error: ") and error["what"] in err and error["fix"] in err


def test_with_json_exit_codes_of_results_are_kept(run, tmp_path: Path) -> None:
    code, out, _ = run("cache", "info", "--json", "-w", str(tmp_path))
    assert (code, json.loads(out)["n_stores"]) == (None, 0)  # None: 0


def test_an_interrupt_is_an_object_too(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(**options: object) -> None:
        raise Stopped

    monkeypatch.setattr(doctor, "doctor", stopped)
    code, out, err = run("doctor", "--json")
    assert (code, json.loads(out)["error"]["what"]) == (130, "stopped; committed work is kept")
    assert "To continue: loid-infer doctor --json" in err and "To continue" in json.loads(out)["error"]["fix"]


def test_a_bug_is_an_object_and_keeps_its_traceback(run, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(doctor, "doctor", None)
    monkeypatch.setattr("sys.argv", ["loid-infer", "doctor", "--json"])
    with pytest.raises(TypeError):  # the interpreter prints the traceback and exits with 1
        app.main()
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["error"]["what"].startswith("TypeError: ")


def test_commands_in_advice_name_the_workspace(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my reviews"
    _, _, err = run("encode", "--domain", "toys", "-w", str(folder))
    assert f"loid-infer ingest -w {shlex.quote(str(folder))} SRC --domain toys" in err
    _, _, err = run("encode", "--domain", "toys")
    assert "loid-infer ingest SRC --domain toys" in err
    advice = "Run `loid-infer cache salvage`: it helps. `loid-infer encode` or `pip install 'loid-infer[cpu]'`."
    expected = advice.replace("salvage", "salvage -w ws").replace("encode", "encode -w ws")
    assert in_workspace(advice, Path("ws")) == expected
