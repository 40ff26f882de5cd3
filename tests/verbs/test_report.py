"""`report`: the page shows what the files contain, escapes their text, loads nothing and is reproducible."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loid_infer import ingest, report
from loid_infer.errors import BadName, BadTable
from loid_infer.heads.presets import HeadOptions
from loid_infer.settings import Workspace
from loid_infer.verbs import evaluate as evaluate_verb
from tests.conftest import toy_texts, write_reviews
from tests.pages.records import encoding, evaluation, full_workspace, head, plugin, training_run, write
from tests.verbs.toy_domain import ENCODER, make_domain

EVIL = '"><script>alert(1)</script>&\ud800\x00'
_VOID = {"meta", "br"}


class ParsedPage(HTMLParser):
    """Parses a page into its unclosed and mismatched tags, tag names, attributes and visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.mismatched: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.shown: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        if not self.open or self.open.pop() != tag:
            self.mismatched.append(tag)

    def handle_data(self, data) -> None:
        if self.open and self.open[-1] != "style":
            self.shown.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.shown))


def page_of(workspace: Workspace, domain: str | None = None) -> ParsedPage:
    parsed = ParsedPage(Path(report(domain, workspace=workspace).path).read_bytes().decode())
    assert (parsed.open, parsed.mismatched) == ([], [])
    return parsed


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    """A workspace with every measurement, and one domain with a table."""
    made = full_workspace(tmp_path / "ws")
    ingest([write_reviews(tmp_path / "toys.jsonl", toy_texts(40))], "toys", workspace=made)
    return made


def test_the_page_shows_the_numbers_in_the_files(workspace) -> None:
    result = report(workspace=workspace)
    assert result.path == str(workspace.reports / "report.html")
    assert (result.domains, result.n_heads, result.n_ranking_heads) == (("toys",), 1, 2)
    assert (result.n_encoders, result.n_plugins) == (2, 3)
    assert result.left_out == result.not_measured == ()
    assert result.n_bytes == (workspace.reports / "report.html").stat().st_size
    text = page_of(workspace).text
    for expected in (
        *("40 reviews", "0.7301", "0.7600", "−0.0299", "−0.0412 to −0.0186"),  # the head against the biases
        *("vectors zeroed", "+0.0143", "+0.0021 to +0.0265", "4,321 1.5000 1.2000", "0.87"),  # ablation, buckets, runs
        *("24,691", " 248 990 98,765", "3.1%", "512", "3.80 s", "95%", "CPU, 2 streams"),  # encoding
        *("0.9999840", "0.9998000", "cosine >= 0.9999", "misses its gate"),  # parity
        *("0.7321", "0.7654", "9 of 12", "random, seed 3", "best 0.3456"),  # heads, curves
        *("0.5678", "0.63", "tiny-bert", "plugin, ties", "merged of one + two"),  # plugins, lineage
        *("0.351", "0.273", "60 x 60"),  # similarity
    ):
        assert expected in text, expected
    assert "Better than the biases alone: the interval excludes zero." in text
    assert "Not measured" not in text


@pytest.mark.parametrize(("n_unknown", "n_mostly_unknown"), [(0, 0), (12_345, 77), (900, 9), (900, 10)])
def test_the_page_says_how_much_the_tokenizer_does_not_know(n_unknown, n_mostly_unknown, workspace) -> None:
    record = encoding(n_unknown=n_unknown, n_mostly_unknown=n_mostly_unknown)  # of 98,765 tokens and 990 texts
    write(workspace.reports / "toys.base.encoding.json", record)
    text = page_of(workspace).text
    assert "unknown tokens mostly unknown" in text
    assert f"{n_unknown / 98_765:.1%} {n_mostly_unknown} 512" in text
    said = f"are unknown to the tokenizer of base ({n_mostly_unknown} texts are mostly unknown"
    assert (said in text) == (n_mostly_unknown >= 10)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.02, 0.01, "The interval includes zero: no difference"),
        (0.01, 0.02, "Worse than the biases alone: the interval excludes zero."),
        (None, None, "One split gives no interval"),
    ],
)
def test_the_verdict_follows_the_interval(workspace, low, high, expected) -> None:
    record = evaluation()
    record["summary"][3] |= {"against_bias_low": low, "against_bias_high": high}
    write(workspace.reports / "toys.evaluation.json", record)
    assert expected in page_of(workspace).text


def test_paper_protocol_results_are_marked_and_the_strict_head_is_the_headline(workspace) -> None:
    record = evaluation(protocol="paper")
    record["summary"].append(record["summary"][3] | {"model": "head, strict protocol", "mse": 0.7512})
    (workspace.reports / "toys.evaluation.json").unlink(missing_ok=True)
    write(workspace.reports / "toys.paper.evaluation.json", record)
    text = page_of(workspace).text
    assert "are not valid results" in text and "head, paper protocol" in text
    assert "0.7512 test MSE, strict head" in text
    assert "reads the target's own text (impossible)" in text and "which no recommender can" in text


