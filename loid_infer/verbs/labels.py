"""`evaluate --clicks`: AUC and UAUC of heads on labeled pairs, with intervals over users."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from loid_infer.artifact import new_file
from loid_infer.clicks.candidates import HITS, RATIOS, Ratios, balanced, best_threshold, hits, is_ranking
from loid_infer.clicks.comparison import ITEM_MEAN, ClickEvaluation, ClickRow
from loid_infer.clicks.saved import ClickHead
from loid_infer.clicks.training import auc
from loid_infer.data.clicks import TEST, TRAIN, VALID, Clicks, read_clicks
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.evaluation.metrics import auc_draws, aucs
from loid_infer.evaluation.rows import paired
from loid_infer.records import to_json
from loid_infer.settings import Workspace, WorkspaceLike
from loid_infer.types import SILENT, Bools, Floats, Ints, Progress
from loid_infer.verbs.pairheads import click_heads, open_click_head, scorer
from loid_infer.verbs.sequences import titles_of

_N_DRAWS = 500  # of users, for the interval of an AUC
_N_THRESHOLD = 500  # users of the validation part, on whom the threshold of positive pairs is chosen
_PRIOR = 5.0  # pairs with the overall share that an item mean starts from


def evaluate_clicks(
    domain: str,
    *,
    heads: Sequence[str] = (),
    device: str = "auto",
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> ClickEvaluation:
    """Predict the labels of the test part with every head, and compare each with all others.

    The interval of an AUC is a percentile bootstrap over users, that of a UAUC Student's t interval. Where every user
    has one positive test pair among negatives, hit rates at 1 and 2 are measured too, and precision, recall and F1 of
    that pair and one negative, at the threshold with the largest F1 on validation. Writes
    `reports/<domain>.clicks.json`.

    Args:
        heads: names; by default all on labeled pairs of the domain.
        device: auto | cpu | cuda, of decoders.

    Raises:
        BadSetting: heads of different seeds or of other pairs.
        BadTable, BadArtifact, StoreBusy, BadStore, NoSpace: see `cora_fit`.
    """
    start, workspace = time.perf_counter(), Workspace.of(workspace)
    names = [*heads] or click_heads(workspace, domain)
    if not names:
        fix = f"Run: loid-infer cf fit --clicks --domain {domain}"
        raise BadArtifact(f"there is no head on labeled pairs of {domain}", where=str(workspace.root), fix=fix)
    opened = {name: open_click_head(workspace, name) for name in names}
    seeds = {head.manifest.seed for head in opened.values()}
    clicks = read_clicks(workspace.clicks(domain), domain, min(seeds))
    for name, head in opened.items():
        if len(seeds) > 1 or head.manifest.split_digest != clicks.digest:
            what = "the head was fitted with another --seed than others, or on other pairs"
            fix = "Fit all heads with one seed on the table of now."
            raise BadSetting(
                what, where=f"head {name!r}", got=f"{head.manifest.domain}, seed {head.manifest.seed}", fix=fix
            )
    rows = clicks.rows(TEST)
    labels, users = clicks.labels[rows], clicks.users[rows]
    known = _valid_rows(clicks) if is_ranking(labels, users) else rows[:0]
    scores, seconds = _scored(workspace, opened, clicks, np.concatenate([rows, known]), len(rows), device, progress)
    of_test = {name: part[: len(rows)] for name, part in scores.items()}
    summary, differences = compared(of_test, labels, users, min(seeds))
    if len(known):
        more = _of_candidates(scores, labels, users, clicks.labels[known], min(seeds))
        summary, differences = summary + more[0], differences + more[1]
    target = workspace.reports / f"{domain}.clicks.json"
    result = ClickEvaluation(
        domain=domain,
        split=clicks.split,
        split_digest=clicks.digest,
        seed=min(seeds),
        n_pairs=len(rows),
        n_positive=int(labels.sum()),
        n_users=len(np.unique(users)),
        n_both=len(aucs(of_test[ITEM_MEAN], labels, users)),
        summary=summary,
        differences=differences,
        score_s=seconds,
        path=str(target),
        seconds=time.perf_counter() - start,
    )
    with new_file(target) as temporary:
        temporary.write_text(to_json(result, indent=1) + "\n")
    return result


def _scored(
    workspace: Workspace,
    heads: Mapping[str, ClickHead],
    clicks: Clicks,
    rows: Ints,
    n_test: int,
    device: str,
    progress: Progress,
) -> tuple[dict[str, Floats], dict[str, float]]:
    """The scores `[m]` of `rows [m]`, of which the first `n_test` are for test, by every head and by the item mean, and
    the seconds of each head. Heads that choose among candidates score the first `n_test` only."""
    titles = titles_of(workspace, clicks.domain, clicks.item_ids)
    of_rows = [titles[item] for item in clicks.items[rows].tolist()]
    scores: dict[str, Floats] = {}
    seconds: dict[str, float] = {}
    for name, head in heads.items():
        start = time.perf_counter()
        score, n = scorer(workspace, head, device, progress, keep=True), len(rows)
        if head.manifest.candidates:
            n = n_test  # there is no threshold of a choice
        scores[name] = score(clicks.pairs(rows[:n]), of_rows[:n])
        seconds[name] = time.perf_counter() - start
        progress.say(f"{name}: AUC {auc(scores[name][:n_test], clicks.labels[rows[:n_test]]):.4f}")
    scores[ITEM_MEAN] = item_means(clicks)[clicks.items[rows]]
    return scores, seconds


def _valid_rows(clicks: Clicks) -> Ints:
    """Rows of the validation part on which the threshold of positive pairs is chosen: as many of both labels."""
    rows = clicks.rows(VALID)
    users = np.unique(clicks.users[rows])[:_N_THRESHOLD]
    rows = rows[np.isin(clicks.users[rows], users)]
    if not is_ranking(clicks.labels[rows], clicks.users[rows]):
        return rows[:0]
    return rows[balanced(clicks.labels[rows], clicks.users[rows])]


def _of_candidates(
    scores: Mapping[str, Floats], labels: Bools, users: Ints, known: Bools, seed: int
) -> tuple[tuple[ClickRow, ...], tuple[ClickRow, ...]]:
    """Hit rates, and precision, recall and F1 of every user's positive pair and one negative, as `compared` does.

    `scores` are of the test pairs and then of the validation pairs with labels `known [m]`, where F1 is largest; of
    systems without the latter there are hit rates only.
    """
    n, few = len(labels), balanced(labels, users)
    rates = {name: hits(part[:n], labels, users) for name, part in scores.items()}
    ratios = {
        name: Ratios.of(part[few], labels[few], users[few], best_threshold(part[n:], known), _N_DRAWS, seed)
        for name, part in scores.items()
        if len(part) > n
    }
    summary, differences = [], []
    for name in scores:
        summary += [ClickRow(name, metric, *paired(rates[name][metric])) for metric in HITS]
        if name in ratios:
            summary += [
                ClickRow(name, metric, ratios[name].values[metric], *_ends(ratios[name].draws[metric]))
                for metric in RATIOS
            ]
        for other in scores:
            if name not in {other, ITEM_MEAN}:
                differences += [
                    ClickRow(name, metric, *paired(rates[name][metric] - rates[other][metric]), other)
                    for metric in HITS
                ]
                for metric in RATIOS if {name, other} <= ratios.keys() else ():
                    mine, theirs = ratios[name], ratios[other]
                    ends = _ends(mine.draws[metric] - theirs.draws[metric])
                    differences.append(
                        ClickRow(name, metric, mine.values[metric] - theirs.values[metric], *ends, other)
                    )
    return tuple(summary), tuple(differences)


def item_means(clicks: Clicks) -> Floats:
    """The share of positive training pairs of each item `[n_items]`, towards that of all."""
    rows, n = clicks.rows(TRAIN), len(clicks.item_ids)
    positive = np.bincount(clicks.items[rows], clicks.labels[rows], minlength=n)
    found: Floats = (positive + _PRIOR * clicks.labels[rows].mean()) / (
        np.bincount(clicks.items[rows], minlength=n) + _PRIOR
    )
    return found


def compared(
    scores: Mapping[str, Floats], labels: Bools, users: Ints, seed: int
) -> tuple[tuple[ClickRow, ...], tuple[ClickRow, ...]]:
    """The metrics of systems, and what each of them, but the item mean, has more than every other one.

    Args:
        scores: `[n]` by system.
        labels, users: `[n]`, whether positive, and codes.
        seed: of the bootstrap.
    """
    draws = {name: auc_draws(of_pairs, labels, users, _N_DRAWS, seed) for name, of_pairs in scores.items()}
    of_users = {name: aucs(of_pairs, labels, users) for name, of_pairs in scores.items()}
    whole = {name: auc(of_pairs, labels) for name, of_pairs in scores.items()}

    def summary() -> Iterator[ClickRow]:
        for name in scores:
            yield ClickRow(name, "auc", whole[name], *_ends(draws[name]))
            if len(of_users[name]):
                yield ClickRow(name, "uauc", *paired(of_users[name]))

    def differences() -> Iterator[ClickRow]:
        for name in scores:
            for other in scores:
                if name not in {other, ITEM_MEAN}:
                    ends = _ends(draws[name] - draws[other])
                    yield ClickRow(name, "auc", whole[name] - whole[other], *ends, other)
                    if len(of_users[name]):
                        yield ClickRow(name, "uauc", *paired(of_users[name] - of_users[other]), other)

    return tuple(summary()), tuple(differences())


def _ends(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, (0.025, 0.975)).tolist()
    return low, high
