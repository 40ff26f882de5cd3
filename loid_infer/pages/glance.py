"""The first thing one sees: a card for each domain, with its figures and in words whether they are more than chance."""

from __future__ import annotations

from collections.abc import Iterator

from loid_infer.heads.comparison import ModelErrors
from loid_infer.pages.intervals import signed
from loid_infer.pages.markup import NOTHING, Html, element, joined
from loid_infer.pages.records import Domain, Evaluation, HeadRecord


def card(domain: Domain) -> Html:
    """What can be said of a domain at a glance."""
    evaluation, heads, table = domain.evaluation, domain.heads, domain.table
    title = element("h3", element("a", domain.name, at={"href": f"#domain-{domain.name}"}), tags(domain))
    count = f"{table.n_rows:,} reviews · {table.n_users:,} users · {table.n_items:,} items" if table else ""
    parts = [title, element("p.count", count or "no table of reviews")]
    if evaluation and evaluation.result:
        parts += _evaluated(evaluation, evaluation.result)
    elif heads:
        parts += _fitted(next((head for head in heads if head.head == domain.name), heads[0]))
    else:
        parts.append(element("p.verdict", "No head has been fitted or evaluated."))
    return element("article.card", *parts)


def tags(domain: Domain) -> Html:
    """What must be known of a domain before a figure is read."""
    synthetic = element("span.tag", "synthetic") if domain.table and domain.table.synthetic else NOTHING
    return joined([synthetic, paper_tag(domain.evaluation.protocol if domain.evaluation else "")])


def paper_tag(protocol: str) -> Html:
    """The mark of figures that are no results."""
    return element("span.tag", "paper protocol") if protocol == "paper" else NOTHING


def _evaluated(found: Evaluation, head: ModelErrors) -> Iterator[Html]:
    strict = ", strict head" if found.protocol == "paper" else ""
    yield element("p.big", f"{head.mse:.4f} ", element("small", f"test MSE{strict}"))
    against = f"biases {found.bias.mse:.4f} · " if found.bias else ""
    against += f"difference {signed(head.against_bias)}"
    if head.against_bias_low is not None and head.against_bias_high is not None:
        against += f" ({signed(head.against_bias_low)} to {signed(head.against_bias_high)})"
    yield element("p.against", against)
    look, said = _verdict(head.against_bias_low, head.against_bias_high)
    yield element(look, said)


def _verdict(low: float | None, high: float | None) -> tuple[str, str]:
    """Whether a head differs from the biases by more than chance: how that looks, and in words."""
    if low is None or high is None:
        return "p.verdict", (
            "One split gives no interval: whether this is more than chance, it cannot tell. Evaluate with more seeds."
        )
    if high < 0:
        return "p.verdict.good", "Better than the biases alone: the interval excludes zero."
    if low > 0:
        return "p.verdict.bad", "Worse than the biases alone: the interval excludes zero."
    return "p.verdict", "The interval includes zero: no difference from the biases alone can be claimed."


def _fitted(head: HeadRecord) -> Iterator[Html]:
    yield element("p.big", f"{head.test_mse:.4f} ", element("small", "test MSE, one fit"))
    yield element("p.against", f"biases {head.baselines.bias:.4f} · head {head.head}")
    paper = "Paper protocol: its error is no result. " if head.protocol == "paper" else ""
    yield element("p.verdict", f"{paper}One fit on one split is an anecdote, not a comparison: evaluate it.")
