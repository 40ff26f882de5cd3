"""`bdlm fit`: trains a decoder and a collaborative model together on labeled pairs (BDLM), and fits a head of each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from loid_infer.artifact import scratch_folder
from loid_infer.clicks.answers import questions_of, train_answers
from loid_infer.clicks.bdlm import BdlmModel, answer
from loid_infer.clicks.choices import choices_of, n_candidates, valid_lists
from loid_infer.clicks.nets import FactorPairs
from loid_infer.clicks.prompts import Prompts, id_tokens
from loid_infer.clicks.saved import ClickHead
from loid_infer.clicks.settings import CHOOSE_PROMPT, DEFAULT_BDLM_SETTINGS, ID_PROMPT, PROMPT, TASKS, BdlmSettings
from loid_infer.encoder import find_encoder
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.encoders.opening import torch_device
from loid_infer.encoders.processor import n_usable_threads, torch_threads
from loid_infer.errors import BadSetting
from loid_infer.graphs.bases import Base
from loid_infer.graphs.extended import with_tokens, write_base
from loid_infer.learning.loop import History
from loid_infer.plugins.adapter import adapted_encoder
from loid_infer.plugins.delta import fold
from loid_infer.settings import TITLE_TOKENS, Workspace, WorkspaceLike, check_choice, check_number
from loid_infer.types import SILENT, NamedDigest, Progress
from loid_infer.verbs.cora import ClickFitResult, ClickRun
from loid_infer.verbs.export import export
from loid_infer.verbs.joined import TextReader
from loid_infer.verbs.pairheads import (
    BDLM_DRS,
    BDLM_LLM,
    best_collaborative,
    chooser,
    decoder_of,
    open_click_head,
    with_prompts,
)
from loid_infer.verbs.train import resolved

_FACTORS = ("mf", "lightgcn")  # whose users and items have a vector each
_MAX_TOKENS = 1_024  # of prompts with candidates, unless given


@dataclass(frozen=True, slots=True)
class BdlmFitResult:
    """Both sides, as two heads on the vectors of one encoder. Metrics: of 1,000 validation pairs or 200 lists."""

    heads: Sequence[str]  # of the decoder, and of the collaborative side
    encoder: str
    domain: str
    collaborative: str
    n_train: int  # pairs that were trained on, or lists of candidates
    candidates: int  # of each list; 0: there are none
    n_tokens: int  # of users and items
    n_params: int  # that were trained
    val_llm: dict[str, float]  # auc, uauc
    val_drs: dict[str, float]
    epochs: int
    tokens_per_s: float  # training tokens without padding
    split: str
    split_digest: str
    seed: int
    paths: Sequence[str]
    seconds: float


def bdlm_fit(
    domain: str,
    *,
    base: str,
    cf: str | None = None,
    prompt: str | None = None,
    title_tokens: int = TITLE_TOKENS,
    name: str | None = None,
    settings: BdlmSettings = DEFAULT_BDLM_SETTINGS,
    device: str = "auto",
    workspace: WorkspaceLike = None,
    checkpoint_s: float = 30.0,
    progress: Progress = SILENT,
) -> BdlmFitResult:
    """Train both sides of BDLM (arXiv 2311.03778) on the labeled pairs of `domain`.

    The decoder gets LoRA and a token for every user and item, whose embeddings are projected vectors, first those of
    the collaborative head. The collaborative side reads the decoder's state of the prompt. Both are drawn to a third
    pair of tables. Afterwards the decoder with its tokens is exported as the encoder `<name>`, so vectors of prompts
    are stored like those of other texts, and heads `<name>-llm` and `<name>-drs` are fitted on them.

    Args:
        base: a decoder: a Hugging Face folder, a GGUF file, or a hub name.
        cf: a head of `cf fit --clicks` with the model mf or lightgcn; by default the best of them on validation.
        prompt: the question, with `{history}`, `{title}`, and `{user}` and `{item}` for their tokens; to choose, with
            `{user}`, `{history}` and `{candidates}`.
        title_tokens: titles are cut after so many tokens.
        name: by default DOMAIN-bdlm, or DOMAIN-bdlm-choose.
        device: auto | cpu | cuda.

    Raises:
        BadName, BadSetting, BadTable, BadArtifact, RuntimeMissing: see `cora_fit`.
        ParityError, StoreBusy, BadStore, NoSpace: see `export` and `encode`.
    """
    start, workspace, on_device = time.perf_counter(), Workspace.of(workspace), torch_device(device)
    check_number("--title-tokens", title_tokens, 1, np.inf)
    choosing = _is_choosing(settings)
    head = open_click_head(workspace, cf or best_collaborative(workspace, domain, _FACTORS, settings.seed))
    name = name or f"{domain}-bdlm{'-choose' if choosing else ''}"
    drs = ClickRun(workspace, domain, f"{name}-drs", BDLM_DRS, settings.seed, checkpoint_s, progress)
    llm = drs.beside(f"{name}-llm", BDLM_LLM)
    drs.check_collaborative(head, _FACTORS)
    candidates = n_candidates(drs.clicks) if choosing else 0
    source = decoder_of(base)
    room = min(source.shape.max_tokens, _MAX_TOKENS) if choosing else 0
    settings = resolved(replace(settings, max_tokens=settings.max_tokens or room), source, on_device)
    digest, with_ids = source.base_digest, not settings.no_tokens
    tokens = id_tokens(len(head.user_ids), len(head.item_ids)) if with_ids else []
    source, first = with_tokens(source, tokens) if with_ids else (source, -1)
    prompt = prompt or (CHOOSE_PROMPT if candidates else ID_PROMPT if with_ids else PROMPT)
    tokenizer = source.tokenizer(settings.max_tokens)
    prompts = Prompts.of(prompt, drs.titles, tokenizer, title_tokens, with_ids=with_ids, candidates=candidates)
    model, history, n_train = _trained(drs, head, source, first, prompts, settings, on_device)
    _export(drs, source, first, model, name, settings)
    about = {
        "collaborative": head.manifest.model,
        "options": head.manifest.options,
        "prompt": prompt,
        "title_tokens": title_tokens,
        "candidates": candidates,
        "base": NamedDigest(base, digest),
        "settings": asdict(settings),
    }
    of_llm, of_drs = _saved(llm, drs, model, history, find_encoder(workspace, name), prompts, about)
    return BdlmFitResult(
        heads=(of_llm.head, of_drs.head),
        encoder=name,
        domain=domain,
        collaborative=head.manifest.model,
        n_train=n_train,
        candidates=candidates,
        n_tokens=len(tokens),
        n_params=of_drs.n_params,
        val_llm=of_llm.val,
        val_drs=of_drs.val,
        epochs=history.epoch,
        tokens_per_s=history.units_per_s,
        split=of_drs.split,
        split_digest=of_drs.split_digest,
        seed=settings.seed,
        paths=(of_llm.path, of_drs.path, str(workspace.encoder(name))),
        seconds=time.perf_counter() - start,
    )


def _is_choosing(settings: BdlmSettings) -> bool:
    """Whether the task is to choose among candidates. Raises BadSetting if the settings contradict it."""
    check_choice("task", settings.task, TASKS)
    if settings.task == "choose" and settings.no_tokens:
        fix = "Leave out --no-tokens, or give --task answer."
        raise BadSetting("only tokens of items can be chosen", where="--no-tokens, --task choose", fix=fix)
    return settings.task == "choose"


def _trained(
    run: ClickRun, head: ClickHead, source: Base, first: int, prompts: Prompts, settings: BdlmSettings, device: str
) -> tuple[BdlmModel, History, int]:
    net = head.net()
    if not isinstance(net, FactorPairs):  # excluded by `check_collaborative`
        raise BadSetting("the collaborative head has no vectors of users and items", where=f"head {head.folder.name!r}")
    if prompts.candidates:
        direction = torch.zeros(source.shape.hidden_dim)
        train, valid = choices_of(run.clicks, run.titles, prompts, settings, run.progress)
    else:
        yes, no = source.output_rows(prompts.answers())
        direction = yes - no
        train, valid = questions_of(run.clicks, run.titles, prompts, settings)
    spec = source.spec(source.digest, settings.max_tokens, precision=settings.precision)
    decoder = adapted_encoder(spec, source.tensors, source.model, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = BdlmModel(decoder, direction, net, first, settings).to(device)
    identity = [asdict(settings), source.base_digest, prompts.template, run.titles, head.manifest.files, device]
    with torch_threads(n_usable_threads()):
        history = train_answers(model, train, valid, settings, run.checkpoint(identity), run.progress)
    return model, history, train.examples.n


def _export(run: ClickRun, source: Base, first: int, model: BdlmModel, name: str, settings: BdlmSettings) -> None:
    """Export the decoder with its tokens as the encoder `name`."""
    tensors = fold(source.arrays(), [model.decoder.delta()])
    rows = np.zeros((0, 0), np.float32) if model.tokens is None else model.tokens.rows().cpu().numpy()
    with scratch_folder() as scratch:
        write_base(scratch / name, source, tensors, rows, first)
        how: dict[str, Any] = {"pooling": "last", "normalize": False, "max_tokens": settings.max_tokens}
        export(name, base=str(scratch / name), workspace=run.workspace, progress=run.progress, **how)


def _saved(
    llm: ClickRun,
    drs: ClickRun,
    model: BdlmModel,
    history: History,
    folder: EncoderFolder,
    prompts: Prompts,
    about: Mapping[str, Any],
) -> tuple[ClickFitResult, ClickFitResult]:
    """The head of each side on the vectors of the encoder in `folder`; `about` are fields of their manifests."""
    candidates = prompts.candidates
    rows = valid_lists(drs.clicks, drs.seed) if candidates else None
    reader = TextReader(drs.workspace, folder, f"{folder.name}-valid", drs.progress, keep=True)
    about = {**about, "encoder": folder.name, "fingerprint": folder.fingerprint, "card": folder.spec}
    n_params = sum(parameter.numel() for parameter in model.trained().values())
    model = model.cpu()
    parts = {"net": model.net, "mixer": model.mixer}
    tensors = {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}
    val = llm.validated(with_prompts(chooser(reader, prompts, partial(answer, model.answers())), candidates), rows)
    of_llm = llm.save(model.answers(), {**about, "val": val}, history, n_params)
    val = drs.validated(with_prompts(chooser(reader, prompts, partial(model.mixer, model.net)), candidates), rows)
    return of_llm, drs.save(tensors, {**about, "val": val}, history, n_params)
