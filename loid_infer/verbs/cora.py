"""`cf fit --clicks` and `cora fit`: fit heads on labeled pairs, by interactions, by titles, or by both (CoRA)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from loid_infer.artifact import MANIFEST, digest_json, versions
from loid_infer.clicks.answers import MAX_VALID, drawn, questions_of, train_answers
from loid_infer.clicks.bdlm import answer
from loid_infer.clicks.manifest import ClickManifest
from loid_infer.clicks.nets import MODELS
from loid_infer.clicks.prompts import Prompts
from loid_infer.clicks.saved import ClickHead, save_click_head
from loid_infer.clicks.settings import DEFAULT_CORA_SETTINGS, PROMPT, AnswerSettings, CoraSettings
from loid_infer.clicks.training import auc, fit_pairs, logits
from loid_infer.data.clicks import TEST, TRAIN, VALID, Clicks, read_clicks, refuse_other_pairs
from loid_infer.encoder import find_encoder
from loid_infer.encoders.opening import torch_device
from loid_infer.encoders.processor import n_usable_threads, torch_threads
from loid_infer.errors import BadArtifact, BadSetting, BadTable
from loid_infer.evaluation.metrics import aucs
from loid_infer.graphs.bases import Base
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import History
from loid_infer.rankers.models import SASREC, check_width
from loid_infer.rankers.settings import DEFAULT_RANK_OPTIONS, RankOptions
from loid_infer.records import decode
from loid_infer.settings import MAX_SEED, TITLE_TOKENS, Workspace, WorkspaceLike, check_choice, check_number
from loid_infer.types import SILENT, Floats, Ints, NamedDigest, Progress
from loid_infer.verbs.export import export
from loid_infer.verbs.joined import TextReader
from loid_infer.verbs.pairheads import (
    CORA,
    TEXT,
    Scorer,
    best_collaborative,
    chooser,
    cora_model,
    cora_scorer,
    decoder_of,
    open_click_head,
    with_prompts,
)
from loid_infer.verbs.sequences import titles_of
from loid_infer.verbs.train import resolved


@dataclass(frozen=True, slots=True)
class ClickFitResult:
    """A fitted head on labeled pairs. Metrics are of validation pairs; of models that read titles, of 1,000 at most."""

    head: str
    model: str
    domain: str
    encoder: str  # of a head on stored vectors of prompts
    n_users: int
    n_items: int
    n_train: int
    n_valid: int
    n_test: int
    n_params: int  # that were trained
    split: str  # given | time
    split_digest: str
    val: dict[str, float]  # auc, uauc
    trials: Sequence[dict[str, Any]]  # settings, and their validation AUC
    epochs: int
    seed: int
    path: str
    seconds: float


# What is tried on the validation part, in this order.
_TRIALS: Sequence[Mapping[str, Any]] = (
    {},
    {"learning_rate": 3e-3},
    {"dim": 32},
    {"weight_decay": 0.3},
    {"weight_decay": 10.0},
    {"batch": 1024},
)
# The options that all models have, and those of each.
_SHARED = ("dim", "epochs", "patience", "batch", "learning_rate", "weight_decay", "averaging")
_OPTIONS: Mapping[str, Sequence[str]] = {
    "mf": (),
    "ncf": ("layers", "dropout"),
    "lightgcn": ("layers",),
    "sasrec": ("layers", "dropout", "attention_heads", "max_length"),
}


def cf_fit_clicks(
    domain: str,
    *,
    model: str = "mf",
    name: str | None = None,
    seed: int = 0,
    settings: RankOptions = DEFAULT_RANK_OPTIONS,
    workspace: WorkspaceLike = None,
    checkpoint_s: float = 30.0,
    progress: Progress = SILENT,
) -> ClickFitResult:
    """Fit a head that predicts the labels of pairs by interactions alone, and write it to `exports/heads/<name>/`.

    Args:
        model: mf | ncf | lightgcn | sasrec.
        name: name of the head; by default DOMAIN-MODEL-clicks.

    Raises:
        BadName, BadSetting: an invalid name or option.
        BadTable: the domain has no labeled pairs.
        NoSpace: the disk is full or the folder not writable.
    """
    check_choice("model", model, MODELS)
    check_number("--seed", seed, 0, MAX_SEED)
    run = ClickRun(
        Workspace.of(workspace), domain, name or f"{domain}-{model}-clicks", model, seed, checkpoint_s, progress
    )
    settings.checked().refuse_unused(model, (*_SHARED, *_OPTIONS[model]))
    if model == SASREC:
        check_width(settings.dim, settings.attention_heads)
    tried: list[dict[str, Any]] = []
    clicks, best = run.clicks, None
    for change in _TRIALS[: settings.trials]:
        options = replace(settings, **change)
        checkpoint = run.checkpoint([asdict(options)]) if settings.trials == 1 else None
        with torch_threads(1):  # the operations of a step are too small for two
            net, history = fit_pairs(model, clicks, options, seed=seed, progress=progress, checkpoint=checkpoint)
            scores = logits(net, clicks.pairs(clicks.rows(VALID)), options.max_length)
        tried.append({"settings": dict(change), "auc": auc(scores, clicks.labels[clicks.rows(VALID)])})
        progress.say(f"{model}: validation AUC {tried[-1]['auc']:.4f}" + (f" with {dict(change)}" if change else ""))
        if best is None or tried[-1]["auc"] > max(trial["auc"] for trial in tried[:-1]):
            best = (net, history, options, scores)
    assert best is not None
    net, history, options, scores = best
    about = {"collaborative": model, "options": asdict(options), "val": measured(clicks, clicks.rows(VALID), scores)}
    tensors = {f"net.{key}": value for key, value in net.state_dict().items()}
    n_params = sum(parameter.numel() for parameter in net.parameters())
    return run.save(tensors, about, history, n_params, tried)


def cora_fit(
    domain: str,
    *,
    base: str,
    cf: str | None = None,
    text_only: bool = False,
    encoder: str | None = None,
    prompt: str = PROMPT,
    title_tokens: int = TITLE_TOKENS,
    name: str | None = None,
    settings: CoraSettings = DEFAULT_CORA_SETTINGS,
    device: str = "auto",
    workspace: WorkspaceLike = None,
    checkpoint_s: float = 30.0,
    progress: Progress = SILENT,
) -> ClickFitResult:
    """Fit a head in which a decoder answers whether a user likes an item, and write it to `exports/heads/<name>/`.

    The decoder stays frozen. What it knows of the pair besides titles are increments of its weights, generated from
    the vectors of a collaborative head (CoRA, arXiv 2408.10645). Its hidden states depend on the pair, so they are
    never stored. With `text_only` it reads titles alone, without training, and the vectors of prompts are stored.

    Args:
        base: a decoder: a Hugging Face folder, a GGUF file, or a hub name.
        cf: the collaborative head, of `cf fit --clicks`; by default the domain's one with the best validation AUC.
        encoder: with `text_only`, an export of `base`; by default one with the name of the head, exported if necessary.
        prompt: the question, with `{history}` and `{title}`.
        title_tokens: titles are cut after so many tokens.
        name: name of the head; by default DOMAIN-text, or DOMAIN-cora- and the collaborative model.
        device: auto | cpu | cuda.

    Raises:
        BadName, BadSetting: an invalid name or option, a base that is no decoder, or training diverged.
        BadTable: the domain has no labeled pairs or no items.
        BadArtifact: the base, the encoder or the collaborative head cannot be used.
        RuntimeMissing: the device is not available.
        ParityError, StoreBusy, BadStore, NoSpace: see `export` and `encode`.
    """
    workspace, on_device = Workspace.of(workspace), torch_device(device)
    check_number("--title-tokens", title_tokens, 1, np.inf)
    if text_only and cf is not None:
        raise BadSetting("only CoRA reads a collaborative head", where="--cf", fix="Leave out --cf or --text-only.")
    if not text_only and encoder is not None:
        fix = "Give --text-only, or leave --encoder out."
        raise BadSetting("the states of CoRA are never stored", where="--encoder", fix=fix)
    if text_only:
        run = ClickRun(workspace, domain, name or f"{domain}-text", TEXT, settings.seed, checkpoint_s, progress)
        return fit_text(run, base, encoder, prompt, title_tokens, settings)
    head = open_click_head(workspace, cf or best_collaborative(workspace, domain, MODELS, settings.seed))
    model = head.manifest.collaborative
    run = ClickRun(workspace, domain, name or f"{domain}-cora-{model}", CORA, settings.seed, checkpoint_s, progress)
    run.check_collaborative(head, MODELS)
    source = decoder_of(base)
    settings = resolved(settings, source, on_device)
    prompts = Prompts.of(prompt, run.titles, source.tokenizer(settings.max_tokens), title_tokens)
    options = RankOptions(**head.manifest.options)
    cora = cora_model(source, head.net(), options, settings, prompts).to(on_device)
    train, valid = questions_of(run.clicks, run.titles, prompts, settings)
    identity = [asdict(settings), source.base_digest, prompt, title_tokens, head.manifest.files, on_device]
    with torch_threads(n_usable_threads()):
        history = train_answers(cora, train, valid, settings, run.checkpoint(identity), progress)
    about = {
        "collaborative": model,
        "options": head.manifest.options,
        "prompt": prompt,
        "title_tokens": title_tokens,
        "base": NamedDigest(base, source.base_digest),
        "settings": asdict(settings),
        "val": run.validated(cora_scorer(cora, settings, prompts, progress)),
    }
    tensors = {f"net.{key}": value.cpu() for key, value in cora.net.state_dict().items()}
    tensors |= {f"generator.{key}": value.cpu() for key, value in cora.generator.state_dict().items()}
    return run.save(tensors, about, history, sum(part.numel() for part in cora.generator.parameters()))


def fit_text(
    run: ClickRun, base: str, encoder: str | None, prompt: str, title_tokens: int, settings: AnswerSettings
) -> ClickFitResult:
    """A head that reads titles alone: the vectors of prompts times the difference of two output embeddings."""
    workspace, name = run.workspace, encoder or run.folder.name
    source = decoder_of(base)
    if encoder is None:
        _export(run, source, base, name, settings)
    folder = find_encoder(workspace, name)
    if folder.spec.pooling != "last" or folder.spec.normalize or folder.spec.dense:
        what, fix = "the vectors of the encoder are not the states that answer a prompt", "Leave --encoder out."
        raise BadSetting(what, where=f"encoder {name!r}", expected="pooling last, without normalization", fix=fix)
    if folder.manifest is None or folder.manifest.base.digest != source.base_digest:
        what, fix = "the encoder was not exported from this base", "Leave --encoder out, or give its --base."
        raise BadSetting(what, where=f"encoder {name!r}", fix=fix)
    for plugin in folder.plugins:
        refuse_other_pairs(plugin.trained_on, run.clicks, f"plugin {plugin.name!r} of encoder {name!r}")
    prompts = Prompts.of(prompt, run.titles, folder.tokenizer(), title_tokens)
    yes, no = source.output_rows(prompts.answers())
    tensors = {"direction": yes - no}
    reader = TextReader(workspace, folder, f"{run.folder.name}-valid", run.progress, keep=True)
    about = {
        "encoder": folder.name,
        "fingerprint": folder.fingerprint,
        "card": folder.spec,
        "prompt": prompt,
        "title_tokens": title_tokens,
        "val": run.validated(with_prompts(chooser(reader, prompts, partial(answer, tensors)), 0)),
    }
    return run.save(tensors, about, None, 0)


def _export(run: ClickRun, source: Base, base: str, name: str, settings: AnswerSettings) -> None:
    """Export `base` as the encoder `name`, unless there is such an export of it."""
    with suppress(BadArtifact):
        found = find_encoder(run.workspace, name)
        if found.manifest is not None and found.manifest.base.digest == source.base_digest and not found.plugins:
            return
    how: dict[str, Any] = {"pooling": "last", "normalize": False, "max_tokens": settings.max_tokens or None}
    export(name, base=base, workspace=run.workspace, progress=run.progress, **how)


def measured(clicks: Clicks, rows: Ints, scores: Floats) -> dict[str, float]:
    """AUC and UAUC of the `scores [m]` of `rows`; a UAUC without users that have both labels is 0."""
    of_users = aucs(scores, clicks.labels[rows], clicks.users[rows])
    return {"auc": auc(scores, clicks.labels[rows]), "uauc": float(of_users.mean()) if len(of_users) else 0.0}


class ClickRun:
    """A fit with its data and destination, checked before anything is computed."""

    def __init__(
        self,
        workspace: Workspace,
        domain: str,
        name: str,
        model: str,
        seed: int,
        checkpoint_s: float,
        progress: Progress,
    ) -> None:
        self.start, self.workspace, self.model, self.seed = time.perf_counter(), workspace, model, seed
        self.checkpoint_s, self.progress = checkpoint_s, progress
        self.folder: Path = _head_folder(workspace, name, domain)
        self.clicks = read_clicks(workspace.clicks(domain), domain, seed)
        self._last: Checkpoint | None = None

    def beside(self, name: str, model: str) -> ClickRun:
        """The fit of another head on the same data, without a checkpoint of its own."""
        other = copy(self)
        other.folder, other.model = _head_folder(self.workspace, name, self.clicks.domain), model
        return other

    @cached_property
    def titles(self) -> list[str]:
        """The titles of all items. Raises BadTable if no item has one."""
        found = titles_of(self.workspace, self.clicks.domain, self.clicks.item_ids)
        if not any(found):
            path = self.workspace.items(self.clicks.domain)
            fix = f"Run: loid-infer ingest META --domain {self.clicks.domain} --items"
            raise BadTable("no item has a title", where=str(path), fix=fix)
        return found

    def check_collaborative(self, head: ClickHead, models: Sequence[str]) -> None:
        """Raise BadSetting unless `head` is of one of these models, and of these pairs."""
        if head.manifest.model not in models or head.manifest.split_digest != self.clicks.digest:
            what, expected = "not a collaborative head of these pairs", f"{' | '.join(models)} on {self.clicks.domain}"
            fix = f"Run: loid-infer cf fit --clicks --domain {self.clicks.domain} --seed {self.seed}"
            raise BadSetting(
                what, where=f"--cf {head.folder.name}", expected=expected, got=head.manifest.model, fix=fix
            )

    def checkpoint(self, decides: Sequence[Any]) -> Checkpoint:
        """That of a training which also these values decide."""
        run = digest_json([self.model, self.seed, self.clicks.digest, *decides, versions("torch")])
        path = self.folder.with_name(f".{self.folder.name}.{run[:8]}.training.safetensors")
        self._last = Checkpoint(path, run, self.checkpoint_s)
        return self._last

    def validated(self, score: Scorer, rows: Ints | None = None) -> dict[str, float]:
        """The metrics of `rows`, by default of at most MAX_VALID pairs of the validation part."""
        clicks, titles = self.clicks, self.titles
        rows = drawn(clicks.rows(VALID), MAX_VALID, self.seed) if rows is None else rows
        return measured(clicks, rows, score(clicks.pairs(rows), [titles[item] for item in clicks.items[rows].tolist()]))

    def save(
        self,
        tensors: Mapping[str, Tensor],
        about: Mapping[str, Any],
        history: History | None,
        n_params: int,
        trials: Sequence[dict[str, Any]] = (),
    ) -> ClickFitResult:
        """Write the head. `about` are fields of the manifest."""
        clicks = self.clicks
        report = {"head": self.folder.name, "model": self.model, "seed": self.seed, **about}
        report |= {"epochs": history.epoch if history else 0, "versions": versions("torch", "numpy", "safetensors")}
        saved: ClickManifest = save_click_head(self.folder, clicks, tensors, report, history)
        if self._last is not None:
            self._last.remove()
        return ClickFitResult(
            head=saved.head,
            model=saved.model,
            domain=saved.domain,
            encoder=saved.encoder,
            n_users=len(clicks.user_ids),
            n_items=len(clicks.item_ids),
            n_train=len(clicks.rows(TRAIN)),
            n_valid=len(clicks.rows(VALID)),
            n_test=len(clicks.rows(TEST)),
            n_params=n_params,
            split=saved.split,
            split_digest=saved.split_digest,
            val=saved.val,
            trials=trials,
            epochs=saved.epochs,
            seed=saved.seed,
            path=str(self.folder),
            seconds=time.perf_counter() - self.start,
        )


def _head_folder(workspace: Workspace, name: str, domain: str) -> Path:
    """The folder of a new head. Raises BadName, or BadSetting if the name is that of another kind of head."""
    folder = workspace.head(name)
    with suppress(BadArtifact):  # missing or unusable
        other = decode(folder / MANIFEST, dict[str, Any], "")
        if (other.get("kind"), other.get("domain")) != ("clicks", domain):
            what = "the head of that name is another kind of head or of another domain"
            raise BadSetting(what, where=str(folder), fix="Choose another --name.")
    return folder
