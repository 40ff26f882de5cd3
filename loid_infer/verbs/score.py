"""`score`: predicts ratings for a file of (user, item) pairs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loid_infer.data.addresses import beside, delivered, fetched
from loid_infer.data.lookup import IdTable
from loid_infer.data.pairs import Pairs, PairSource, read_pairs, write_scores
from loid_infer.data.users import UserRows
from loid_infer.data.values import id_form
from loid_infer.encoders.opening import torch_device
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import BadArtifact, BadSetting, BadTable
from loid_infer.evaluation import metrics
from loid_infer.heads.saved import SavedHead, load_head
from loid_infer.rankers.ranking import blocks
from loid_infer.rankers.saved import load_ranking_head
from loid_infer.settings import Workspace, WorkspaceLike
from loid_infer.store.reader import view_of
from loid_infer.types import SILENT, Array, Floats, Ints, Progress, Vectors
from loid_infer.verbs.encoder import encode_command
from loid_infer.verbs.pairheads import OpenClicks, click_domain
from loid_infer.verbs.sequences import BASED_ON, OpenRanking, domains_of, ranking_heads

_KNOWN = np.array(["none", "item", "user", "both"])  # item known + 2 * user known
_MAX_EXAMPLES = 1_000  # unknown ids that are compared with known ones
_PAPER = (
    "fitted with the paper's protocol, whose histories contain the target review. Scores without that review are not "
    "valid results; fit with --protocol strict."
)


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """A finished run. Errors are of scores clipped to the rating range, over the rows with a rating."""

    domains: tuple[str, ...]
    heads: tuple[str, ...]
    n_rows: int
    n_unknown_users: int  # rows whose user has no training review
    n_unknown_items: int
    n_rated: int
    mse: float | None
    mae: float | None
    n_labeled: int
    n_labeled_users: int  # with both labels
    auc: float | None  # of all rows with a label
    uauc: float | None  # mean over these users
    rows_per_s: float
    seconds: float
    opening_s: float  # of these, to load heads and to read the vectors of their histories
    out: str
    warning: str | None


def score(
    pairs: str | os.PathLike[str],
    *,
    domain: str | None = None,
    head: str | None = None,
    quoting: str = "auto",
    label: str | None = None,
    out: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> ScoreResult:
    """Score every row of `pairs` (parquet, CSV or TSV) and write the same rows with `score` and `known` to `out`.

    Both may be addresses, like s3://bucket/pairs.parquet.

    Unknown users and items are scored too. A score depends only on user and item.

    Args:
        domain: domain of all rows; by default the column `domain`, else the only head.
        head: head for all rows; by default the domain's. The scores of a ranking head order the items of a
            user, those of a head on labeled pairs are probabilities.
        quoting: of CSV and TSV, as for `ingest`.
        label: a column that says 1 or 0, for instance clicked or not. The AUC of the scores is computed with it. All
            scores and labels are kept until the end, 21 bytes a row.
        out: by default `<pairs>.scores.parquet` (`.csv` for CSV and TSV) next to the input.
        device: auto | cpu | cuda, for the network. On the CPU scores are the same on every machine.

    Raises:
        BadTable: the pairs cannot be read, or have ratings outside the range of the training data.
        BadSetting: the choice of head is ambiguous, the device is unknown, or there are labels for several heads.
        RuntimeMissing: the device is not available.
        BadArtifact: a head is missing or damaged.
        NotEncoded, BadStore: vectors of the head's reviews are missing or damaged.
        StoreBusy, NoMemory, NoSpace: the store cannot be opened, see docs/reliability.md.
    """
    start = time.perf_counter()
    on_device, workspace = torch_device(device), Workspace.of(workspace)
    with fetched(pairs) as (path,):
        source = read_pairs(path, quoting, label)
        target = out or beside(pairs, source.default_out.name)
        only = _only_head(workspace, source, domain, head)
        run = _Run(workspace, on_device, only, domain, label is not None, progress)
        with (
            delivered(target, but=pairs) as local,
            progress.task("score", None, "pairs") as task,
            write_scores(source, local) as write,
        ):
            for batch in source.batches():
                write(batch, *run.batch(batch))
                task.advance(batch.n)
    papers = [name for name, opened in sorted(run.opened.items()) if opened.is_paper]
    warnings = [f"{', '.join(papers)}: {_PAPER}"] if papers else []
    for opened in run.opened.values():
        warnings += [*opened.users.warnings(), *opened.items.warnings()]
    for line in warnings:
        progress.say(line)
    seconds, n_rows = time.perf_counter() - start, int(run.n_known.sum())
    return ScoreResult(
        domains=tuple(sorted(opened.domain for opened in run.opened.values())),
        heads=tuple(sorted(run.opened)),
        n_rows=n_rows,
        n_unknown_users=int(run.n_known[:2].sum()),
        n_unknown_items=int(run.n_known[::2].sum()),
        n_rated=run.n_rated,
        mse=run.squares / run.n_rated if run.n_rated else None,
        mae=run.absolutes / run.n_rated if run.n_rated else None,
        **run.areas(),
        rows_per_s=n_rows / seconds,
        seconds=seconds,
        opening_s=run.opening_s,
        out=os.fspath(target),
        warning=" ".join(warnings) or None,
    )


class _Ids:
    """The users or items of a head."""

    def __init__(self, kind: str, ids: Sequence[str]) -> None:
        self._kind, self._ids = kind, ids
        self._table = IdTable(ids)
        self._unknown: set[str] = set()
        self._any_known = False

    def codes(self, ids: Sequence[str]) -> Ints:
        """Their numbers `[n]`, -1 for unknown ones."""
        codes = self._table.codes(ids)
        unknown = codes < 0
        self._any_known |= not unknown.all()
        if len(self._unknown) < _MAX_EXAMPLES and unknown.any():
            self._unknown.update(ids[row] for row in np.flatnonzero(unknown)[:_MAX_EXAMPLES].tolist())
        return codes

    def warnings(self) -> list[str]:
        """A warning if unknown ids seem to be known ones in another form, or if none is known."""
        if not self._unknown:
            return []
        forms = {id_form(name): name for name in self._ids}
        alike = [(name, forms[id_form(name)]) for name in sorted(self._unknown) if id_form(name) in forms]
        if alike:
            ours, theirs = alike[0]
            what = f"{len(alike):,} of {self._counted()} differ from known ones in form only"
        elif self._any_known or not self._ids:
            return []
        else:
            ours, theirs = min(self._unknown), self._ids[0]
            what = f"no {self._kind} of the pairs is in the training data"
        return [f"{what}: {ours!r} in the pairs, {theirs!r} in the training data."]

    def _counted(self) -> str:
        n = len(self._unknown)
        return f"{'the first ' if n >= _MAX_EXAMPLES else ''}{n:,} unknown {self._kind}s"


class _ReviewHead:
    """A loaded head on reviews with its vectors."""

    def __init__(self, workspace: Workspace, name: str, domain: str, device: str) -> None:
        folder = workspace.head(name)
        fix = f"Run: loid-infer fit --domain {domain}" + (f" --name {name}" if name != domain else "")
        saved = load_head(folder, fix)
        with _vectors(workspace, saved, folder, fix) as vectors:
            self._predictor = saved.predictor(vectors, device)
        self._code_pairs = saved.coder()
        self.users, self.items = _Ids("user", saved.reviews.user_ids), _Ids("item", saved.reviews.item_ids)
        self.domain, self.is_paper = saved.manifest.domain, saved.manifest.protocol == "paper"
        self.rating_range: tuple[float, float] | None = saved.reviews.rating_range

    def score(self, user_ids: Sequence[str], item_ids: Sequence[str]) -> tuple[Floats, Ints]:
        """Scores `[n]` and indices into `_KNOWN` `[n]`."""
        pairs = self._code_pairs(self.users.codes(user_ids), self.items.codes(item_ids))
        return self._predictor.predict(pairs), (pairs.items >= 0) + 2 * (pairs.users >= 0)


class _RankingHead:
    """A loaded ranking head. Its scores rank the items for a user, and say nothing about ratings."""

    is_paper, rating_range = False, None

    def __init__(self, workspace: Workspace, name: str, domain: str) -> None:
        head = load_ranking_head(workspace.head(name), "Fit it again, or move it away.")
        self.domain = domain if domain in head.manifest.domains else head.manifest.domains[0]
        self._model = OpenRanking(workspace, head, self.domain, SILENT)
        self.users, self.items = _Ids("user", self._model.known_users()), _Ids("item", self._model.item_ids)

    def score(self, user_ids: Sequence[str], item_ids: Sequence[str]) -> tuple[Floats, Ints]:
        """Scores `[n]` and indices into `_KNOWN` `[n]`. Items that cannot be ranked get the user's lowest score."""
        self.users.codes(user_ids)
        items = self.items.codes(item_ids)
        users, rows = np.unique(np.array(user_ids, object), return_inverse=True)
        histories, known = self._model.histories(UserRows(users.tolist(), None))
        scores = np.empty(len(rows), np.float32)
        for part in blocks(histories, self._model.n_items):
            of_users = self._model.scores(histories.rows(part), with_seen=True)
            lowest = np.min(of_users, axis=1, where=np.isfinite(of_users), initial=np.inf)
            of_users = np.column_stack([of_users, np.where(np.isfinite(lowest), lowest, 0)])
            place = np.full(len(users), -1)
            place[part] = np.arange(len(part))
            chosen = np.flatnonzero(place[rows] >= 0)
            found = of_users[place[rows[chosen]], items[chosen]]
            scores[chosen] = np.where(np.isfinite(found), found, of_users[place[rows[chosen]], -1])
        return scores, (items >= 0) + 2 * (known[rows] < len(BASED_ON) - 1)


