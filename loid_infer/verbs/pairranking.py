"""Rankings by heads on labeled pairs: of all items, or of the first items of another head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from loid_infer.clicks.nets import MODELS, PairBatch
from loid_infer.clicks.saved import ClickHead
from loid_infer.data.clicks import Pairs, read_clicks
from loid_infer.data.lookup import IdTable
from loid_infer.data.sequences import Histories
from loid_infer.data.users import UserRows
from loid_infer.errors import BadSetting
from loid_infer.evaluation.ranking import top
from loid_infer.rankers.settings import RankOptions
from loid_infer.settings import Workspace
from loid_infer.types import Floats, Ints, Progress
from loid_infer.verbs.pairheads import best_collaborative, open_chooser, open_click_head, probability, scorer
from loid_infer.verbs.sequences import BASED_ON, titles_of

SHORTLIST = 20  # items that a decoder reads for a user if no more are wanted, as many as in BDLM's tests


class OpenPairRanking:
    """An open head on labeled pairs, which ranks items by P(liked); see `OpenRanking` for what its methods give.

    A decoder cannot read a prompt about every item: it orders what the best collaborative head puts first.
    """

    def __init__(self, workspace: Workspace, name: str, progress: Progress) -> None:
        """Raises BadSetting if the best collaborative head was fitted on other pairs, and what `scorer` raises."""
        head, self._order = open_click_head(workspace, name), None
        if head.manifest.model not in MODELS:
            manifest = head.manifest
            best = best_collaborative(workspace, manifest.domain, MODELS, manifest.seed)
            first = open_click_head(workspace, best)
            if first.manifest.split_digest != manifest.split_digest:
                what, fix = "the two heads were fitted on different pairs", "Fit both again."
                raise BadSetting(what, where=f"heads {first.folder.name!r} and {name!r}", fix=fix)
            progress.say(f"head {name!r} orders what {first.folder.name!r}, the best collaborative one, puts first")
            head, self._order = first, _Order(workspace, head, progress)
        manifest = head.manifest
        self.item_ids, self.n_items = head.item_ids, len(head.item_ids)
        self._net, self._length = head.net(), RankOptions(**manifest.options).max_length
        self._tables = self._net.tables()
        clicks = read_clicks(workspace.clicks(manifest.domain), manifest.domain, manifest.seed, to_fit=False)
        self._users, self._rows = IdTable(head.user_ids), IdTable(clicks.user_ids)
        self._user_ids, self._codes = clicks.user_ids, IdTable(head.item_ids).codes(clicks.item_ids)
        self._given = {item: code for code, item in enumerate(head.item_ids)}
        self._liked, self._by_history = clicks.liked, manifest.model == "sasrec"
        users, items = self._users.codes(clicks.user_ids)[clicks.users], self._codes[clicks.items]
        known = (users >= 0) & (items >= 0)
        order = np.argsort(users[known], kind="stable")
        self._met = items[known][order]  # what each user has labeled, user by user
        self._starts = np.searchsorted(users[known][order], np.arange(len(head.user_ids) + 1))

    def known_users(self) -> Sequence[str]:
        """The users with labeled pairs."""
        return self._user_ids

    def histories(self, wanted: UserRows) -> tuple[Histories, Ints]:
        """What the users liked, and what recommendations are based on; unknown users get the order of all users."""
        users, rows = self._users.codes(wanted.user_ids), self._rows.codes(wanted.user_ids)
        parts: list[Ints] = []
        based = []
        reads_user, reads_items = self._order or not self._by_history, self._order or self._by_history
        for i, row in enumerate(rows.tolist()):
            items: Ints = np.zeros(0, np.int64)
            given = wanted.histories[i] if wanted.histories is not None else None
            if given is not None:
                items = np.array([self._given.get(item, -1) for item in given], np.int64)
                users[i] = -1
            elif row >= 0:
                items = self._codes[self._liked.items[self._liked.starts[row] : self._liked.starts[row + 1]]]
            parts.append(items[items >= 0])
            is_known = (reads_user and users[i] >= 0) or (reads_items and len(parts[-1]) > 0)
            based.append(len(BASED_ON) - 1 if not is_known else BASED_ON.index("user" if given is None else "history"))
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        lengths = np.diff(ends, prepend=0)
        flat = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        return Histories(users, ends - lengths, ends, flat), np.array(based, np.int64)

    def index(self, histories: Histories) -> float | None:
        """None: all items are scored."""

    def first(self, histories: Histories, n: int, *, with_seen: bool) -> tuple[Ints, Floats]:
        """The first items, and P(liked) of each; of a head that chooses, the probability that it is the one.

        Raises:
            BadSetting: a head chooses among fewer than `n` items.
        """
        nothing = np.zeros(histories.n, np.int64)
        batch = PairBatch.of(Pairs(histories.users, nothing, histories), self._length)
        with torch.inference_mode():
            scores = torch.sigmoid(self._net.all_logits(batch, self._tables)).numpy()
        if not with_seen:  # of users that came after the fit, what they liked
            for row, user in enumerate(histories.users.tolist()):
                labeled = self._met[self._starts[user] : self._starts[user + 1]] if user >= 0 else ()
                scores[row, labeled] = -np.inf
            scores[histories.flat()] = -np.inf
        if self._order is None:
            return top(scores, n)
        columns, scores = self._order(histories, top(scores, self._order.n_read(n))[0])
        return columns[:, :n], scores[:, :n]


class _Order:
    """Puts the items that are first by another head into the order of a decoder, which reads prompts about them."""

    def __init__(self, workspace: Workspace, head: ClickHead, progress: Progress) -> None:
        self.candidates = head.manifest.candidates
        self._titles = titles_of(workspace, head.manifest.domain, head.item_ids)
        if self.candidates:
            self._choose = open_chooser(workspace, head, progress)
        else:
            score = scorer(workspace, head, "auto", progress)
            self._choose = lambda pairs, titles, starts: score(pairs, titles)

    def n_read(self, n: int) -> int:
        """The number of items that it reads to give the first `n`.

        Raises:
            BadSetting: it chooses among fewer.
        """
        if self.candidates and n > self.candidates:
            what, fix = "the head chooses among fewer items", f"Give at most -n {self.candidates}."
            raise BadSetting(what, where="-n", expected=f"at most {self.candidates}", got=str(n), fix=fix)
        return self.candidates or max(n, SHORTLIST)

    def __call__(self, histories: Histories, columns: Ints) -> tuple[Ints, Floats]:
        """The items of `columns [b, m]`, -1 where there are fewer, in its order, and their probabilities."""
        found = columns >= 0
        rows, items = np.nonzero(found)[0], columns[found]
        starts = np.append(np.unique(rows, return_index=True)[1], len(rows))
        of_pairs = histories.rows(rows)
        which, liked = of_pairs.flat()
        asked = columns[rows[which]] if self.candidates else items[which, None]  # what no history may show
        pairs = Pairs(histories.users[rows], items, of_pairs.where((liked[:, None] != asked).all(axis=1)))
        logits = np.full(columns.shape, -np.inf, np.float32)
        logits[found] = self._choose(pairs, [self._titles[item] for item in items.tolist()], starts)
        order, best = top(logits, columns.shape[1])
        return np.where(order >= 0, np.take_along_axis(columns, order, axis=1), -1), probability(best)
