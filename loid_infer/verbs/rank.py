"""`llmrec fit` and `cf fit`: fit ranking heads on interactions, with the texts of items or without."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from loid_infer.artifact import MANIFEST, digest_json, versions
from loid_infer.data.sequences import Sequences, SequenceSplit, split_sequences
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.evaluation.ranking import measured
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.rankers.joined import JoinedTexts
from loid_infer.rankers.manifest import TrialRecord
from loid_infer.rankers.models import COUNTS, FACTORS, GRAPH, SASREC, TEXT_HEADS, Fitted, fit_model
from loid_infer.rankers.ranking import target_ranks
from loid_infer.rankers.saved import save_ranking_head
from loid_infer.rankers.settings import DEFAULT_RANK_OPTIONS, RankOptions
from loid_infer.rankers.texts import HistoryVectors, TextVectors
from loid_infer.records import decode
from loid_infer.settings import MAX_SEED, TEMPLATE, TITLE_TOKENS, Workspace, WorkspaceLike, check_choice, check_number
from loid_infer.types import SILENT, Progress
from loid_infer.verbs.encoder import resolve_or_export
from loid_infer.verbs.joined import HistoryReader
from loid_infer.verbs.sequences import ItemTexts, encode_items, item_texts, read_sequences, refuse_ranking_leak, stored

CF_MODELS = (*COUNTS, FACTORS, GRAPH, SASREC)
HISTORIES = ("mean", "joined")
_SHOWN = ("recall@10", "ndcg@10", "mrr@10")


@dataclass(frozen=True, slots=True)
class RankFitResult:
    """A fitted ranking head. Metrics are of full ranking within the target's domain."""

    head: str
    model: str
    domains: Sequence[str]
    encoder: str  # of a head with texts
    n_users: int
    n_items: int
    n_train: int  # interactions
    n_valid: int  # targets
    n_tied_times: int
    split: str
    split_digest: str
    val: dict[str, float]  # by metric
    trials: Sequence[TrialRecord]
    epochs: int
    sequences_per_s: float
    seed: int
    path: str
    seconds: float


def llmrec_fit(
    domains: Sequence[str],
    *,
    head: str = "sequence+id",
    text_only: bool = False,
    history: str = "mean",
    title_tokens: int = TITLE_TOKENS,
    encoder: str | None = None,
    template: str = TEMPLATE,
    name: str | None = None,
    split: str = "leave-one-out",
    seed: int = 0,
    settings: RankOptions = DEFAULT_RANK_OPTIONS,
    workspace: WorkspaceLike = None,
    checkpoint_s: float = 30.0,
    progress: Progress = SILENT,
) -> RankFitResult:
    """Fit a head that ranks the items of `domains` by their texts, and write it to `exports/heads/<name>/`.

    Texts of items that are not stored yet are encoded first. A killed run continues from its last checkpoint.

    Args:
        head: `sequence`, a transformer over the texts of a history, or `sequence+id`, with ID embeddings, too.
        text_only: rank by similarity to the texts of the history, without training.
        history: with `text_only`, what a user is: the `mean` of the vectors of the last items' texts, or the vector of
            one text that has them `joined`, as LLM-Rec does.
        title_tokens: with `joined`, texts of items are cut after so many tokens.
        encoder: name of an export; by default that of the first domain, else `base`, exported first if necessary.
        template: the text of an item; see `Items.texts`.
        name: name of the head; by default the domains joined by +, then the kind of head.
        split: leave-one-out | time.

    Raises:
        BadName, BadSetting: an invalid name or option.
        BadTable: a domain has no interactions or no items.
        BadArtifact, ParityError, RuntimeMissing, StoreBusy, BadStore, NoSpace: see `encode`.
    """
    check_choice("head", head, TEXT_HEADS[1:])
    check_choice("history", history, HISTORIES)
    check_number("--title-tokens", title_tokens, 1, math.inf)
    if history == "mean" and title_tokens != TITLE_TOKENS:
        raise BadSetting("only joined texts are cut", where="--title-tokens", fix="Give --history joined.")
    if history == "joined" and not text_only:
        fix = "Give --text-only, or leave --history out."
        raise BadSetting("a trained network reads items one by one", where="--history joined", fix=fix)
    workspace, model = Workspace.of(workspace), "text" if text_only else head
    run = _Run(workspace, model, domains, name, split, seed, settings, checkpoint_s, progress)
    texts = item_texts(workspace, run.sequences, template, progress)
    folder, _ = resolve_or_export(workspace, encoder, sorted(domains)[0], None, progress)
    refuse_ranking_leak(folder, run.sequences, run.split)
    reader = None
    if history == "joined":
        joined = JoinedTexts.of(texts.texts, folder.tokenizer(), title_tokens)
        texts, reader = ItemTexts.of(joined.texts), HistoryReader(workspace, folder, joined, progress)
    encode_items(workspace, run.sequences, texts, folder, progress)
    more = {"histories": history, "title_tokens": title_tokens if reader else 0, "template": template}
    return run.fit(folder, more, texts, reader)


