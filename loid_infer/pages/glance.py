"""The first thing one sees: a card for each domain, with its figures and in words whether they are more than chance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loid_infer.pages.intervals import signed
from loid_infer.pages.markup import NOTHING, Content, Html, element, joined
from loid_infer.pages.records import EncodingRecord, Evaluation, Findings, HeadRecord


@dataclass(frozen=True, slots=True)
class Verdict:
    """What can be said of a domain's head."""

    text: str
    look: str  # good | bad | open


def verdict(found: Evaluation) -> Verdict:
    """Whether the head differs from the biases by more than chance, in words."""
    head = found.result
    if head is None:
        return Verdict("No head was evaluated under a protocol that hides the review to be predicted.", "open")
    low, high = head.against_bias_low, head.against_bias_high
    if low is None or high is None:
        return Verdict("One split gives no interval: whether this is more than chance, it cannot tell. Evaluate with "
                       "more seeds.", "open")  # fmt: skip
    if high < 0:
        return Verdict("Better than the biases alone: the interval excludes zero.", "good")
    if low > 0:
        return Verdict("Worse than the biases alone: the interval excludes zero.", "bad")
    return Verdict("The interval includes zero: no difference from the biases alone can be claimed.", "open")


def cards(found: Findings) -> Html:
    """One card a domain."""
    return element("div.cards", *(_card(found, domain) for domain in found.domains))


def tags(found: Findings, domain: str) -> Html:
    """What must be known of a domain before a figure is read."""
    table, evaluation = found.tables.get(domain), found.evaluations.get(domain)
    said = [element("span.tag.warn", "synthetic")] if table and table.synthetic else []
    return joined([*said, paper_tag(evaluation.protocol if evaluation else "")])


def paper_tag(protocol: str) -> Html:
    """The mark of figures that are no results."""
    return element("span.tag.warn", "paper protocol") if protocol == "paper" else NOTHING


def _card(found: Findings, domain: str) -> Html:
    evaluation, heads = found.evaluations.get(domain), [head for head in found.heads if head.domain == domain]
    title = element("h3", element("a", domain, at={"href": f"#domain-{domain}"}), tags(found, domain))
    parts: list[Content] = [title, element("p.count", _count(found, domain))]
    if evaluation and evaluation.result:
        parts += _evaluated(evaluation)
    elif heads:
        parts += _fitted(next((head for head in heads if head.head == domain), heads[0]))
    else:
        parts.append(element("p.verdict", "No head has been fitted or evaluated."))
    facts = [*_facts(found, domain)]
    return element("article.card", *parts, element("dl", *facts) if facts else NOTHING)


def _count(found: Findings, domain: str) -> str:
    table = found.tables.get(domain)
    if table is None:
        return "no table of reviews"
    return f"{table.n_reviews:,} reviews · {table.n_users:,} users · {table.n_items:,} items"


def _evaluated(found: Evaluation) -> Iterator[Html]:
    head, bias, said = found.result, found.bias, verdict(found)
    if head is None:
        return
    strict = ", strict head" if found.protocol == "paper" else ""
    yield element("p.big", f"{head.mse:.4f} ", element("small", f"test MSE{strict}"))
    against = f"biases {bias.mse:.4f} · " if bias else ""
    against += f"difference {signed(head.against_bias)}"
    if head.against_bias_low is not None and head.against_bias_high is not None:
        against += f" ({signed(head.against_bias_low)} to {signed(head.against_bias_high)})"
    yield element("p.against", against)
    yield element(f"p.verdict.{said.look}", said.text)


def _fitted(head: HeadRecord) -> Iterator[Html]:
    yield element("p.big", f"{head.test_mse:.4f} ", element("small", "test MSE, one fit"))
    yield element("p.against", f"biases {head.baselines.bias:.4f} · head {head.head}")
    paper = "Paper protocol: its error is no result. " if head.protocol == "paper" else ""
    yield element("p.verdict", f"{paper}One fit on one split is an anecdote, not a comparison: evaluate it.")


def shown_encoding(found: Findings, domain: str) -> EncodingRecord | None:
    """The run that tells how fast a domain is encoded: by the encoder its figures are of, where that was measured."""
    evaluation = found.evaluations.get(domain)
    runs = [one for one in found.encodings if one.domain == domain]
    names = [
        *(evaluation.encoders if evaluation else ()),
        *(head.encoder for head in found.heads if head.domain == domain),
    ]
    preferred = [one for name in names for one in runs if one.encoder == name]
    return next(iter([*preferred, *runs]), None)


def _facts(found: Findings, domain: str) -> Iterator[Html]:
    evaluation, encoding = found.evaluations.get(domain), shown_encoding(found, domain)

    def fact(name: str, value: str) -> Html:
        return element("div", element("dt", name), element("dd", value))

    if evaluation:
        yield fact("encoder", " + ".join(evaluation.encoders))
        yield fact("splits", f"{evaluation.n_seeds}, {evaluation.split}")
    if encoding:
        yield fact("tokens a second", f"{encoding.tokens_per_s:,.0f}")
        yield fact("runtime", f"{encoding.runtime}, {encoding.precision}")
