"""Renders the report's page from its templates, with the lineage of every artifact."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from jinja2 import Environment, PackageLoader, StrictUndefined

from loid_infer.clicks.manifest import ClickManifest
from loid_infer.encoders.manifest import GATES
from loid_infer.heads.comparison import BASELINES, HEAD, OWN_TEXT
from loid_infer.pages import plots
from loid_infer.pages.missing import missing_of_domain, missing_shared
from loid_infer.pages.records import Findings, HeadRecord, PluginRecord, RankingRecord

_ABSENT = "(not in this workspace)"
# Neither HTML nor UTF-8 can have these characters; a JSON file can.
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def page(findings: Findings, version: str) -> bytes:
    """The page as UTF-8. The same findings give the same bytes."""
    environment = Environment(
        loader=PackageLoader("loid_infer.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "signed": _signed}
    environment.globals |= {
        "plots": plots,
        "GATES": GATES,
        "BASELINES": list(BASELINES),
        "HEAD": HEAD,
        "OWN_TEXT": OWN_TEXT,
        "missing_of_domain": missing_of_domain,
    }
    text = environment.get_template("report.html.jinja").render(
        findings=findings, version=version, lineage=list(lineage(findings)), missing=list(missing_shared(findings))
    )
    return _NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", text).encode()


def _number(value: float | None, form: str = ".4f") -> str:
    """`value` as the format specification `form` says; nothing for None."""
    return "" if value is None else format(value, form)


def _signed(value: float) -> str:
    """`value` with its sign, a true minus; without one where it rounds to zero."""
    if abs(value) < 0.00005:
        return "0.0000"
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def lineage(findings: Findings) -> Iterator[tuple[str, str, str, str]]:
    """Kind, name, details, and what it was made from: of everything, each after what it was made from."""
    names = {folded.digest: f"{folded.name} {_ABSENT}" for encoder in findings.encoders for folded in encoder.plugins}
    names |= {parent.digest: f"{parent.name} {_ABSENT}" for plugin in findings.plugins for parent in plugin.parents}
    names |= {plugin.digest: plugin.name for plugin in findings.plugins}

    def chain(base: str, digests: Iterable[str]) -> str:
        return " + ".join([base, *sorted(names.get(digest, f"{digest[:16]} {_ABSENT}") for digest in digests)])

    bases = [*(plugin.base for plugin in findings.plugins), *(encoder.base for encoder in findings.encoders)]
    for digest, name in sorted({base.digest: base.name for base in bases}.items()):
        yield "base", name, f"digest {digest[:8]}", ""
    # `on` and `holds` list all ancestors, so a plugin has more of them than any of its ancestors.
    for plugin in sorted(findings.plugins, key=lambda plugin: (len(plugin.on), len(plugin.holds), plugin.name)):
        kind, details = _described(plugin)
        merged = " + ".join(sorted(names[parent.digest] for parent in plugin.parents))
        made_from = chain(plugin.base.name, plugin.on)
        yield kind, plugin.name, details, f"{made_from}; merged of {merged}" if merged else made_from
    for encoder in findings.encoders:
        details = f"{encoder.card.precision}, {encoder.card.max_tokens} tokens"
        yield "encoder", encoder.name, details, chain(encoder.base.name, (plugin.digest for plugin in encoder.plugins))
    fingerprints = {encoder.name: encoder.fingerprint for encoder in findings.encoders}

    def encoder_of(head: HeadRecord | RankingRecord | ClickManifest) -> str:
        current = fingerprints.get(head.encoder)
        # An encoder that was exported again since is not what the head was fitted on.
        exported_again = "" if current == head.fingerprint else ", before its last export"
        return head.encoder + (f" {_ABSENT}" if current is None else exported_again)

    for head in findings.heads:
        paper = ", paper protocol" if head.protocol == "paper" else ""
        yield f"head{paper}", head.head, head.domain, encoder_of(head)
    for ranking in findings.ranking_heads:
        made_from = encoder_of(ranking) if ranking.encoder else "interactions alone"
        yield "ranking head", ranking.head, f"{' + '.join(ranking.domains)}, {ranking.model}", made_from
    for labeled in findings.click_heads:
        read = [labeled.base.name] if labeled.base else []
        read.append(encoder_of(labeled) if labeled.encoder else labeled.collaborative if read else "interactions alone")
        yield "label head", labeled.head, f"{labeled.domain}, {labeled.model}", " + ".join(read)


def _described(plugin: PluginRecord) -> tuple[str, str]:
    domains = " + ".join(plugin.domains)
    if plugin.method == "train":
        return "plugin, trained", f"{domains}, rank {plugin.rank}" if plugin.rank else domains
    if plugin.method == "import":
        return "plugin, imported", domains or "origin unknown"
    return f"plugin, {plugin.method}", domains
