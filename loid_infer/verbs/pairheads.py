"""What the verbs of heads on labeled pairs share: their names, and open heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from loid_infer.artifact import MANIFEST, read_manifest
from loid_infer.clicks.answers import CoraModel, Questions, answered
from loid_infer.clicks.bdlm import Mixer, answer
from loid_infer.clicks.candidates import log_odds
from loid_infer.clicks.choices import Chooser, by_user
from loid_infer.clicks.manifest import ClickManifest
from loid_infer.clicks.nets import FactorPairs, PairBatch
from loid_infer.clicks.prompts import USER, Prompts
from loid_infer.clicks.saved import ClickHead, load_click_head
from loid_infer.clicks.settings import CoraSettings
from loid_infer.clicks.training import logits
from loid_infer.data.clicks import Pairs, read_clicks
from loid_infer.data.lookup import IdTable
from loid_infer.data.sequences import Histories
from loid_infer.encoders.folder import open_folder
from loid_infer.encoders.opening import torch_device
from loid_infer.encoders.processor import n_usable_threads, torch_threads
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.graphs.bases import Base, load_base
from loid_infer.rankers.settings import RankOptions
from loid_infer.records import decode
from loid_infer.settings import Workspace
from loid_infer.types import SILENT, Floats, Ints, Progress
from loid_infer.verbs.joined import TextReader
from loid_infer.verbs.sequences import texts_of, titles_of

TEXT, CORA, BDLM_LLM, BDLM_DRS = "text", "cora", "bdlm-llm", "bdlm-drs"
_STORED = (TEXT, BDLM_LLM, BDLM_DRS)  # models on stored vectors of prompts
_BLOCK = 4096  # prompts whose states are used at once
# Pairs and the titles of their items -> logits [n].
Scorer: TypeAlias = Callable[[Pairs, Sequence[str]], Floats]
# States [n, width] of prompts and the pairs they are about -> logits [n].
StateLogits: TypeAlias = Callable[[Tensor, PairBatch], Tensor]


def click_heads(workspace: Workspace, domain: str) -> list[str]:
    """The names of the heads on labeled pairs of `domain`."""
    names = sorted(path.parent.name for path in workspace.head("any").parent.glob(f"[!.]*/{MANIFEST}"))
    return [name for name in names if click_domain(workspace, name) == domain]


def click_domain(workspace: Workspace, name: str) -> str | None:
    """The domain of the head `name`; None if it is not one on labeled pairs, or its manifest cannot be read."""
    with suppress(BadArtifact):
        content = decode(workspace.head(name) / MANIFEST, dict[str, Any], "")
        if content.get("kind") == "clicks":
            return str(content.get("domain"))
    return None


def open_click_head(workspace: Workspace, name: str) -> ClickHead:
    """Load the head `name`; see `load_click_head`."""
    return load_click_head(workspace.head(name), "Fit it again, with `loid-infer cf fit --clicks` or `cora fit`.")


def best_collaborative(workspace: Workspace, domain: str, models: Sequence[str], seed: int) -> str:
    """The head of `domain` of one of these collaborative `models` and this seed with the best validation AUC."""
    found: dict[str, float] = {}
    for name in click_heads(workspace, domain):
        with suppress(BadArtifact):
            manifest = read_manifest(workspace.head(name), ClickManifest, "", check_files=False)
            if manifest.model in models and manifest.seed == seed:
                found[name] = manifest.val["auc"]
    if not found:
        fix = f"Run: loid-infer cf fit --clicks --domain {domain} --model {models[0]} --seed {seed}"
        what = f"there is no collaborative head of {domain} with seed {seed}"
        raise BadArtifact(what, where=str(workspace.root), fix=fix)
    return max(found, key=lambda name: found[name])


def decoder_of(base: str) -> Base:
    """Load a base that can answer: a decoder, whose last token is pooled and not normalized.

    Raises:
        BadSetting: it is not a decoder.
        BadArtifact, RuntimeMissing: see `load_base`.
    """
    source = load_base(base, normalize=False)
    plan = source.family.plan(source.spec("", source.shape.max_tokens))
    if source.reading.pooling != "last" or not all(relation.causal for relation in plan.relations):
        what, got = "only a decoder can answer a prompt", source.config["model_type"]
        fix = "Give --base a decoder, for example a folder of SmolLM2 or Qwen3."
        raise BadSetting(what, where=f"--base {base}", got=got, fix=fix)
    return source


def scorer(workspace: Workspace, head: ClickHead, device: str, progress: Progress, *, keep: bool = False) -> Scorer:
    """What gives the logits of pairs. Vectors of prompts that are not stored yet are encoded as they come.

    With `keep`, `cache gc` does not remove them.

    Raises:
        BadArtifact: the head is inconsistent, or its encoder or base has changed.
        BadTable: the table of items is damaged.
        RuntimeMissing: the device is not available.
    """
    manifest = head.manifest
    if manifest.model in _STORED:
        return with_prompts(open_chooser(workspace, head, progress, keep=keep), manifest.candidates)
    if manifest.model == CORA:
        return _cora_scorer(workspace, head, device, progress)
    net, length = head.net(), RankOptions(**manifest.options).max_length
    return lambda pairs, titles: logits(net, pairs, length)


def open_chooser(workspace: Workspace, head: ClickHead, progress: Progress, *, keep: bool = False) -> Chooser:
    """That of a head on stored vectors of prompts; errors as in `scorer`."""
    manifest = head.manifest
    folder = open_folder(workspace.encoder(manifest.encoder), manifest.encoder, expected=manifest.fingerprint)
    titles = titles_of(workspace, manifest.domain, head.item_ids)
    prompts = Prompts.of(
        manifest.prompt,
        titles,
        folder.tokenizer(),
        manifest.title_tokens,
        with_ids=USER in manifest.prompt,
        candidates=manifest.candidates,
    )
    reader = TextReader(workspace, folder, f"{head.folder.name}-test", progress, keep=keep)
    if manifest.model == BDLM_DRS:
        net = head.net()
        assert isinstance(net, FactorPairs)
        mixer = Mixer(net.users.shape[1], folder.spec.dim)
        try:
            mixer.load_state_dict(head.part("mixer"))
        except RuntimeError as error:
            what = f"the head cannot be read: {str(error).splitlines()[0]}"
            raise BadArtifact(what, where=str(head.folder), fix="Fit it again.") from error
        return chooser(reader, prompts, partial(mixer, net))
    return chooser(reader, prompts, partial(answer, head.tensors))


def chooser(reader: TextReader, prompts: Prompts, logits: StateLogits) -> Chooser:
    """What gives the logits of pairs from stored vectors of prompts."""

    def choose(pairs: Pairs, titles: Sequence[str], starts: Ints) -> Floats:
        states, found = torch.from_numpy(reader(prompts(pairs, titles, starts))), np.empty(pairs.n, np.float32)
        with torch.inference_mode():
            for first in range(0, len(states), _BLOCK):
                ends = starts[first : first + _BLOCK + 1]
                of_pairs = states[first : first + _BLOCK].repeat_interleave(torch.from_numpy(np.diff(ends)), dim=0)
                part = slice(int(ends[0]), int(ends[-1]))
                found[part] = logits(of_pairs, PairBatch.of(pairs.take(part), 1)).numpy()
        return log_odds(found, starts) if prompts.candidates else found

    return choose


def with_prompts(choose: Chooser, candidates: int) -> Scorer:
    """The same, with a prompt for each pair, or for all pairs of a user if prompts list `candidates`."""
    return by_user(choose) if candidates else lambda pairs, titles: choose(pairs, titles, np.arange(pairs.n + 1))


def _cora_scorer(workspace: Workspace, head: ClickHead, device: str, progress: Progress) -> Scorer:
    manifest = head.manifest
    assert manifest.base is not None
    source = decoder_of(manifest.base.name)
    if source.base_digest != manifest.base.digest:
        what, where = "the base has other weights than the head was fitted with", f"head {manifest.head!r}"
        fix = f"Put the old model back at {manifest.base.name}, or fit the head again."
        raise BadArtifact(what, where=where, expected=manifest.base.digest[:16], got=source.base_digest[:16], fix=fix)
    settings = CoraSettings(**manifest.settings)
    titles = titles_of(workspace, manifest.domain, head.item_ids)
    prompts = Prompts.of(manifest.prompt, titles, source.tokenizer(settings.max_tokens), manifest.title_tokens)
    model = cora_model(source, head.net(), RankOptions(**manifest.options), settings, prompts)
    try:
        model.generator.load_state_dict(head.part("generator"))
    except RuntimeError as error:
        what = f"the head cannot be read: {str(error).splitlines()[0]}"
        raise BadArtifact(what, where=str(head.folder), fix="Fit it again.") from error
    return cora_scorer(model.to(torch_device(device)), settings, prompts, progress)


def cora_model(source: Base, net: Any, options: RankOptions, settings: CoraSettings, prompts: Prompts) -> CoraModel:
    """A new model over the decoder `source`, initialized by the seed of the settings."""
    spec = source.spec(source.digest, settings.max_tokens, precision=settings.precision)
    yes, no = source.output_rows(prompts.answers())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return CoraModel(spec, source.tensors, yes - no, net, settings, options.max_length)


def cora_scorer(model: CoraModel, settings: CoraSettings, prompts: Prompts, progress: Progress) -> Scorer:
    """That of an open model."""

    def score(pairs: Pairs, titles: Sequence[str]) -> Floats:
        questions = Questions.of(pairs, np.zeros(pairs.n), titles, prompts)
        with torch_threads(n_usable_threads()):
            return answered(model, questions, settings, progress)

    return score


class OpenClicks:
    """An open head, for users and items by their ids, with what users have liked until now."""

    def __init__(self, workspace: Workspace, name: str, device: str = "cpu", progress: Progress = SILENT) -> None:
        self._head = open_click_head(workspace, name)
        self.manifest: ClickManifest = self._head.manifest
        if self.manifest.candidates:
            what = "the head chooses among candidates, so a pair alone has no score"
            fix = f"Run: loid-infer recommend --domain {self.manifest.domain} --head {name}"
            raise BadSetting(what, where=f"head {name!r}", expected="a head that scores pairs", fix=fix)
        self.user_ids, self.item_ids = self._head.user_ids, self._head.item_ids
        table = texts_of(workspace, self.manifest.domain) if self.manifest.prompt else {}
        self._titles = table.get
        self._score = scorer(workspace, self._head, device, progress)
        domain, seed = self.manifest.domain, self.manifest.seed
        self._clicks = read_clicks(workspace.clicks(domain), domain, seed, to_fit=False)
        self._rows = IdTable(self._clicks.user_ids)
        place = IdTable(self._head.item_ids)
        codes = place.codes(self._clicks.item_ids)[self._clicks.liked.items]
        kept = codes >= 0  # what has come since is not known to the head
        self._starts = np.append(0, np.cumsum(kept))[self._clicks.liked.starts]
        self._liked = codes[kept]

    def scores(self, user_ids: Sequence[str], item_ids: Sequence[str], users: Ints, items: Ints) -> Floats:
        """P(liked) `[n]` of pairs, by ids and by codes of the head. The item itself is left out of the history."""
        rows = self._rows.codes(user_ids)
        starts, ends = (np.where(rows < 0, 0, self._starts[rows + shift]) for shift in (0, 1))
        histories = Histories(users, starts, ends, self._liked)
        which, liked = histories.flat()
        titles = [self._titles(item, "") for item in item_ids]
        return probability(self._score(Pairs(users, items, histories.where(liked != items[which])), titles))


def probability(logits: Floats) -> Floats:
    """Those of logits `[..]`, computed in float64."""
    found: Floats = np.exp(-np.logaddexp(0, -logits.astype(np.float64))).astype(np.float32)
    return found
