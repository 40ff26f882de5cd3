"""Output of `evaluate` and `similar` as tables and as JSON, without starting a process."""

import json
from dataclasses import replace

import pytest
import typer

from loid_infer.cli.evaluation import tables
from loid_infer.cli.heads import evaluate, row
from loid_infer.cli.terminal import show
from loid_infer.heads.presets import HeadOptions
from loid_infer.settings import Workspace
from loid_infer.verbs import evaluate as verb
from tests.verbs.toy_domain import ENCODER, make_domain


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("ws"))
    make_domain(workspace, "toys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "resolve_without_leak", lambda *_: ENCODER)
        return verb.evaluate("toys", seeds=2, settings=HeadOptions(epochs=1), ablate=True, workspace=workspace)


def test_the_printed_table_has_one_line_per_model(result, capsys):
    show(tables(result), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    head = next(line for line in lines if line.startswith("head ")).split()
    to_bias = result.named("head")
    assert head[2:4] == [f"{to_bias.value:.4f}", f"{to_bias.difference:+.4f}"] and head[4] == "bias"
    zeroed = next(line for line in lines if line.startswith("vectors zeroed")).split()
    assert zeroed[4:6] == [f"{result.variants[0].difference:+.4f}", "head"]
    assert max(map(len, lines)) <= 80


def test_json_has_null_intervals_for_a_single_split(result, capsys):
    row_without_interval = replace(result.summary[0], low=None, high=None)
    show(replace(result, summary=(row_without_interval,), interval=None), as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["interval"] is None and printed["summary"][0]["low"] is None
    show(tables(replace(result, summary=(row_without_interval,), interval=None)), as_json=False)
    assert "inf" not in capsys.readouterr().out


@pytest.mark.parametrize("as_json", [True, False])
def test_an_evaluation_that_is_not_written_is_printed_and_fails(result, capsys, monkeypatch, as_json):
    unwritten = replace(result, unwritten="toys.evaluation.json: cannot write.")
    monkeypatch.setattr(verb, "evaluate", lambda **options: unwritten)
    with pytest.raises(typer.Exit) as end:
        evaluate(domains=["toys"], workspace=None, json=as_json, quiet=True)
    streams = capsys.readouterr()
    assert (end.value.exit_code, streams.err) == (2, "error: toys.evaluation.json: cannot write.\n")
    assert json.loads(streams.out)["unwritten"] if as_json else "test MSE" in streams.out
    assert not result.unwritten


def test_markup_in_texts_of_reviews_is_printed_verbatim(capsys):
    neighbor = {
        "id": "7",
        "score": 0.5,
        "n_reviews": 1,
        "user_id": "u",
        "item_id": "i",
        "rating": 4.0,
        "text": "a good [red]guitar[/b]",
    }
    show({"neighbors": [row(neighbor)]}, as_json=False)
    assert "[red]guitar[/b]" in capsys.readouterr().out
    assert row(neighbor | {"text": None}) == {"id": "7", "score": 0.5, "n_reviews": 1}


@pytest.mark.parametrize(
    ("cosine", "shown"), [(0.9999651, "0.9999651"), (1.0, "1"), (1 - 1e-9, "1"), (0.99949, "0.9995")]
)
def test_a_cosine_below_1_is_not_shown_as_1(cosine: float, shown: str, capsys) -> None:
    show({"parity": {"cos_min": cosine}}, as_json=False)
    assert capsys.readouterr().out.split() == ["parity", "cos_min", shown]
