"""What a page could show and does not, with the command that would measure it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loid_infer.pages.markup import NOTHING, Html, element
from loid_infer.pages.records import Findings, HeadRecord


@dataclass(frozen=True, slots=True)
class Missing:
    """One thing that was not measured."""

    what: str
    command: str
    domain: str = ""  # empty: of the workspace
    note: str = ""


def missing_list(missing: Sequence[Missing]) -> Html:
    """All of `missing`, each with its command; nothing where nothing is."""
    if not missing:
        return NOTHING
    rows = [element("li", f"{one.what}: ", element("code", one.command), f" {one.note}".rstrip()) for one in missing]
    return element("div.missing", "Not measured yet. What would fill the gap:", element("ul", *rows))


def missing_of(found: Findings) -> Iterator[Missing]:
    """Everything that was not measured, domain by domain, then of the workspace."""
    for domain in found.domains:
        yield from _of_domain(found, domain)
    if not found.encoders:
        yield Missing("Encoders and their parity", "loid-infer export")
    if not found.plugins:
        domain = found.domains[0] if found.domains else "D"
        yield Missing("Plugins", f"loid-infer plugin train --domain {domain}")
    if found.similarity is None:
        names = [*found.tables]
        command = " ".join(["loid-infer plugin similarity", *(names if len(names) > 1 else [*names, "OTHER"])])
        yield Missing("Similarity of domains", command, note="" if len(names) > 1 else "It takes a second domain.")


def _of_domain(found: Findings, domain: str) -> Iterator[Missing]:
    evaluation = found.evaluations.get(domain)
    if domain not in found.tables:
        yield Missing("Reviews", f"loid-infer ingest SRC --domain {domain}", domain)
    if all(one.domain != domain for one in found.encodings):
        yield Missing("Encoding", f"loid-infer encode --domain {domain}", domain,
                      "A run that finds every text stored already measures nothing.")  # fmt: skip
    if evaluation is None:
        command = f"loid-infer evaluate --domain {domain} --ablate"
        yield Missing("Accuracy, ablations, calibration and error by bucket", command, domain)
    elif not evaluation.variants:
        yield Missing("Ablations", _again(found, domain), domain)
    heads = [head for head in found.heads if head.domain == domain]
    if not heads:
        yield Missing("A head", f"loid-infer fit --domain {domain}", domain)
    for head in heads:
        if head.history is None:
            yield Missing(f"Learning curve of head {head.head}", _fit_again(head), domain)


def _fit_again(head: HeadRecord) -> str:
    said = f"loid-infer fit --domain {head.domain} --encoder {head.encoder} --name {head.head}"
    said += f" --split-seed {head.split_seed}" if head.split_seed else ""
    usual = (("preset", head.preset, "default"), ("protocol", head.protocol, "strict"), ("split", head.split, "random"))
    return said + "".join(f" --{option} {value}" for option, value, default in usual if value != default)


def _again(found: Findings, domain: str) -> str:
    evaluation = found.evaluations[domain]
    said = f"loid-infer evaluate --domain {domain} --seeds {evaluation.n_seeds} --ablate"
    usual = (("preset", evaluation.preset, "default"), ("protocol", evaluation.protocol, "strict"),
             ("split", evaluation.split, "random"))  # fmt: skip
    said += "".join(f" --{option} {value}" for option, value, default in usual if value != default)
    return said + "".join(f" --encoder {name}" for name in evaluation.encoders)
