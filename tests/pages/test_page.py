"""The text of the report when measurements are missing, reviews are synthetic or there are several encoders."""

import re
from types import SimpleNamespace

import pytest
from jinja2 import UndefinedError

from loid_infer import ingest
from loid_infer.pages.page import page
from loid_infer.pages.records import Findings, read_findings
from loid_infer.settings import Workspace
from tests.conftest import toy_texts, write_reviews
from tests.pages.records import full_workspace, replace


@pytest.fixture
def findings(tmp_path) -> Findings:
    """The findings of a workspace with every measurement."""
    workspace = full_workspace(tmp_path / "ws")
    ingest([write_reviews(tmp_path / "toys.jsonl", toy_texts(40))], "toys", workspace=workspace)
    return read_findings(workspace)


def with_domain(findings: Findings, **changes) -> Findings:
    return replace(findings, domains=tuple(replace(domain, **changes) for domain in findings.domains))


def text_of(findings: Findings) -> str:
    """The visible text of the page."""
    text = page(findings, "1.2.3").decode()
    return " ".join(re.sub("<[^>]*>", " ", re.sub("<style>.*?</style>", "", text, flags=re.S)).split())


def test_the_page_states_the_number_of_artifacts(findings) -> None:
    text = text_of(findings)
    assert "1 head, 2 encoders, 3 plugins, 2 ranking heads. Errors are mean squared errors" in text
    assert "Written by loid-infer 1.2.3" in text
    two_domains = (*findings.domains, replace(findings.domains[0], name="books", heads=()))
    assert "2 domains, 1 head," in text_of(replace(findings, domains=two_domains))
    nothing = replace(with_domain(findings, heads=()), encoders=(), plugins=(), ranking_heads=())
    assert "No head yet." in text_of(nothing)


def test_synthetic_reviews_are_marked(findings) -> None:
    assert "synthetic" not in text_of(findings)
    synthetic_table = replace(findings.domains[0].table, synthetic=True)
    one_domain = with_domain(findings, table=synthetic_table)
    assert "All reviews here are synthetic, so these figures say nothing about real data." in text_of(one_domain)
    assert re.search("The head synthetic", text_of(one_domain))
    two_domains = replace(findings, domains=(*one_domain.domains, replace(findings.domains[0], name="books")))
    assert "toys: reviews are synthetic, so these figures" in text_of(two_domains)


def test_a_domain_without_an_evaluation_shows_its_fit_or_states_that_there_is_none(findings) -> None:
    text = text_of(with_domain(findings, evaluations=()))
    assert "0.7321 test MSE, one fit biases 0.7654 · head toys One fit on one split is not a comparison" in text
    paper = tuple(replace(head, head="other", protocol="paper") for head in findings.heads)
    assert "head other Paper protocol: its error is not a valid result." in text_of(
        with_domain(findings, evaluations=(), heads=paper)
    )
    without = with_domain(findings, evaluations=(), heads=())
    assert "Ranking : toys-sasrec, toys-text" in text_of(without)
    assert "No head has been fitted or evaluated." in text_of(replace(without, ranking_heads=()))
    assert "no table of reviews" in text_of(with_domain(findings, table=None))


def test_cells_of_missing_measurements_are_empty(findings) -> None:
    encoders = tuple(replace(encoder, parity=replace(encoder.parity, runtimes={})) for encoder in findings.encoders)
    assert "The exports name no runtime that was measured." in text_of(replace(findings, encoders=encoders))
    plugins = tuple(
        replace(plugin, metrics=replace(plugin.metrics, test_variance=None), history=None)
        for plugin in findings.plugins
    )
    assert "one one 0.5678 two two 0.5678 Ratings" in text_of(replace(findings, plugins=plugins))


def test_several_encoders_are_distinguished_and_one_split_has_no_intervals(findings) -> None:
    evaluation = findings.domains[0].evaluations[0]
    summary = tuple(replace(row, low=None, high=None) for row in evaluation.summary)
    changed = replace(evaluation, encoders=("base", "other"), n_seeds=1, summary=summary)
    text = text_of(with_domain(findings, evaluations=(changed,)))
    assert "One split; encoder base + other, default preset, strict protocol. One split gives no intervals." in text
    assert "head · base" in text


def test_an_undefined_template_variable_is_an_error(findings) -> None:
    domain = SimpleNamespace(name="toys", heads=(), encodings=(), table=None, interactions=None)
    with pytest.raises(UndefinedError, match="evaluation"):
        page(replace(findings, domains=(domain,)), "1.2.3")


def test_a_page_is_written_for_an_empty_workspace_with_an_unreadable_file(tmp_path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "toys.evaluation.json").write_text("{")
    text = text_of(read_findings(Workspace(tmp_path)))
    assert "No head yet." in text
    assert (
        "Left out, because it cannot be read: reports/toys.evaluation.json: toys.evaluation.json cannot be read" in text
    )
    assert "loid-infer export" in text
