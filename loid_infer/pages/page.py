"""Renders the report's page from its templates, with the lineage of every artifact and what was not measured."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from loid_infer.encoders.manifest import GATES
from loid_infer.heads.comparison import BASELINES, HEAD, OWN_TEXT, EvaluateResult
from loid_infer.pages import plots
from loid_infer.pages.records import Domain, Findings, HeadRecord, PluginRecord

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
    for head in findings.heads:
        paper = ", paper protocol" if head.protocol == "paper" else ""
        current = fingerprints.get(head.encoder)
        # An encoder that was exported again since is not what the head was fitted on.
        exported_again = "" if current == head.fingerprint else ", before its last export"
        state = f" {_ABSENT}" if current is None else exported_again
        yield f"head{paper}", head.head, head.domain, f"{head.encoder}{state}"


def _described(plugin: PluginRecord) -> tuple[str, str]:
    domains = " + ".join(plugin.domains)
    if plugin.method == "train":
        return "plugin, trained", f"{domains}, rank {plugin.rank}" if plugin.rank else domains
    if plugin.method == "import":
        return "plugin, imported", domains or "origin unknown"
    return f"plugin, {plugin.method}", domains


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """A missing measurement, and the command for it."""

    what: str
    command: str


def missing_of_domain(domain: Domain) -> Iterator[NotMeasured]:
    """What was not measured of one domain."""
    name, evaluation = domain.name, domain.evaluation
    if domain.table is None:
        yield NotMeasured("Reviews", f"loid-infer ingest SRC --domain {name}")
    if not domain.encodings:
        yield NotMeasured("Encoding", f"loid-infer encode --domain {name}")
    if evaluation is None:
        what = "Accuracy, ablations, calibration and error by bucket"
        yield NotMeasured(what, f"loid-infer evaluate --domain {name} --ablate")
    elif not evaluation.variants:
        encoders = [part for encoder in evaluation.encoders for part in ("--encoder", encoder)]
        yield _again("Ablations", evaluation, "evaluate", "--seeds", str(evaluation.n_seeds), "--ablate", *encoders)
    if not domain.heads:
        yield NotMeasured("A head", f"loid-infer fit --domain {name}")
    for head in domain.heads:
        if head.history is None:
            seed = ("--split-seed", str(head.split_seed)) if head.split_seed else ()
            what = f"Learning curve of head {head.head}"
            yield _again(what, head, "fit", "--encoder", head.encoder, "--name", head.head, *seed)


def missing_shared(findings: Findings) -> Iterator[NotMeasured]:
    """What was not measured of what domains share."""
    if not findings.encoders:
        yield NotMeasured("Encoders and their parity", "loid-infer export")
    if not findings.plugins:
        domain = findings.domains[0].name if findings.domains else "D"
        yield NotMeasured("Plugins", f"loid-infer plugin train --domain {domain}")
    if findings.similarity is None:
        names = [domain.name for domain in findings.domains if domain.table]
        what = "Similarity of domains" if len(names) > 1 else "Similarity of domains (needs a second domain)"
        names += [] if len(names) > 1 else ["OTHER"]
        yield NotMeasured(what, " ".join(["loid-infer plugin similarity", *names]))


def _again(what: str, run: HeadRecord | EvaluateResult, verb: str, *options: str) -> NotMeasured:
    """The command of `run` once more, with `options` and whichever of its settings are not the default."""
    settings = (("preset", run.preset, "default"), ("protocol", run.protocol, "strict"), ("split", run.split, "random"))
    changed = [part for name, value, default in settings if value != default for part in (f"--{name}", value)]
    return NotMeasured(what, shlex.join(["loid-infer", verb, "--domain", run.domain, *options, *changed]))