def test_a_domain_report_contains_only_that_domain(workspace) -> None:
    write(workspace.reports / "books.evaluation.json", evaluation("books"))
    write(workspace.head("books") / "manifest.json", head("books", "books", "base", test_mse=0.1239))
    write(workspace.plugin("far") / "manifest.json", plugin("far", "8" * 64))
    result = report("toys", workspace=workspace)
    assert result.path == str(workspace.reports / "toys.report.html")
    text = page_of(workspace, "toys").text
    assert "0.7321" in text and "0.1239" not in text and "plugin, trained far" not in text
    both = page_of(workspace).text
    assert "0.7321" in both and "0.1239" in both and "plugin, trained far" in both


def test_missing_measurements_are_listed_with_their_commands(workspace) -> None:
    for path in (*workspace.reports.iterdir(), workspace.head("toys") / "curve.json"):
        path.unlink()
    result = report(workspace=workspace)
    text = page_of(workspace).text
    commands = [missing.command for missing in result.not_measured]
    assert commands == [
        "loid-infer encode --domain toys",
        "loid-infer evaluate --domain toys --ablate",
        "loid-infer fit --domain toys --encoder base --name toys --split-seed 3",
        "loid-infer evaluate --domain toys --candidates full",
        "loid-infer plugin similarity toys OTHER",
    ]
    assert all(command in text for command in commands)
    empty = Workspace(workspace.root.parent / "empty")
    ingest([write_reviews(workspace.root.parent / "b.jsonl", toy_texts(20))], "empty", workspace=empty)
    commands = [missing.command for missing in report(workspace=empty).not_measured]
    for command in ("loid-infer export", "loid-infer fit --domain empty", "loid-infer plugin train --domain empty"):
        assert command in commands
    record = evaluation()
    record["summary"] = record["summary"][:-1]
    write(workspace.reports / "toys.evaluation.json", record)
    assert "loid-infer evaluate --domain toys --seeds 2 --ablate --encoder base" in page_of(workspace).text


def test_text_in_files_is_escaped(workspace) -> None:
    record = evaluation(encoders=[EVIL], preset=EVIL, interval=EVIL)
    record["summary"][-1]["model"] = record["buckets"][0]["bucket"] = record["runs"][0]["model"] = EVIL
    write(workspace.reports / "toys.evaluation.json", record)
    write(workspace.reports / "toys.base.encoding.json", encoding(runtime_detail=EVIL))
    write(workspace.head("toys") / "manifest.json", head(encoder=EVIL, preset=EVIL))
    hostile = plugin("one", "1" * 64, trained_on=[training_run(EVIL)], base={"name": EVIL, "digest": EVIL})
    write(workspace.plugin("one") / "manifest.json", hostile)
    write(
        workspace.reports / "similarity.json",
        {"domains": [EVIL], "matrix": [[1.0]], "pooling": EVIL, "n_texts": 1, "base": EVIL, "max_tokens": 3, "seed": 0},
    )
    write(workspace.reports / 'a"><script>.evaluation.json', "{")
    read = page_of(workspace)
    assert "script" not in read.tags
    assert '"><script>alert(1)</script>&' in read.text
    assert any("cannot be read" in problem for problem in report(workspace=workspace).left_out)


def test_the_page_loads_no_external_resources(workspace) -> None:
    read = page_of(workspace)
    page = (workspace.reports / "report.html").read_text()
    assert not re.search(r"https?://|url\((?!#)|@import", page)
    assert not read.tags & {"script", "link", "img", "iframe", "object", "base"}
    assert all(value.startswith("#") for name, value in read.attributes if name in ("href", "src", "xlink:href"))
    assert not any(name.startswith("on") for name, _ in read.attributes)
    ids = [value for name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for name, value in read.attributes if name in ("href", "xlink:href")} <= set(ids)
    assert set(re.findall(r"url\(#(\w+)\)", page)) <= set(ids)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in read.attributes
    assert "prefers-color-scheme: dark" in page


def test_every_figure_has_a_text_alternative_and_a_table(workspace) -> None:
    report(workspace=workspace)
    page = (workspace.reports / "report.html").read_text()
    figures = re.findall("<svg [^>]*>", page)
    # Accuracy, ablations, calibration, curves of a head, of a ranking head and of two plugins; of rankings, differences
    # of two heads and two kinds of groups.
    assert len(figures) == 11
    assert all(re.search('role="img" aria-label="[^"]+"', figure) for figure in figures)
    rows = [
        [cell.strip() for cell in re.findall("<td[^>]*>([^<>]*)</td>", row)]
        for row in re.findall("<tr>(.*?)</tr>", page, re.S)
    ]
    assert ["head", "0.7301", "−0.0299", "−0.0412 to −0.0186"] in rows
    bold = re.findall('number bold">(.*?)<', page)  # their intervals exclude zero
    assert bold == ["+0.0711", "−0.0299", "+0.0143", "+0.0677", "+0.0577"]
    assert ["bias", "0.7600", "reference", ""] in rows
    assert ["mf", "0.7777", "+0.0177", "−0.0100 to +0.0400"] in rows
    assert ["more", "4,321", "1.5000", "1.2000", "1.1000", "1.0000"] in rows
    assert page.count("<table") == page.count("<thead") == 20


