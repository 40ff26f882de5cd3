"""`recommend`: the items that a ranking head puts first, for users of the domain or of a file."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from loid_infer.data.addresses import Where, beside, delivered, fetched
from loid_infer.data.sequences import Histories
from loid_infer.data.users import UserRows, read_users, write_recommendations
from loid_infer.errors import BadSetting
from loid_infer.rankers.nearest import BLOCK_USERS
from loid_infer.rankers.ranking import block_rows
from loid_infer.rankers.saved import RankingHead
from loid_infer.settings import Workspace, WorkspaceLike, check_number
from loid_infer.types import SILENT, Ints, Progress
from loid_infer.verbs.pairheads import click_domain
from loid_infer.verbs.pairranking import OpenPairRanking
from loid_infer.verbs.sequences import BASED_ON, OpenRanking, open_heads, titles_of


@dataclass(frozen=True, slots=True)
class RecommendResult:
    """Finished recommendations."""

    head: str
    domain: str
    n_users: int
    n_unknown_users: int  # without any history: they get the popular items
    n_rows: int
    recall: float | None  # at 100, of the index in domains of many items; None: all items were scored
    rows_per_s: float
    seconds: float
    out: str


def recommend(
    users: str | os.PathLike[str] | None = None,
    *,
    domain: str,
    head: str | None = None,
    n: int = 20,
    include_seen: bool = False,
    out: str | os.PathLike[str] | None = None,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> RecommendResult:
    """Write the `n` items of `domain` that the head puts first for every user, as rows of user, item, rank and score.

    The history of a user is what the domain's table says now, also interactions since the head was fitted; a user
    without any gets the items with the most training interactions. Items of equal score are in the order of their ids.

    Args:
        users: parquet or CSV file with `user_id`, and optionally `history`, item ids that replace those of the table;
            by default all users of the domain.
        head: name of the head; by default the ranking head of this domain with the best validation NDCG@10. A
            head on labeled pairs ranks by P(liked) and leaves out what the user has labeled; one with a decoder orders
            what the domain's best collaborative head puts first.
        include_seen: also recommend items of the history.
        out: by default `<users>.recommendations.parquet` (`.csv` for CSV), or `<domain>.recommendations.parquet` in the
            current folder.

    Raises:
        BadTable: the file or the table cannot be read.
        BadArtifact: there is no head of the domain, or it is damaged.
        BadSetting: heads of different splits and no `head`, or an output that would replace the file of users.
        NotEncoded, BadStore: vectors of the head's items are missing or damaged.
        NoSpace: the output cannot be written.
    """
    start, workspace = time.perf_counter(), Workspace.of(workspace)
    check_number("-n", n, 1, math.inf)
    name, model = _opened(workspace, domain, head, progress)
    titles = titles_of(workspace, domain, model.item_ids)
    wanted = UserRows(model.known_users(), None)
    if users is not None:
        with fetched(users) as (source,):
            wanted = read_users(source)
    target, n_rows = _target(users, domain, out), 0
    with (
        delivered(target) as local,
        write_recommendations(local) as write,
        progress.task("recommend", len(wanted.user_ids), "users") as task,
    ):
        histories, known = model.histories(wanted)
        _say_unused(wanted, histories, known, model, progress)
        recall = model.index(histories)
        if recall is not None:
            progress.say(f"the first items come from an index: recall at 100 is {recall:.3f}, scores are exact")
        size = block_rows(model.n_items) if recall is None else BLOCK_USERS
        for first in range(0, histories.n, size):
            rows = np.arange(first, min(first + size, histories.n))
            columns, scores = model.first(histories.rows(rows), n, with_seen=include_seen)
            found = columns >= 0
            at, place = np.nonzero(found)
            codes = columns[found]
            write(
                [wanted.user_ids[row] for row in rows[at].tolist()],
                [model.item_ids[code] for code in codes.tolist()],
                (place + 1).tolist(),
                scores[found].tolist(),
                [BASED_ON[known[row]] for row in rows[at].tolist()],
                [titles[code] for code in codes.tolist()],
            )
            n_rows += len(codes)
            task.advance(len(rows))
    seconds = time.perf_counter() - start
    return RecommendResult(
        head=name,
        domain=domain,
        n_users=len(wanted.user_ids),
        n_unknown_users=int(np.count_nonzero(known == len(BASED_ON) - 1)),
        n_rows=n_rows,
        recall=recall,
        rows_per_s=n_rows / seconds,
        seconds=seconds,
        out=target,
    )


def _target(users: Where | None, domain: str, out: Where | None) -> str:
    """Where the recommendations are written."""
    if users is None:
        return os.fspath(out or f"{domain}.recommendations.parquet")
    name = PurePath(os.fspath(users).partition("?")[0])
    suffix = ".csv" if name.suffix.lower() in (".csv", ".tsv") else ".parquet"
    target = os.fspath(out or beside(users, name.with_suffix(f".recommendations{suffix}").name))
    if target == os.fspath(users) or Path(target).resolve() == Path(users).resolve():
        fix = "Choose another --out."
        raise BadSetting("the output would replace the file of users", where="--out", got=target, fix=fix)
    return target


def _say_unused(
    wanted: UserRows, histories: Histories, known: Ints, model: OpenRanking | OpenPairRanking, progress: Progress
) -> None:
    """Say how many items of given histories the head cannot use."""
    n_given = sum(len(given) for given in wanted.histories or () if given is not None)
    n_used = int(histories.lengths[known == BASED_ON.index("history")].sum())
    if n_used < n_given:
        progress.say(
            f"the head cannot use {n_given - n_used:,} of {n_given:,} items of the histories; it has items like "
            f"{model.item_ids[0]!r}"
        )


def _opened(
    workspace: Workspace, domain: str, name: str | None, progress: Progress
) -> tuple[str, OpenRanking | OpenPairRanking]:
    """The name of the head, and what recommends with it."""
    of_labels = None if name is None else click_domain(workspace, name)
    if name is not None and of_labels is not None:
        if of_labels != domain:
            what, fix = "the head is one of another domain", "Give its domain with --domain."
            raise BadSetting(what, where=f"head {name!r}", expected=domain, got=of_labels, fix=fix)
        return name, OpenPairRanking(workspace, name, progress)
    head = _head(workspace, domain, name, progress)
    return head.manifest.head, OpenRanking(workspace, head, domain, progress)


def _head(workspace: Workspace, domain: str, name: str | None, progress: Progress) -> RankingHead:
    """The head `name`, or the one of this domain that was best on validation."""
    if name is not None:
        return open_heads(workspace, [domain], [name], exactly=False)[0]
    heads = open_heads(workspace, [domain], [])
    splits = {head.manifest.split: head.manifest.head for head in heads}
    if len(splits) > 1:  # whose validation figures cannot be compared
        got = ", ".join(f"{head!r}: {split}" for split, head in splits.items())
        raise BadSetting("the heads were fitted on different splits", where=domain, got=got, fix="Give --head NAME.")
    best = max(heads, key=lambda head: head.manifest.val["ndcg@10"])
    if len(heads) > 1:
        progress.say(f"head {best.manifest.head!r}: the best of {len(heads)} by validation NDCG@10")
    return best
