"""What the verbs of ranking heads share: sequences, texts and vectors of items, and open heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from loid_infer.artifact import MANIFEST
from loid_infer.data.corpora import digests_of
from loid_infer.data.events import read_events
from loid_infer.data.items import open_items
from loid_infer.data.sequences import Histories, Sequences, SequenceSplit, refuse_other_split, sequences_of
from loid_infer.data.users import UserRows
from loid_infer.data.values import id_form
from loid_infer.encoder import Encoder
from loid_infer.encoders.folder import EncoderFolder, open_folder
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import BadArtifact, BadSetting, BadTable
from loid_infer.evaluation.ranking import top
from loid_infer.rankers.joined import JoinedTexts
from loid_infer.rankers.manifest import RankingManifest
from loid_infer.rankers.models import FACTORS, rankable
from loid_infer.rankers.nearest import MAX_DEPTH, NearestItems, is_worthwhile
from loid_infer.rankers.ranking import ProductRanker, Ranker, prepare
from loid_infer.rankers.saved import RankingHead, load_ranking_head
from loid_infer.records import decode
from loid_infer.settings import TEMPLATE, TITLE_TOKENS, Workspace
from loid_infer.store.reader import view_of
from loid_infer.types import Bools, Digests, Floats, Ints, Progress, Spec
from loid_infer.verbs.encode import encode_corpus, item_corpus
from loid_infer.verbs.joined import HistoryReader

BASED_ON = ("user", "history", "none")  # the history of the table, a given one, or none


@dataclass(frozen=True, slots=True, eq=False)
class ItemTexts:
    """The texts of the items of some sequences, and their vectors in the store of one encoder."""

    texts: Sequence[str]  # [n_items]
    digests: Digests  # [n_items, 16]
    has_text: Bools  # [n_items]

    @staticmethod
    def of(texts: Sequence[str]) -> ItemTexts:
        """Those of `texts [n_items]`."""
        return ItemTexts(texts, digests_of(texts), np.array([bool(text.strip()) for text in texts], bool))


def read_sequences(workspace: Workspace, domains: Sequence[str], seed: int, progress: Progress) -> Sequences:
    """The sequences of the users of `domains`, in the order of the names.

    Raises:
        BadSetting: a domain is given twice, or none.
        BadTable: a domain has no table, or its interactions cannot be ordered.
    """
    names = sorted(domains)
    if len({*names}) < len(names) or not names:
        fix = "Give every domain once."
        raise BadSetting("a domain is given twice, or none is", where="--domain", got=", ".join(names), fix=fix)
    sequences = sequences_of({name: read_events(workspace.table(name), name) for name in names}, seed)
    if sequences.n_tied:
        progress.say(
            f"{sequences.n_tied:,} of {sequences.n:,} interactions have the same time as another one of their user: "
            "they are ordered by a hash"
        )
    if len(names) > 1 and not sequences.is_timed:
        progress.say(
            "the interactions have positions and no times: their order is real within a domain, and not across domains"
        )
    return sequences


def item_texts(workspace: Workspace, sequences: Sequences, template: str, progress: Progress) -> ItemTexts:
    """The texts of all items, empty for those that the items' table does not have.

    Raises:
        BadSetting: an invalid template, or one with which no item has a text.
        BadTable: a domain has no table of items, or that of other items.
    """
    texts: list[str] = []
    for number, domain in enumerate(sequences.domains):
        path, table = workspace.items(domain), texts_of(workspace, domain, template)
        wanted = sequences.item_ids[sequences.bounds[number] : sequences.bounds[number + 1]]
        unknown = [item for item in wanted if item not in table]
        if unknown:
            forms = {id_form(item): item for item in table}
            alike = next(((item, forms[id_form(item)]) for item in unknown if id_form(item) in forms), None)
            ours, theirs = alike or (unknown[0], next(iter(table), ""))
            what = f"{len(unknown):,} of {len(wanted):,} items of {domain} are not in {path.name}"
            shown = f"{ours!r} in the interactions, {theirs!r} in the items"
            if len(unknown) == len(wanted):
                fix = "Ingest both with the same ids, for example with --columns item_id=NAME."
                raise BadTable(what, where=str(path), got=shown, fix=fix)
            progress.say(f"{what}: {shown}. They have no text." if alike else f"{what}. They have no text.")
        texts += [table.get(item, "") for item in wanted]
    if not any(text.strip() for text in texts):
        what, fix = "no item has a text", "Give a --template with fields that the items have."
        raise BadSetting(what, where="--template", got=repr(template), fix=fix)
    return ItemTexts.of(texts)


def titles_of(workspace: Workspace, domain: str, item_ids: Sequence[str]) -> list[str]:
    """The titles of items of `domain`, empty where there is none.

    Raises:
        BadTable: the table of items is damaged.
    """
    table = texts_of(workspace, domain) if workspace.items(domain).exists() else {}
    return [table.get(item, "") for item in item_ids]


def texts_of(workspace: Workspace, domain: str, template: str = "{title}") -> dict[str, str]:
    """The texts of all items of `domain`, by id. Raises BadTable if their table is missing or damaged."""
    items = open_items(workspace.items(domain), domain)
    return dict(zip(items.item_ids, items.texts(template), strict=True))


def refuse_ranking_leak(folder: EncoderFolder, sequences: Sequences, split: SequenceSplit) -> None:
    """Raise BadSetting if a plugin of the encoder was trained on targets of this split."""
    for plugin in folder.plugins:
        refuse_other_split(plugin.trained_on, sequences, split, f"plugin {plugin.name!r} of encoder {folder.name!r}")


def encode_items(
    workspace: Workspace, sequences: Sequences, items: ItemTexts, folder: EncoderFolder, progress: Progress
) -> None:
    """Store the vectors of all items' texts; see `encode_corpus`."""
    with Encoder.open(folder, workspace=workspace, progress=progress) as encoder:
        for number, domain in enumerate(sequences.domains):
            part = items.texts[sequences.bounds[number] : sequences.bounds[number + 1]]
            encode_corpus(item_corpus(domain, part), encoder, workspace=workspace, progress=progress)


