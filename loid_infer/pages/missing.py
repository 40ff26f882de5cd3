"""What was not measured, and the commands that measure it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from loid_infer.heads.comparison import EvaluateResult
from loid_infer.pages.records import Domain, Findings, HeadRecord, RankingRecord
from loid_infer.rankers.settings import DEFAULT_RANK_OPTIONS
from loid_infer.settings import TEMPLATE


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """A missing measurement, and the command for it."""

    what: str
    command: str


def missing_of_domain(domain: Domain) -> Iterator[NotMeasured]:
    """What was not measured of one domain."""
    name, evaluation = domain.name, domain.evaluation
    if domain.interactions:
        return  # there are no reviews; see `missing_rankings`
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
    """What was not measured of what domains share, and of ranking heads, which may have several."""
    yield from missing_rankings(findings)
    if not findings.encoders:
        yield NotMeasured("Encoders and their parity", "loid-infer export")
    reviewed = [domain.name for domain in findings.domains if not domain.interactions]
    if not reviewed and findings.domains:
        return  # neither plugins nor similarities are of interactions
    if not findings.plugins:
        domain = reviewed[0] if reviewed else "D"
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


def missing_rankings(findings: Findings) -> Iterator[NotMeasured]:
    """What was not measured of next-item recommendation."""
    ranked = {name for head in findings.ranking_heads for name in head.domains}
    lacking = [domain for domain in findings.domains if domain.interactions and domain.name not in ranked]
    if not findings.ranking_heads and not lacking:
        lacking = [domain for domain in findings.domains if domain.table][:1]
    for domain in lacking:
        command = "llmrec" if domain.has_items else "cf"
        yield NotMeasured(f"A ranking head of {domain.name}", f"loid-infer {command} fit --domain {domain.name}")
    groups: dict[tuple[tuple[str, ...], str, str], list[RankingRecord]] = {}
    for head in findings.ranking_heads:
        groups.setdefault((head.domains, head.split, head.sequences_digest), []).append(head)
    for (domains, split, digest), heads in groups.items():
        is_only = sum(names == domains for names, _, _ in groups) == 1
        yield from _missing_evaluation(findings, heads, split, digest, is_only=is_only)
    for head in findings.ranking_heads:
        if head.epochs and head.history is None:
            yield NotMeasured(f"Learning curve of ranking head {head.head}", _fit_again(head))


def _missing_evaluation(
    findings: Findings, heads: Sequence[RankingRecord], split: str, digest: str, *, is_only: bool
) -> Iterator[NotMeasured]:
    """What was not measured of heads on one split; `is_only` if their domains have no heads on another one."""
    domains, names = heads[0].domains, [head.head for head in heads]
    # Of a domain with ratings, `evaluate` tests the other head unless it is told otherwise.
    ratings = len(domains) == 1 and any(one.name == domains[0] and not one.interactions for one in findings.domains)
    options = [*(["--candidates", "full"] if ratings else []), *([] if is_only else _named("--head", names))]
    command = shlex.join(["loid-infer", "evaluate", *_named("--domain", domains), *options])
    found = [one for one in findings.rankings if one.domains == domains]
    same = [one for one in found if (one.split, one.sequences_digest) == (split, digest)]
    unknown = [name for name in names if not any(name in one.heads for one in same)]
    if unknown:
        yield NotMeasured(f"Ranking by {', '.join(unknown)}", command)
    elif not any(one.is_full for one in same):
        yield NotMeasured(f"Full ranking of {' + '.join(domains)}", command)
    elif not any(one.examples for one in same):
        yield NotMeasured(f"Examples with titles of {' + '.join(domains)}", command)


def _named(option: str, values: Sequence[str]) -> list[str]:
    return [part for value in values for part in (option, value)]


def _fit_again(head: RankingRecord) -> str:
    """The command that fits a ranking head once more, with whichever of its settings are not the default."""
    defaults = asdict(DEFAULT_RANK_OPTIONS)
    model = {"text": ["--text-only"]}.get(head.model, ["--head" if head.fingerprint else "--model", head.model])
    changed = {name: value for name, value in head.options.items() if name in defaults and value != defaults[name]}
    settings = {name: value for name, value in changed.items() if name not in head.best_trial}  # trials find these
    settings |= {"seed": head.seed} if head.seed else {}
    settings |= {"split": head.split} if head.split != "leave-one-out" else {}
    settings |= {"encoder": head.encoder} if head.encoder else {}
    settings |= {"template": head.template} if head.template not in ("", TEMPLATE) else {}
    settings["name"] = head.head
    given = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    verb = "llmrec" if head.fingerprint else "cf"
    return shlex.join(["loid-infer", verb, "fit", *_named("--domain", head.domains), *model, *given])