class _ClickHead:
    """A loaded head on labeled pairs. Its scores are probabilities."""

    is_paper, rating_range = False, None

    def __init__(self, workspace: Workspace, name: str, device: str, progress: Progress) -> None:
        self._model = OpenClicks(workspace, name, device, progress)
        self.domain = self._model.manifest.domain
        self.users, self.items = _Ids("user", self._model.user_ids), _Ids("item", self._model.item_ids)

    def score(self, user_ids: Sequence[str], item_ids: Sequence[str]) -> tuple[Floats, Ints]:
        """Scores `[n]` and indices into `_KNOWN` `[n]`."""
        users, items = self.users.codes(user_ids), self.items.codes(item_ids)
        return self._model.scores(user_ids, item_ids, users, items), (items >= 0) + 2 * (users >= 0)


@dataclass(slots=True)
class _Run:
    """The open heads, and sums over all batches."""

    workspace: Workspace
    device: str
    only: str | None  # head for all rows; None: from the column `domain`
    domain: str | None
    has_labels: bool
    progress: Progress
    opened: dict[str, _ReviewHead | _RankingHead | _ClickHead] = field(default_factory=dict)
    n_known: Ints = field(default_factory=lambda: np.zeros(len(_KNOWN), np.int64))  # rows by index into `_KNOWN`
    n_rated: int = 0
    squares: float = 0.0
    absolutes: float = 0.0
    opening_s: float = 0.0
    numbers: dict[str, int] = field(default_factory=dict)  # of users with a label
    labeled: list[tuple[Floats, Array, Ints]] = field(default_factory=list)  # scores, labels, numbers of users

    def batch(self, pairs: Pairs) -> tuple[Floats, Array]:
        """Scores `[n]` float32 and the values of `known` `[n]`."""
        scores, clipped, known = np.zeros(pairs.n, np.float32), np.zeros(pairs.n), np.zeros(pairs.n, np.int64)
        for name, rows, users, items in self._by_head(pairs):
            opened = self._open(name)
            scores[rows], known[rows] = opened.score(users, items)
            if opened.rating_range is None:
                clipped[rows] = np.nan
                continue
            clipped[rows] = metrics.clipped(scores[rows], opened.rating_range)
            if pairs.ratings is not None:
                _check_range(pairs, pairs.ratings, rows, opened.rating_range)
        if pairs.ratings is not None:
            errors = (clipped - pairs.ratings)[np.isfinite(pairs.ratings + clipped)]
            self.n_rated += len(errors)
            self.squares += float(np.square(errors).sum())
            self.absolutes += float(np.abs(errors).sum())
        if pairs.labels is not None:
            given = np.flatnonzero(np.isfinite(pairs.labels))
            numbers = [self.numbers.setdefault(pairs.user_ids[row], len(self.numbers)) for row in given.tolist()]
            self.labeled.append((scores[given], pairs.labels[given] > 0, np.array(numbers, np.int64)))
        self.n_known += np.bincount(known, minlength=len(_KNOWN))
        return scores, _KNOWN[known]

    def areas(self) -> dict[str, Any]:
        """The fields of the result that come from labels."""
        nothing = np.zeros(0, np.float32), np.zeros(0, bool), np.zeros(0, np.int64)
        scores, labels, users = map(np.concatenate, zip(nothing, *self.labeled, strict=True))
        whole = metrics.aucs(scores, labels, np.zeros_like(users))
        of_users = metrics.aucs(scores, labels, users)
        return {
            "n_labeled": len(labels),
            "n_labeled_users": len(of_users),
            "auc": float(whole[0]) if len(whole) else None,
            "uauc": float(of_users.mean()) if len(of_users) else None,
        }

    def _by_head(self, pairs: Pairs) -> Iterator[tuple[str, Ints, Sequence[str], Sequence[str]]]:
        """The names of heads, each with the numbers of its rows, their users and their items."""
        if self.only:
            yield self.only, np.arange(pairs.n), pairs.user_ids, pairs.item_ids
            return
        names, users, items = (np.array(ids, object) for ids in (pairs.domains, pairs.user_ids, pairs.item_ids))
        for name in dict.fromkeys(names.tolist()):
            rows = np.flatnonzero(names == name)
            yield name, rows, users[rows].tolist(), items[rows].tolist()

    def _open(self, name: str) -> _ReviewHead | _RankingHead | _ClickHead:
        if name not in self.opened:
            if self.has_labels and self.opened:
                what, got = "scores of several heads have no common AUC", ", ".join([*self.opened, name])
                raise BadSetting(what, where="--label", got=got, fix="Score each domain alone, or leave --label out.")
            opened: _ReviewHead | _RankingHead | _ClickHead
            start = time.perf_counter()
            rankers = [] if self.workspace.head(name).exists() else ranking_heads(self.workspace, [name])
            if rankers:
                what, got = f"there is no head {name!r}, but ranking heads of that domain", ", ".join(rankers)
                fix = f"Give --head {rankers[0]}, or run: loid-infer fit --domain {name}"
                raise BadArtifact(what, where=str(self.workspace.root), got=got, fix=fix)
            if domains_of(self.workspace, name):
                opened = _RankingHead(self.workspace, name, self.domain or name)
            elif click_domain(self.workspace, name) is not None:
                opened = _ClickHead(self.workspace, name, self.device, self.progress)
            else:
                opened = _ReviewHead(self.workspace, name, self.domain or name, self.device)
            self.opening_s += time.perf_counter() - start
            expected = self.domain or (None if self.only else name)  # the column names domains
            got = opened.domain
            if expected is not None and got != expected:
                what, fix = "the head belongs to another domain", "Omit --domain or --head."
                raise BadSetting(what, where=f"--head {name}", expected=expected, got=got, fix=fix)
            self.opened[name] = opened
        return self.opened[name]