def stored(workspace: Workspace, spec: Spec, recorded: str, fix: str) -> Callable[[Digests], Floats]:
    """A function that reads the vectors `[n, d]` of digests `[n, 16]` from the store, in float32."""

    def read(digests: Digests) -> Floats:
        with view_of(workspace.store(recorded), spec, recorded, digests, fix) as vectors:
            return np.asarray(vectors[np.arange(len(digests))], np.float32)

    return read


def fit_command(manifest: RankingManifest) -> str:
    """The instruction for a head that has to be fitted again."""
    options = [f"--domain {domain}" for domain in manifest.domains]
    if manifest.histories == "joined" and manifest.encoder == manifest.head:
        options += [f"--name {manifest.head}", f"--split {manifest.split}", f"--seed {manifest.seed}"]
        return f"Run: loid-infer llmrec train {' '.join(options)}, with the other options that it was trained with"
    if manifest.model == "text":
        options += ["--text-only", *(["--history joined"] if manifest.histories == "joined" else [])]
    else:
        options.append(f"--{'head' if manifest.fingerprint else 'model'} {manifest.model}")
    options += [f"--name {manifest.head}", f"--split {manifest.split}", f"--seed {manifest.seed}"]
    if manifest.fingerprint:
        options.append(f"--encoder {manifest.encoder}")
        options += [f"--template {manifest.template!r}"] if manifest.template != TEMPLATE else []
    if manifest.title_tokens not in (0, TITLE_TOKENS):
        options.append(f"--title-tokens {manifest.title_tokens}")
    return f"Run: loid-infer {'llmrec' if manifest.fingerprint else 'cf'} fit {' '.join(options)}"


def open_ranker(workspace: Workspace, head: RankingHead, progress: Progress) -> Ranker:
    """The ranker of a saved head, with its vectors. Joined histories that are not stored yet are encoded as they come.

    Raises:
        BadArtifact: the head is inconsistent, or its encoder was exported again.
        NotEncoded, BadStore: vectors are missing or damaged.
    """
    manifest, fix = head.manifest, fit_command(head.manifest)
    if manifest.card is None:
        return head.ranker(lambda digests: np.zeros((0, 0), np.float32))
    if fingerprint(manifest.card) != manifest.fingerprint:
        what, got = "the spec of the head contradicts its fingerprint", fingerprint(manifest.card)
        raise BadArtifact(what, where=str(head.folder), expected=manifest.fingerprint, got=got, fix=fix)
    read = stored(workspace, manifest.card, manifest.fingerprint, fix)
    return head.ranker(read, _joined(workspace, head, progress) if manifest.histories == "joined" else None)


