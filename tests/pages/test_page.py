"""What the page says where something is missing, synthetic or of several encoders."""

import re
from types import SimpleNamespace

import pytest
from jinja2 import UndefinedError

from loid_infer import ingest
from loid_infer.pages.page import page
from loid_infer.pages.records import Findings, read_findings
from loid_infer.settings import Workspace
from tests.conftest import toy_texts, write_reviews
from tests.pages.records import full, replace


@pytest.fixture
def findings(tmp_path) -> Findings:
    """Of a workspace in which everything was measured."""
    place = full(tmp_path / "ws")
    ingest([write_reviews(tmp_path / "toys.jsonl", toy_texts(40))], "toys", workspace=place)
    return read_findings(place)


def with_domain(findings: Findings, **changes) -> Findings:
    return replace(findings, domains=tuple(replace(domain, **changes) for domain in findings.domains))


def text_of(findings: Findings) -> str:
    """What the page shows."""
    text = page(findings, "1.2.3").decode()
    return " ".join(re.sub("<[^>]*>", " ", re.sub("<style>.*?</style>", "", text, flags=re.S)).split())


def test_it_says_how_much_there_is(findings) -> None:
    text = text_of(findings)
    assert "1 head, 2 encoders, 3 plugins. Errors are mean squared errors" in text
    assert "Written by loid-infer 1.2.3" in text
    two = (*findings.domains, replace(findings.domains[0], name="books", heads=()))
    assert "2 domains, 1 head," in text_of(replace(findings, domains=two))
    assert "No head yet." in text_of(replace(with_domain(findings, heads=()), encoders=(), plugins=()))


def test_synthetic_reviews_are_marked(findings) -> None:
    assert "synthetic" not in text_of(findings)
    made_up = replace(findings.domains[0].table, synthetic=True)
    one = with_domain(findings, table=made_up)
    assert "All reviews here are synthetic, so these figures say nothing about real data." in text_of(one)
    assert re.search("The head synthetic", text_of(one))
    two = replace(findings, domains=(*one.domains, replace(findings.domains[0], name="books")))
    assert "toys: reviews are synthetic, so these figures" in text_of(two)


def test_a_domain_without_an_evaluation_shows_its_fit_and_one_without_a_fit_says_so(findings) -> None:
    text = text_of(with_domain(findings, evaluations=()))
    assert "0.7321 test MSE, one fit biases 0.7654 · head toys One fit on one split is not a comparison" in text
    paper = tuple(replace(head, head="other", protocol="paper") for head in findings.heads)
    assert "head other Paper protocol: its error is not a valid result." in text_of(
        with_domain(findings, evaluations=(), heads=paper)
    )
    assert "No head has been fitted or evaluated." in text_of(with_domain(findings, evaluations=(), heads=()))
    assert "no table of reviews" in text_of(with_domain(findings, table=None))


def test_numbers_that_were_not_measured_leave_their_cells_empty(findings) -> None:
    encoders = tuple(replace(one, parity=replace(one.parity, runtimes={})) for one in findings.encoders)
    assert "The exports name no runtime that was measured." in text_of(replace(findings, encoders=encoders))
    plugins = tuple(
        replace(one, metrics=replace(one.metrics, test_variance=None), history=None) for one in findings.plugins
    )
    assert "one one 0.5678 two two 0.5678 Ratings" in text_of(replace(findings, plugins=plugins))


def test_several_encoders_are_told_apart_and_one_split_gives_no_intervals(findings) -> None:
    evaluation = findings.domains[0].evaluations[0]
    summary = tuple(replace(one, low=None, high=None) for one in evaluation.summary)
    changed = replace(evaluation, encoders=("base", "other"), n_seeds=1, summary=summary)
    text = text_of(with_domain(findings, evaluations=(changed,)))
    assert "One split; encoder base + other, default preset, strict protocol. One split gives no intervals." in text
    assert "head · base" in text


def test_a_template_that_names_what_is_not_there_is_an_error(findings) -> None:
    domain = SimpleNamespace(name="toys", heads=(), encodings=(), table=None)
    with pytest.raises(UndefinedError, match="evaluation"):
        page(replace(findings, domains=(domain,)), "1.2.3")


def test_an_empty_workspace_with_a_file_that_cannot_be_read_has_a_page(tmp_path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "toys.evaluation.json").write_text("{")
    text = text_of(read_findings(Workspace(tmp_path)))
    assert "No head yet." in text
    assert (
        "Left out, because it cannot be read: reports/toys.evaluation.json: toys.evaluation.json cannot be read" in text
    )
    assert "loid-infer export" in text