def _check_range(pairs: Pairs, all_ratings: Floats, rows: Ints, rating_range: tuple[float, float]) -> None:
    low, high = rating_range
    ratings = all_ratings[rows]
    outside = rows[(ratings < low) | (ratings > high)]
    if len(outside):
        row, expected = int(outside[0]), f"a number from {low:g} to {high:g}, like those of the training data"
        where, got = f"{pairs.path}, row {pairs.first_row + row}", f"{all_ratings[row]:g}"
        fix = "Correct the ratings, or remove the column rating to score without errors."
        raise BadTable("a rating is outside the range", where=where, expected=expected, got=got, fix=fix)


def _only_head(workspace: Workspace, source: PairSource, domain: str | None, head: str | None) -> str | None:
    """The head for all rows, or None if the column `domain` decides."""
    if head is not None or domain is not None:
        return head or domain
    if source.has_domain:
        return None
    folder = workspace.head("any").parent
    names = sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())
    if len(names) == 1:
        return names[0]
    if not names:
        raise BadArtifact("there is no head", where=str(folder), fix="Run: loid-infer fit --domain D")
    fix = f"Run: loid-infer score {source.path.name} --head {names[0]}; or give --domain, or a column domain."
    raise BadSetting(f"there are several heads: {', '.join(names)}", where=str(folder), fix=fix)


def _vectors(workspace: Workspace, saved: SavedHead, folder: Path, fix: str) -> AbstractContextManager[Vectors]:
    """A view of the vectors `[m, d]` of the texts in histories."""
    manifest = saved.manifest
    spec, recorded = manifest.card, manifest.fingerprint
    if fingerprint(spec) != recorded:
        what = "the spec of the head contradicts its fingerprint"
        raise BadArtifact(what, where=str(folder), expected=recorded, got=fingerprint(spec), fix=fix)
    encode = encode_command(manifest.encoder, manifest.domain)
    return view_of(workspace.store(recorded), spec, recorded, saved.training_digests()[1], encode)