def _joined(workspace: Workspace, head: RankingHead, progress: Progress) -> HistoryReader:
    """The vectors of histories of the head's items, with the texts that they have now."""
    manifest = head.manifest
    folder = open_folder(workspace.encoder(manifest.encoder), manifest.encoder, expected=manifest.fingerprint)
    texts: list[str] = []
    for number, domain in enumerate(manifest.domains):
        table = texts_of(workspace, domain, manifest.template)
        wanted = head.item_ids[head.bounds[number] : head.bounds[number + 1]]
        texts += [table.get(item, "") for item in wanted]
    joined = JoinedTexts.of(texts, folder.tokenizer(), manifest.title_tokens)
    return HistoryReader(workspace, folder, joined, progress)


def domains_of(workspace: Workspace, name: str) -> list[str]:
    """The domains of the ranking head `name`; none if it is no ranking head, or its manifest cannot be read."""
    with suppress(BadArtifact):
        content = decode(workspace.head(name) / MANIFEST, dict[str, Any], "")
        if content.get("kind") == "ranking":
            return [str(domain) for domain in content.get("domains", ())]
    return []


def ranking_heads(workspace: Workspace, domains: Sequence[str]) -> list[str]:
    """The names of the ranking heads of exactly these `domains`."""
    names = sorted(path.parent.name for path in workspace.head("any").parent.glob(f"[!.]*/{MANIFEST}"))
    return [name for name in names if domains_of(workspace, name) == sorted(domains)]


def open_heads(
    workspace: Workspace, domains: Sequence[str], names: Sequence[str], *, exactly: bool = True
) -> list[RankingHead]:
    """The ranking heads `names`; without names all there are of `domains`.

    Args:
        exactly: whether a head must be of these domains; else these must be among its own.

    Raises:
        BadArtifact: there is none, or one is damaged.
        BadSetting: one is of other domains.
    """
    fix = "Run: loid-infer llmrec fit " + " ".join(f"--domain {domain}" for domain in domains)
    chosen = list(names) or ranking_heads(workspace, domains)
    if len({*chosen}) < len(chosen):
        raise BadSetting("a head is given twice", where="--head", got=", ".join(chosen), fix="Give every head once.")
    if not chosen:
        raise BadArtifact(f"there is no ranking head of {', '.join(domains)}", where=str(workspace.root), fix=fix)
    heads = [load_ranking_head(workspace.head(name), fix) for name in chosen]
    for head in heads:
        own = {*head.manifest.domains}
        if own != {*domains} if exactly else not own >= {*domains}:
            got, expected = ", ".join(head.manifest.domains), ", ".join(sorted(domains))
            what, where = "the head is one of other domains", f"head {head.manifest.head!r}"
            raise BadSetting(what, where=where, expected=expected, got=got, fix="Give its domains with --domain.")
    return heads


