"""Coding conventions of docs/design.md that can be checked. Every exception is listed here by name, with its reason."""

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "loid_infer"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_MODULE, MAX_MEDIAN, MAX_FUNCTION = 400, 150, 50  # lines; of a function without signature and docstring
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "base", "misc", "core"}
# Function -> why it may be longer than MAX_FUNCTION.
LONG_FUNCTIONS: dict[str, str] = {}
# Calls that a module may make while it is imported.
MODULE_LEVEL_CALLS = {
    *(
        "TypeVar",
        "ParamSpec",
        "frozenset",
        "re.compile",
        "struct.Struct",
        "HeadOptions",
        "Meta",
        "HeadSettings",
        "RankOptions",
        "TrainSettings",
        "RankTrainSettings",
        "AnswerSettings",
        "CoraSettings",
        "BdlmSettings",
        "Kind",
        "Html",
    ),  # values that never change
    *(
        "np.dtype",
        "np.uint64",
        "np.iinfo",
        "np.array",
        "pa.schema",
        "pa.string",
        "pa.binary",
        "pa.int32",
        "pa.int64",
        "pa.float32",
    ),
    "threading.Lock",
    *("_Silent", "typer.Option", "typer.Argument", "', '.join", "','.join"),
}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_modules_are_discovered() -> None:
    assert len(MODULES) > 30


def test_modules_are_small() -> None:
    lines = {ids(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: n for name, n in lines.items() if n > MAX_MODULE} == {}
    assert statistics.median(lines.values()) <= MAX_MEDIAN


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_functions_are_short(path: Path) -> None:
    lengths = {
        f"{ids(path)}:{node.name}": node.end_lineno - first.lineno + 1
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for first in [node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]]
    }
    assert {name: n for name, n in lengths.items() if n > MAX_FUNCTION and name not in LONG_FUNCTIONS} == {}


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_every_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(tree(path)), "no module docstring"
    assert path.stem not in FORBIDDEN_NAMES


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_no_keyword_bags_in_public_signatures(path: Path) -> None:
    bags = [
        node.name
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and node.args.kwarg and not node.name.startswith("_")
    ]
    assert bags == []


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_only_allowed_functions_are_called_at_import(path: Path) -> None:
    calls = []
    for statement in tree(path).body:
        if isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign | ast.If | ast.For | ast.With):
            calls += [ast.unparse(node.func) for node in executed_calls(statement)]
    assert set(calls) - MODULE_LEVEL_CALLS == set()


def executed_calls(node: ast.AST) -> list[ast.Call]:
    """Calls that run when `node` is executed, so not those inside a lambda."""
    if isinstance(node, ast.Lambda):
        return []
    inner = [call for child in ast.iter_child_nodes(node) for call in executed_calls(child)]
    return [node, *inner] if isinstance(node, ast.Call) else inner


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_environment_is_read_in_settings_only(path: Path) -> None:
    if path.name != "settings.py":
        assert not re.search(r"os\.environ|os\.getenv", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_inheritance_is_single_and_limited_to_allowed_bases(path: Path) -> None:
    allowed = {"Protocol", "Exception", "BaseException", "ValueError", "LoidError", "nn.Module"}
    allowed |= {"Struct", "FitReport", "HeadManifest", "Parity", "PluginManifest", "RankingManifest", "Similarity"}
    allowed |= {"TrainSettings", "AnswerSettings", "EncodeResult"}
    allowed |= {"PairNet", "AnsweringModel"}  # modules that differ in one step
    allowed |= {"ProgressColumn", "io.RawIOBase"}  # required by rich and io
    allowed |= {"torch.autograd.Function"}  # for gradients of our own
    allowed |= {"dict[str, tuple[int, ...]]"}  # for __missing__, the fastest cache
    bases = {ast.unparse(b) for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef) for b in node.bases}
    assert bases - allowed == set()


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_no_pickle(path: Path) -> None:
    assert not re.search(
        r"(?<![\w_])(pickle|joblib|marshal|shelve)\b|torch\.(load|save)\(|allow_pickle=True",
        path.read_text(encoding="utf-8"),
    )


def test_every_requirement_has_both_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    loose = [line for group in groups for line in group if "==" not in line and not (">=" in line and "<" in line)]
    assert loose == []


def test_constraints_pin_every_requirement_but_those_of_a_gpu() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    groups = {
        name: group for name, group in project["optional-dependencies"].items() if name not in ("gpu", "tensorrt")
    }
    wanted = [
        re.split(r"[<>=\[]", line)[0].lower() for group in [project["dependencies"], *groups.values()] for line in group
    ]
    assert sorted(set(wanted) - pinned) == []


def test_generated_folders_are_ignored_by_git_and_packages_are_not() -> None:
    patterns = (ROOT / ".gitignore").read_text().split()
    assert "/data/" in patterns
    assert "data/" not in patterns


@pytest.mark.parametrize("verb", ["tables", "encode", "cache", "upkeep", "export", "plugins", "report", "doctor"])
def test_modules_that_do_not_need_torch_do_not_import_it(verb: str) -> None:
    code = f"import sys, loid_infer.verbs.{verb}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
