"""What a page could show and does not, with the command that would measure it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from loid_infer.pages import wording
from loid_infer.pages.markup import NOTHING, Html, element
from loid_infer.pages.records import Domain, Evaluation, Findings, HeadRecord


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """Something the page could show, and the command that would measure it."""

    what: str
    command: str


def missing_list(missing: Iterable[NotMeasured]) -> Html:
    """All of `missing`, each with its command; nothing where nothing is."""
    rows = [element("li", f"{one.what}: ", element("code", one.command)) for one in missing]
    return element("div.missing", wording.MISSING, element("ul", *rows)) if rows else NOTHING


def missing_of(domain: Domain) -> Iterator[NotMeasured]:
    """What was not measured of one domain."""
    name, evaluation = domain.name, domain.evaluation
    if domain.table is None:
        yield NotMeasured("Reviews", f"loid-infer ingest SRC --domain {name}")
    if not domain.encodings:
        yield NotMeasured("Encoding", f"loid-infer encode --domain {name}")
    if evaluation is None:
        yield NotMeasured(
            "Accuracy, ablations, calibration and error by bucket", f"loid-infer evaluate --domain {name} --ablate"
        )
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


def missing_besides(found: Findings) -> Iterator[NotMeasured]:
    """What was not measured of what domains share."""
    if not found.encoders:
        yield NotMeasured("Encoders and their parity", "loid-infer export")
    if not found.plugins:
        domain = found.domains[0].name if found.domains else "D"
        yield NotMeasured("Plugins", f"loid-infer plugin train --domain {domain}")
    if found.similarity is None:
        names = [domain.name for domain in found.domains if domain.table]
        what = "Similarity of domains" if len(names) > 1 else "Similarity of domains, which takes a second one"
        names += [] if len(names) > 1 else ["OTHER"]
        yield NotMeasured(what, " ".join(["loid-infer plugin similarity", *names]))


def _again(what: str, run: HeadRecord | Evaluation, verb: str, *options: str) -> NotMeasured:
    usual = (("preset", run.preset, "default"), ("protocol", run.protocol, "strict"), ("split", run.split, "random"))
    other = [part for name, value, default in usual if value != default for part in (f"--{name}", value)]
    return NotMeasured(what, shlex.join(["loid-infer", verb, "--domain", run.domain, *options, *other]))