class OpenRanking:
    """An open head with the histories of its users."""

    def __init__(self, workspace: Workspace, head: RankingHead, domain: str, progress: Progress) -> None:
        """Open it for the items of `domain`; see `open_ranker`."""
        self._head = head
        self._ranker = open_ranker(workspace, head, progress)
        self._number = number = head.manifest.domains.index(domain)
        self._low, self._high = head.bounds[number], head.bounds[number + 1]
        self.n_items = len(head.item_ids)
        self.item_ids = head.item_ids[self._low : self._high]
        self._tables = {name: read_events(workspace.table(name), name) for name in head.manifest.domains}
        self._sequences = sequences_of(self._tables, head.manifest.seed)
        popular = head.counts[self._low : self._high].astype(np.float32)
        self._popular = np.where(popular > 0, popular, np.float32(-np.inf))
        self._nearest: NearestItems | None = None
        self._by_user = head.manifest.model == FACTORS  # users are known by their ids, not by their histories
        has_text = head.has_text if head.manifest.fingerprint else None
        self._usable = rankable(head.manifest.model, head.counts, has_text)
        # An item of the table by its number in the head; -1 for one that has come since.
        place: dict[tuple[int, str], int] = {}
        for other in range(len(head.manifest.domains)):
            start, end = head.bounds[other], head.bounds[other + 1]
            place |= {(other, item): start + i for i, item in enumerate(head.item_ids[start:end])}
        # Of an item in a history that is given, which may be of any domain, this one first.
        others = {item: code for (_, item), code in reversed(place.items())}
        self._given = others | {item: self._low + i for i, item in enumerate(self.item_ids)}
        self._rows = {user: i for i, user in enumerate(self._sequences.user_ids)}
        self._users = {user: i for i, user in enumerate(head.user_ids)}
        domains = self._sequences.item_domains.tolist()
        self._codes = np.array([place.get(key, -1) for key in zip(domains, self._sequences.item_ids, strict=True)])

    def known_users(self) -> Sequence[str]:
        """The users with interactions in the domain."""
        return self._tables[self._head.manifest.domains[self._number]].user_ids

    def histories(self, wanted: UserRows) -> tuple[Histories, Ints]:
        """The histories of the users, and what recommendations are based on, `[n]`, indices into BASED_ON.

        Histories have only items that the model can use. Matrix factorization uses none, but the id of the user.
        """
        table, parts, based = self._sequences, [], []
        codes = self._codes[table.items]
        users = np.array([self._users.get(user, -1) for user in wanted.user_ids], np.int64)
        for i, user in enumerate(wanted.user_ids):
            given = wanted.histories[i] if wanted.histories is not None else None
            if given is not None:
                items = np.array([self._given.get(item, -1) for item in given], np.int64)
                users[i] = -1
            else:
                at = self._rows.get(user)
                items = np.zeros(0, np.int64) if at is None else codes[table.starts[at] : table.starts[at + 1]]
            items = items[items >= 0]
            parts.append(items if self._by_user else items[self._usable[items]])
            is_known = users[i] >= 0 if self._by_user else len(parts[-1]) > 0
            based.append(2 if not is_known else 0 if given is None else 1)
        lengths = np.array([len(part) for part in parts], np.int64)
        ends = np.cumsum(lengths)
        flat = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        histories = Histories(users, ends - lengths, ends, flat)
        prepare(self._ranker, histories)
        return histories, np.array(based, np.int64)

    def index(self, histories: Histories) -> float | None:
        """Let `first` use an index, where there are many items and users; gives its recall at 100, None without one."""
        known = histories.rows(np.flatnonzero(self._is_known(histories)))
        if not (is_worthwhile(len(self.item_ids), known.n) and isinstance(self._ranker, ProductRanker)):
            return None
        self._nearest = NearestItems(self._ranker, self._low, self._high, known)
        return self._nearest.recall

    def first(self, histories: Histories, n: int, *, with_seen: bool) -> tuple[Ints, Floats]:
        """The first items of the domain, as `evaluation.ranking.top`; see `scores`."""
        if self._nearest is None:
            return top(self.scores(histories, with_seen=with_seen), n)
        is_known = self._is_known(histories)
        popular, values = top(self._popular[None], n)
        columns, scores = popular.repeat(histories.n, axis=0), values.repeat(histories.n, axis=0)
        depth = 2 * n + (0 if with_seen else histories.lengths)
        chosen = np.flatnonzero(is_known & (depth <= MAX_DEPTH))
        columns[chosen], scores[chosen] = self._nearest.first(
            histories.rows(chosen), columns.shape[1], with_seen=with_seen
        )
        # Those with a long history, or for whom too few were found.
        exact = np.flatnonzero(is_known & ((depth > MAX_DEPTH) | (columns < 0).any(axis=1)))
        for row in exact.tolist():
            some = histories.rows(np.array([row]))
            columns[row], scores[row] = (part[0] for part in top(self.scores(some, with_seen=with_seen), n))
        return columns, scores

    def _is_known(self, histories: Histories) -> Bools:
        return histories.users >= 0 if self._by_user else histories.lengths > 0

    def scores(self, histories: Histories, *, with_seen: bool) -> Floats:
        """Scores `[b, n_items of the domain]`; `-inf` for what is not ranked, like items seen unless `with_seen`."""
        scores = self._ranker.scores(histories)
        if not with_seen:
            scores[histories.flat()] = -np.inf
        scores = scores[:, self._low : self._high]
        scores[~self._is_known(histories)] = self._popular
        return scores
