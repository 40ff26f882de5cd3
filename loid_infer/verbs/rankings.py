"""`evaluate` for ranking heads: metrics of all test targets, paired differences, groups of targets, and examples."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from loid_infer.artifact import new_file
from loid_infer.data.sequences import Sequences, SequenceSplit, Targets, before, split_sequences
from loid_infer.errors import BadSetting
from loid_infer.evaluation.ranking import MISSED, measured, top
from loid_infer.evaluation.rows import paired
from loid_infer.rankers.candidates import kept_candidates
from loid_infer.rankers.comparison import (
    COMPARED,
    Example,
    ExampleRanking,
    RankDifference,
    RankEvaluation,
    RankRow,
    file_names,
)
from loid_infer.rankers.models import COUNTS, fit_model, n_trials
from loid_infer.rankers.ranking import Ranker, drawn, hide_seen, target_ranks
from loid_infer.rankers.saved import RankingHead
from loid_infer.rankers.settings import RankOptions
from loid_infer.records import to_json
from loid_infer.settings import Workspace, WorkspaceLike
from loid_infer.types import SILENT, Floats, Ints, Progress
from loid_infer.verbs.sequences import fit_command, open_heads, open_ranker, read_sequences, titles_of

_N_EXAMPLES, _N_SHOWN = 5, 5  # users, and items of each list
_LEAK = (
    "leave-one-out: training contains interactions that happened after test targets; --split time when fitting does not"
)
# Targets are grouped by training interactions of the item and by the length of the history; upper ends.
_POPULARITY = {"unknown": 0, "1 to 5": 5, "6 to 20": 20, "21 to 100": 100, "more": np.inf}
_LENGTH = {"1 to 3": 3, "4 to 6": 6, "7 to 12": 12, "more": np.inf}


def evaluate_ranking(
    domains: Sequence[str],
    *,
    heads: Sequence[str] = (),
    candidates: str = "full",
    split: str | None = None,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> RankEvaluation:
    """Rank the test targets with ranking heads, and with counting models that are tuned on the validation part.

    Writes `reports/<domains>.ranking.json`, with the kind of split and the number of candidates before the ending.

    Args:
        heads: names; by default all of exactly these domains.
        candidates: `full`, or a number of negatives of the target's domain, drawn once per seed.
        split: leave-one-out | time; that of the heads.

    Raises:
        BadSetting: heads of different splits, or of other domains.
        BadTable, BadArtifact, NotEncoded, BadStore: a table, a head or the store cannot be read.
        NoSpace: a file cannot be written.
    """
    start, workspace = time.perf_counter(), Workspace.of(workspace)
    opened = _of_split(open_heads(workspace, domains, heads), None if heads else split)
    seed, kind = _agreed(opened, split)
    sequences = read_sequences(workspace, domains, seed, progress)
    parts = split_sequences(sequences, kind)
    for head in opened:
        if head.manifest.split_digest != parts.digest:
            what, where = "the table has changed since the head was fitted", f"head {head.manifest.head!r}"
            raise BadSetting(what, where=where, fix=fit_command(head.manifest))
    negatives, file = None, ""
    if candidates != "full":
        negatives, path = kept_candidates(workspace.reports, sequences, parts, _number(candidates), seed)
        file = str(path)
    few, titles = drawn(parts.test, _N_EXAMPLES, seed), _titles(workspace, sequences)
    ranks: dict[str, Floats] = {}
    seconds: dict[str, float] = {}
    shown: dict[str, tuple[Floats, Ints]] = {}
    names = {head.manifest.head for head in opened}
    for name, ranker in _systems(workspace, opened, sequences, parts, seed, progress):
        timing = time.perf_counter()
        ranks[name] = target_ranks(ranker, sequences, parts.test, negatives, progress)
        seconds[name] = time.perf_counter() - timing
        if name in names:
            shown[name] = target_ranks(ranker, sequences, few), _first_items(ranker, sequences, few)
    note = _LEAK if kind == "leave-one-out" else ""
    if note:
        progress.say(note)
    target = workspace.reports / f"{'.'.join(file_names(sequences.domains, kind, candidates))}.ranking.json"
    result = RankEvaluation(
        domains=tuple(sequences.domains),
        split=kind,
        seed=seed,
        candidates=candidates,
        candidates_file=file,
        sequences_digest=sequences.digest,
        n_users=parts.test.n,
        n_tied_times=sequences.n_tied,
        summary=tuple(_rows(ranks, _by_domain(sequences, parts))),
        groups=tuple(row for group in _groups(sequences, parts) for row in _rows(ranks, group, COMPARED)),
        differences=tuple(_differences(ranks, list(shown))),
        rank_s=seconds,
        note=note,
        path=str(target),
        seconds=time.perf_counter() - start,
        examples=tuple(_examples(sequences, few, shown, titles)),
    )
    with new_file(target) as temporary:
        temporary.write_text(to_json(result, indent=1) + "\n")
    return result


def _of_split(heads: Sequence[RankingHead], split: str | None) -> Sequence[RankingHead]:
    """Those that were fitted on `split`, or all if there is none."""
    return [head for head in heads if head.manifest.split == split] or heads


def _agreed(heads: Sequence[RankingHead], split: str | None) -> tuple[int, str]:
    """The seed and the kind of split of all heads."""
    splits = {(head.manifest.seed, head.manifest.split): head.manifest.head for head in heads}
    if len(splits) > 1 or (split is not None and split != heads[0].manifest.split):
        got = ", ".join(f"{name!r}: {kind}, seed {seed}" for (seed, kind), name in splits.items())
        what, fix = "the heads were fitted on another split", "Fit them with the same --split and --seed."
        raise BadSetting(what, where="--split", expected=split or "one for all", got=got, fix=fix)
    return heads[0].manifest.seed, heads[0].manifest.split


def _number(candidates: str) -> int:
    if not (candidates.isdecimal() and len(candidates) < 10 and int(candidates)):
        raise BadSetting(
            "neither full nor a number", where="--candidates", expected="full | 1000", got=repr(candidates)
        )
    return int(candidates)


def _systems(
    workspace: Workspace,
    heads: Sequence[RankingHead],
    sequences: Sequences,
    split: SequenceSplit,
    seed: int,
    progress: Progress,
) -> Iterator[tuple[str, Ranker]]:
    """The heads, then the counting models that are not among them."""
    for head in heads:
        yield head.manifest.head, open_ranker(workspace, head, progress)
    tuned = {head.manifest.model for head in heads if len(head.manifest.trials) >= n_trials(head.manifest.model)}
    for model in COUNTS:
        if model not in tuned:
            options = RankOptions(trials=n_trials(model))
            found = fit_model(model, sequences, split, options, None, seed=seed, progress=SILENT)
            yield model, found.ranker


def _by_domain(sequences: Sequences, split: SequenceSplit) -> tuple[str, Sequence[str], Ints]:
    return "domain", sequences.domains, sequences.item_domains[sequences.items[split.test.at]]


def _groups(sequences: Sequences, split: SequenceSplit) -> Iterator[tuple[str, Sequence[str], Ints]]:
    """Partitions of the test targets: kind, names and the group `[m]` of each."""
    targets = split.test
    counts = split.counts(sequences)
    lengths = targets.at - sequences.starts[targets.users]
    yield "training interactions of the item", *_bins(_POPULARITY, counts[sequences.items[targets.at]])
    yield "length of the history", *_bins(_LENGTH, lengths)
    if len(sequences.domains) > 1:
        pairs = np.unique(np.column_stack([sequences.users, sequences.item_domains[sequences.items]]), axis=0)
        n_domains = np.bincount(pairs[:, 0], minlength=sequences.n_users)[targets.users]
        yield "domains of the user", [str(n + 1) for n in range(len(sequences.domains))], n_domains - 1


def _bins(ends: Mapping[str, float], values: Ints) -> tuple[Sequence[str], Ints]:
    return list(ends), np.searchsorted(np.array(list(ends.values())), values)


def _rows(
    ranks: Mapping[str, Floats], partition: tuple[str, Sequence[str], Ints], metrics: Sequence[str] = ()
) -> Iterator[RankRow]:
    """Metrics of every system over all targets and per domain, or per group of another kind."""
    kind, names, codes = partition
    parts = {name: codes == number for number, name in enumerate(names)}
    if kind == "domain" and len(names) > 1:
        parts[""] = np.ones(len(codes), bool)
    for system, values in ranks.items():
        for name, chosen in parts.items():
            if not chosen.any():
                continue
            for metric, of_target in measured(values[chosen]).items():
                if not metrics or metric in metrics:
                    domain, group = (name, "") if kind == "domain" else ("", f"{kind}={name}")
                    yield RankRow(system, domain, metric, *paired(of_target), int(chosen.sum()), group)


def _differences(ranks: Mapping[str, Floats], heads: Sequence[str]) -> Iterator[RankDifference]:
    """Every head minus every other system, over all targets."""
    values = {system: measured(of_system) for system, of_system in ranks.items()}
    for head in heads:
        for other in ranks:
            if other != head:
                for metric in COMPARED:
                    yield RankDifference(head, other, "", metric, *paired(values[head][metric] - values[other][metric]))


def _first_items(ranker: Ranker, sequences: Sequences, targets: Targets) -> Ints:
    """The items of each target's domain that come first, codes `[m, k]`; -1 where there are fewer.

    As where targets are ranked, items of the history are left out, and the target is not.
    """
    wanted, histories = sequences.items[targets.at], before(sequences, targets)
    scores = ranker.scores(histories)
    hide_seen(scores, histories, wanted)
    scores[sequences.item_domains != sequences.item_domains[wanted][:, None]] = -np.inf
    return top(scores, _N_SHOWN)[0]


def _titles(workspace: Workspace, sequences: Sequences) -> list[str]:
    """The title of each item, or its id where there is none."""
    titles: list[str] = []
    for number, domain in enumerate(sequences.domains):
        ids = sequences.item_ids[sequences.bounds[number] : sequences.bounds[number + 1]]
        titles += [title or item for title, item in zip(titles_of(workspace, domain, ids), ids, strict=True)]
    return titles


def _examples(
    sequences: Sequences, targets: Targets, shown: Mapping[str, tuple[Floats, Ints]], titles: Sequence[str]
) -> Iterator[Example]:
    """The users of `targets`, with the ranks `[m]` and the first items `[m, k]` of each head in `shown`."""
    histories = before(sequences, targets)
    last = histories.last(_N_SHOWN)
    for row, item in enumerate(sequences.items[targets.at].tolist()):
        yield Example(
            user=sequences.user_ids[targets.users[row]],
            domain=sequences.domains[sequences.item_domains[item]],
            n_history=int(histories.lengths[row]),
            history=tuple(titles[code] for code in last.rows(np.array([row])).flat()[1].tolist()),
            target=titles[item],
            rankings=tuple(
                ExampleRanking(
                    head,
                    float(ranks[row]) if ranks[row] != MISSED else None,
                    tuple(titles[code] for code in first[row].tolist() if code >= 0),
                )
                for head, (ranks, first) in shown.items()
            ),
        )
