"""Errors of commands: one JSON object with `--json`, and commands in advice that work as they are."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from msgspec.structs import replace

from loid_infer import ingest
from loid_infer.cli import app
from loid_infer.cli.terminal import in_workspace
from loid_infer.data.splits import refuse_leak
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.encoders.graph import load_error
from loid_infer.encoders.manifest import Parity
from loid_infer.encoders.opening import load
from loid_infer.encoders.protocol import Backend
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import LoidError
from loid_infer.graphs import making
from loid_infer.heads.loid import LoidNet
from loid_infer.heads.presets import HeadOptions
from loid_infer.settings import Workspace
from loid_infer.store.writer import Committer, StoreWriter
from loid_infer.types import Split, TrainingRun
from loid_infer.verbs import doctor, evaluate
from tests.cli.test_cli import loid
from tests.conftest import make_spec, toy_texts, write_reviews


@pytest.fixture
def run():
    """Runs a command in this process: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        done = loid(*arguments)
        return done.returncode, done.stdout, done.stderr

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
    assert (code, json.loads(out)["n_stores"]) == (0, 0)


def test_an_interrupt_is_an_object_too(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(**options: object) -> None:
        raise app.Stopped

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


def repeated(advice: str, arguments: list[str]) -> list[str]:
    """The commands and options in an advice of which nothing is new to who gave `arguments`."""
    parts = re.findall(r"loid-infer [^`;,]+|--[a-z-]+ [\w-]+", advice)
    return [part for part in parts if {*part.rstrip(". ").removeprefix("loid-infer ").split()} <= {*arguments}]


def _runtime_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*arguments: object) -> NoReturn:
        raise load_error("onnxruntime", Path("model.onnx"), ValueError("unsupported model IR version"))

    monkeypatch.setattr(making, "measure_runtimes", measure)


def _parity_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "measure_runtimes", lambda *arguments: [("torch", Parity(0.5, 0.5, 1.0, 64))])


def _encoder_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(workspace: Workspace, name: str | None, domain: str, part: Split) -> None:
        run = TrainingRun(domain=domain, split="random", split_digest="another", split_seed=0, table_digest="")
        refuse_leak([run], domain, part, "plugin 'toys'")

    monkeypatch.setattr(evaluate, "resolve_without_leak", resolve)


def refused(call: Callable[[], object]) -> LoidError:
    with pytest.raises(LoidError) as error:
        call()
    return error.value


@pytest.mark.parametrize(
    ("command", "broken", "instead"),
    [
        ("export --base TOY", _runtime_fails, "pip install --upgrade onnxruntime"),
        ("export --base TOY --precision fp32", _parity_fails, "Update or uninstall"),
        ("export --base WITHOUT_TOKENIZER", None, "the complete tokenizer"),
        ("evaluate --domain toys --seeds 2 --split-seed 0", _encoder_leaks, "one encoder per split"),
    ],
)
def test_an_error_never_advises_what_was_just_done(
    run, tmp_path, toy_base, monkeypatch, command, broken, instead
) -> None:
    ingest([write_reviews(tmp_path / "toys.jsonl", toy_texts(60))], "toys", workspace=Workspace(tmp_path))
    shutil.copytree(toy_base, tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    bases = {"TOY": str(toy_base), "WITHOUT_TOKENIZER": str(tmp_path / "base")}
    arguments = [*(bases.get(word, word) for word in command.split()), "-w", str(tmp_path), "--json"]
    if broken:
        broken(monkeypatch)
    code, out, _ = run(*arguments)
    advice = json.loads(out)["error"]["fix"]
    assert code == 2 and instead in advice
    assert repeated(advice, arguments) == [] and "xport the encoder again." not in advice


def test_advice_that_repeats_a_command_is_found() -> None:
    arguments = ["export", "--name", "base", "--precision", "fp32"]
    assert repeated("Run `loid-infer export --name base`, or try --precision bf16.", arguments)
    assert repeated("Try --precision fp32.", arguments)
    assert not repeated("Run `loid-infer export --name other`.", arguments)


def test_the_advised_number_of_heads_is_possible() -> None:
    settings = replace(HeadOptions("paper").settings(), n_heads=4)
    advice = refused(lambda: LoidNet(settings, 2, 2, 30, 30)).fix
    assert advice == "Give --n-heads 2." and LoidNet(replace(settings, n_heads=2), 2, 2, 30, 30)


def test_a_precision_that_the_encoder_has_is_not_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = EncoderFolder("base", Path("nowhere"), make_spec(precision="fp32"), "")
    monkeypatch.setattr(Backend, "computes", lambda *arguments: False)
    assert refused(lambda: load("torch", encoder, "cpu", 1)).fix == "Use --runtime auto."


@pytest.mark.parametrize("store_dtype", ["fp16", "fp32"])
def test_the_data_type_of_a_store_is_not_advised_again(tmp_path: Path, store_dtype: str) -> None:
    spec = make_spec(store_dtype=store_dtype)
    with StoreWriter(tmp_path, spec, fingerprint(spec)) as writer:
        error = refused(lambda: add(writer, np.full((1, spec.dim), np.nan, np.float32)))
    assert ("--store fp32" in error.fix) == (store_dtype == "fp16")


def add(writer: StoreWriter, vectors: np.ndarray) -> None:
    with Committer(writer) as committer:
        committer.add(np.zeros((len(vectors), 16), np.uint8), vectors)


def test_plugins_of_different_splits_do_not_advise_each_other():
    runs = [
        TrainingRun(domain="toys", split="random", split_digest=f"split {seed}", split_seed=seed, table_digest="")
        for seed in (1, 2)
    ]
    part = Split("random", 0, *[np.ones(1, np.bool_)] * 3, "this split")
    error = refused(lambda: refuse_leak(runs, "toys", part, "the encoder"))
    assert "train them again" in error.fix
    assert "--split-seed" not in error.fix


def test_without_a_temporary_folder_what_needs_one_is_refused_and_the_rest_works(
    workspace: Workspace, toy_base: Path, tmp_path: Path
) -> None:
    """In new processes, where transformers and torch are imported without one."""
    ingest([write_reviews(tmp_path / "toys.jsonl", toy_texts(120))], "toys", workspace=workspace)

    def run(command: str) -> tuple[int, str]:
        code = f"""if True:
            import sys, tempfile
            tempfile._candidate_tempdir_list = list
            sys.argv = ["loid-infer", *{command.split()!r}, "-w", {str(workspace.root)!r}]
            from loid_infer.cli.app import main
            main()
        """
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    assert run("encode --domain toys")[0] == 0
    for command in (f"export --name other --base {toy_base}", "fit --domain toys --epochs 1"):
        status, words = run(command)
        assert (status, "TMPDIR=DIR" in words) == (2, True), words