def test_the_page_is_reproducible_and_contains_no_paths(workspace, tmp_path) -> None:
    first = Path(report(workspace=workspace).path).read_bytes()
    assert Path(report(workspace=workspace).path).read_bytes() == first
    moved = Workspace(workspace.root.rename(tmp_path / "moved"))
    assert Path(report(workspace=moved).path).read_bytes() == first
    assert str(tmp_path).encode() not in first


def test_an_unreadable_file_is_left_out_and_listed(workspace) -> None:
    write(workspace.reports / "toys.evaluation.json", '{"domain": "toys", "encoders')
    write(workspace.reports / "toys.base.encoding.json", encoding(seconds="quick"))
    write(workspace.reports / "other.base.encoding.json", encoding())
    write(workspace.head("toys") / "curve.json", {"losses": [1.0], "eval_steps": [1, 2], "eval_mse": [1.0]})
    write(workspace.encoder("base") / "manifest.json", "[]")
    write(workspace.plugin("one") / "manifest.json", {"kind": "plugin", "name": "one"})
    write(workspace.reports / "similarity.json", {"domains": ["a"], "matrix": []})
    workspace.table("toys").write_bytes(b"no parquet")
    result = report(workspace=workspace)
    messages = "\n".join(result.left_out)
    for name, why in (
        ("reports/toys.evaluation.json", "cannot be read"),
        ("reports/toys.base.encoding.json", "field seconds"),
        ("reports/other.base.encoding.json", "not the one its name says"),
        ("exports/heads/toys/curve.json", "do not match"),
        ("exports/encoders/base", "the content is invalid: expected object, got array"),
        ("exports/plugins/one", "field digest"),
        ("reports/similarity.json", "field pooling"),
        ("data/toys.parquet", "cannot be read"),
    ):
        assert re.search(f"{re.escape(name)}: .*{why}", messages), (name, messages)
    text = page_of(workspace).text
    assert all(" ".join(problem.split()) in text for problem in result.left_out)


def test_values_that_cannot_be_plotted_are_skipped(workspace) -> None:
    nothing = {"losses": [float("nan")], "eval_steps": [], "eval_mse": []}
    write(workspace.head("toys") / "curve.json", json.dumps(nothing))
    write(workspace.plugin("one") / "curve.json", {"losses": [0.0] * 5, "eval_steps": [0], "eval_mse": [0.0]})
    write(
        workspace.plugin("two") / "curve.json", {"losses": [9e14], "eval_steps": [-5, -5], "eval_mse": [-9e14, -9e14]}
    )
    write(workspace.reports / "toys.base.encoding.json", encoding(seconds=0.0, tokens_per_s=0.0))
    record = evaluation(calibration=[{"predicted": 3.0, "rated": 3.0, "n_test": 0}], runs=[])
    for row in record["summary"]:
        row |= {"against_bias": 0.0, "against_bias_low": None, "against_bias_high": None, "against_head": 0.0}
    for row in record["buckets"]:
        row |= {"global_mean": 0.0, "bias": 0.0, "mf": 0.0, "head": 0.0}
    write(workspace.reports / "toys.evaluation.json", record)
    assert report(workspace=workspace).left_out == ()
    page_of(workspace)


def test_results_written_by_evaluate_are_shown(tmp_path, monkeypatch) -> None:
    workspace = Workspace(tmp_path)
    make_domain(workspace, "toys")
    monkeypatch.setattr(evaluate_verb, "resolve_without_leak", lambda *_: ENCODER)
    result = evaluate_verb.evaluate("toys", seeds=1, settings=HeadOptions(epochs=1), workspace=workspace)
    assert report(workspace=workspace).left_out == ()
    text = page_of(workspace).text
    assert all(f"{row.value:.4f}" in text for row in result.summary if row.metric == "mse")
    assert all(row.system.partition(" @ ")[0] in text for row in result.summary)


def test_user_errors(workspace, tmp_path) -> None:
    with pytest.raises(BadTable, match="no domain 'none'"):
        report("none", workspace=workspace)
    with pytest.raises(BadName):
        report("../toys", workspace=workspace)
    with pytest.raises(BadTable, match="nothing to report on"):
        report(workspace=tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_all_protocols_and_splits_are_shown_with_strict_random_splits_first(workspace) -> None:
    by_time = evaluation(split="time", interval="the test pairs of the one split")
    by_time["summary"][3]["mse"] = 0.8765
    write(workspace.reports / "toys.time.evaluation.json", by_time)
    paper = evaluation(protocol="paper")
    write(workspace.reports / "toys.paper.evaluation.json", paper)
    text = page_of(workspace).text
    assert text.index("0.8765") < text.index("are not valid results")
    assert "Split by time" in text and "Random splits" in text
    write(workspace.reports / "toys.time.paper.evaluation.json", by_time)  # the content does not match the name
    assert "toys.time.paper.evaluation.json" in page_of(workspace).text