def cf_fit(
    domains: Sequence[str],
    *,
    model: str = "sasrec",
    name: str | None = None,
    split: str = "leave-one-out",
    seed: int = 0,
    settings: RankOptions = DEFAULT_RANK_OPTIONS,
    workspace: WorkspaceLike = None,
    checkpoint_s: float = 30.0,
    progress: Progress = SILENT,
) -> RankFitResult:
    """Fit a head that ranks the items of `domains` by interactions alone, and write it to `exports/heads/<name>/`.

    Args:
        model: popularity | recent | cooccurrence | mf | lightgcn | sasrec.
        name: name of the head; by default the domains joined by +, then the model.
        split: leave-one-out | time.

    Raises:
        BadName, BadSetting: an invalid name or option.
        BadTable: a domain has no interactions.
        NoSpace: the disk is full or the folder not writable.
    """
    check_choice("model", model, CF_MODELS)
    workspace = Workspace.of(workspace)
    return _Run(workspace, model, domains, name, split, seed, settings, checkpoint_s, progress).fit()


def head_folder(workspace: Workspace, name: str, domains: Sequence[str]) -> Path:
    """The folder of a new ranking head.

    Raises:
        BadName, BadSetting: the name is invalid, that of a counting model, or of another kind of head.
    """
    folder = workspace.head(name)
    if name in COUNTS:
        what = "a head cannot have the name of a counting model, with which heads are compared"
        raise BadSetting(what, where="--name", got=name, fix="Choose another.")
    with suppress(BadArtifact):  # missing or unusable
        other = decode(folder / MANIFEST, dict[str, Any], "")
        if (other.get("kind"), other.get("domains")) != ("ranking", sorted(domains)):
            what = "the head of that name is another kind of head or of other domains"
            raise BadSetting(what, where=str(folder), fix="Choose another --name.")
    return folder


class _Run:
    """A fit with its data and destination, checked before anything is computed."""

    def __init__(
        self,
        workspace: Workspace,
        model: str,
        domains: Sequence[str],
        name: str | None,
        split: str,
        seed: int,
        settings: RankOptions,
        checkpoint_s: float,
        progress: Progress,
    ) -> None:
        self.start, self.workspace, self.model, self.seed = time.perf_counter(), workspace, model, seed
        self.settings, self.checkpoint_s, self.progress = settings.checked(), checkpoint_s, progress
        settings.refuse_unused(model)
        check_number("--seed", seed, 0, MAX_SEED)
        self.folder = head_folder(workspace, name or f"{'+'.join(sorted(domains))}-{model}", domains)
        self.sequences: Sequences = read_sequences(workspace, domains, seed, progress)
        self.split: SequenceSplit = split_sequences(self.sequences, split)

    def fit(
        self,
        encoder: EncoderFolder | None = None,
        more: Mapping[str, Any] = MappingProxyType({}),
        texts: ItemTexts | None = None,
        histories: HistoryVectors | None = None,
    ) -> RankFitResult:
        """Fit and save. `more` are fields of the manifest; `histories` gives the vectors of joined texts."""
        sequences, split = self.sequences, self.split
        vectors: TextVectors | None = None
        if encoder is not None and texts is not None:
            read = stored(self.workspace, encoder.spec, encoder.fingerprint, "Run the same command again.")
            vectors = TextVectors(read(texts.digests), texts.has_text, histories)
        checkpoint = self._checkpoint("" if encoder is None else encoder.fingerprint, texts)
        fitted = fit_model(
            self.model,
            sequences,
            split,
            self.settings,
            vectors,
            seed=self.seed,
            progress=self.progress,
            checkpoint=checkpoint,
        )
        report = self._report(fitted)
        about: dict[str, Any] = {"versions": versions("torch", "numpy", "safetensors")}
        if encoder is not None:
            about |= {"encoder": encoder.name, "fingerprint": encoder.fingerprint, "card": encoder.spec}
        known = None if texts is None else (texts.digests, texts.has_text)
        saved = save_ranking_head(self.folder, fitted, sequences, split, known, {**report, **about, **more})
        checkpoint.remove()
        return RankFitResult(
            domains=saved.domains,
            encoder=saved.encoder,
            n_users=sequences.n_users,
            n_items=sequences.n_items,
            n_train=int((split.train_ends - sequences.starts[:-1]).sum()),
            n_valid=split.valid.n,
            n_tied_times=sequences.n_tied,
            split=split.kind,
            split_digest=split.digest,
            trials=fitted.trials,
            path=str(self.folder),
            seconds=time.perf_counter() - self.start,
            **report,
        )

    def _report(self, fitted: Fitted) -> dict[str, Any]:
        ranks = target_ranks(fitted.ranker, self.sequences, self.split.valid, progress=self.progress)
        metrics, history = measured(ranks), fitted.history
        return {
            "head": self.folder.name,
            "model": self.model,
            "seed": self.seed,
            "val": {name: float(np.mean(metrics[name])) for name in _SHOWN},
            "epochs": history.epoch if history else 0,
            "sequences_per_s": history.units_per_s if history else 0.0,
        }

    def _checkpoint(self, fingerprint: str, texts: ItemTexts | None) -> Checkpoint:
        of_texts = "" if texts is None else hashlib.sha256(texts.digests.tobytes()).hexdigest()
        decides = [self.model, asdict(self.settings), self.seed, self.split.digest, fingerprint, of_texts]
        run = digest_json([*decides, versions("torch")])
        path = self.folder.with_name(f".{self.folder.name}.{run[:8]}.training.safetensors")
        return Checkpoint(path, run, self.checkpoint_s)
