"""The plugin commands on the command line."""

import json
from pathlib import Path

import pytest

from loid_infer.settings import Workspace
from tests.cli.test_cli import as_json, loid
from tests.plugins.toy_plugins import peft_model, random_delta, write_plugin


def test_plugins_are_merged_listed_and_shown(tmp_path: Path) -> None:
    workspace, root = Workspace(tmp_path), str(tmp_path)
    write_plugin(workspace, "one", random_delta(1))
    write_plugin(workspace, "two", random_delta(2))
    options = ["--method", "dare_ties", "--weights", "1,-0.5", "--density", "0.9", "--seed", "4"]
    result = as_json(loid("plugin", "merge", "one", "two", "--name", "both", *options, "-w", root, "--json"))
    assert (result["plugin"], result["method"], result["seed"], result["density"]) == ("both", "dare_ties", 4, 0.9)
    assert dict(zip(result["parents"], result["weights"], strict=True)) == {"one": 1, "two": -0.5}
    assert result["path"] == str(workspace.plugin("both"))
    listed = as_json(loid("plugin", "list", "-w", root, "--json"))["plugins"]
    assert [plugin["name"] for plugin in listed] == ["both", "one", "two"]
    shown = as_json(loid("plugin", "show", "both", "-w", root, "--json"))
    assert shown == json.loads((workspace.plugin("both") / "manifest.json").read_text())
    assert "dare_ties" in loid("plugin", "list", "-w", root).stdout


def test_an_adapter_is_imported(toy_base: Path, tmp_path: Path) -> None:
    peft_model(toy_base).save_pretrained(tmp_path / "mine")
    result = as_json(
        loid(
            "plugin",
            "import",
            str(tmp_path / "mine"),
            "--name",
            "mine",
            "--base",
            str(toy_base),
            "-w",
            str(tmp_path),
            "--json",
        )
    )
    assert (result["plugin"], result["method"], result["base"]) == ("mine", "import", toy_base.name)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["show", "none"], ["no plugin 'none'", "got one", "plugin train"]),
        (["show", "../one"], ["invalid plugin name"]),
        (["merge", "one", "none", "--name", "m", "--method", "ties"], ["no plugin 'none'"]),
        (["merge", "one", "one", "--name", "m", "--method", "ties"], ["'one' is named twice"]),
        (["merge", "one", "--name", "m", "--method", "slerp"], ["'slerp'", "dare_ties"]),
        (["merge", "one", "--name", "m", "--method", "ties", "--weights", "1,x"], ["--weights", "1,x"]),
        (["merge", "one", "--name", "m", "--method", "ties", "--weights", "1,2"], ["--weights", "expected 1"]),
        (["merge", "one", "--name", "m", "--method", "linear", "--density", "1"], ["--density 1"]),
        (["import", "nowhere", "--name", "m"], ["nowhere", "adapter_config.json"]),
    ],
)
def test_a_user_error_is_one_line_and_exits_2(tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    write_plugin(Workspace(tmp_path), "one", random_delta(1))
    done = loid("plugin", *arguments, "-w", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.strip().splitlines()) == 1
    assert all(part in done.stderr for part in parts), done.stderr


def test_missing_required_options_are_errors(tmp_path: Path) -> None:
    write_plugin(Workspace(tmp_path), "one", random_delta(1))
    for arguments in (["one", "--name", "m"], ["one", "--method", "ties"], ["--name", "m", "--method", "ties"]):
        assert loid("plugin", "merge", *arguments, "-w", str(tmp_path)).returncode == 2
    assert not (tmp_path / "exports" / "plugins" / "m").exists()
