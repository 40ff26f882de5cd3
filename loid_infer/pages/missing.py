"""What the page could show and does not, with the command that would measure it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from loid_infer.pages.records import Domain, Evaluation, Findings, HeadRecord


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """Something the page could show, and the command that would measure it."""

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
        what = "Similarity of domains" if len(names) > 1 else "Similarity of domains, which takes a second one"
        names += [] if len(names) > 1 else ["OTHER"]
        yield NotMeasured(what, " ".join(["loid-infer plugin similarity", *names]))


def _again(what: str, run: HeadRecord | Evaluation, verb: str, *options: str) -> NotMeasured:
    """The command of `run` once more, with `options` and whichever of its settings are not the default."""
    settings = (("preset", run.preset, "default"), ("protocol", run.protocol, "strict"), ("split", run.split, "random"))
    changed = [part for name, value, default in settings if value != default for part in (f"--{name}", value)]
    return NotMeasured(what, shlex.join(["loid-infer", verb, "--domain", run.domain, *options, *changed]))
