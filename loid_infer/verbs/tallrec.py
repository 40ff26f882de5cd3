"""`cora train`: trains a decoder with LoRA to answer by titles (TALLRec, Bao et al. 2023), and everything it needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from msgspec import to_builtins

from loid_infer.artifact import digest_json, versions, write_manifest
from loid_infer.clicks.answers import AdaptedModel, Questions, questions_of, train_answers
from loid_infer.clicks.prompts import Prompts
from loid_infer.clicks.settings import DEFAULT_ANSWER_SETTINGS, PROMPT, AnswerSettings
from loid_infer.data.clicks import CLICK_TASK, refuse_other_pairs
from loid_infer.encoders.opening import torch_device
from loid_infer.encoders.processor import n_usable_threads, torch_threads
from loid_infer.graphs.bases import Base, fold_plugins
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import History
from loid_infer.plugins.adapter import adapted_encoder
from loid_infer.plugins.delta import delta_digest, write_delta
from loid_infer.plugins.folder import PluginManifest, PluginMetrics, new_plugin
from loid_infer.settings import TITLE_TOKENS, Workspace, WorkspaceLike, check_number
from loid_infer.types import SILENT, Progress, TrainingRun
from loid_infer.verbs.cora import ClickRun, fit_text
from loid_infer.verbs.export import export
from loid_infer.verbs.pairheads import TEXT, decoder_of
from loid_infer.verbs.plugins import summary
from loid_infer.verbs.train import CURVE_FILE, lineage, resolved


@dataclass(frozen=True, slots=True)
class CoraTrainResult:
    """A trained plugin, the encoder with it, and the head on that. The three have one name."""

    plugin: str
    encoder: str
    head: str
    domain: str
    base: str
    on: Sequence[str]
    n_train: int  # pairs that were trained on
    n_params: int  # of LoRA
    n_steps: int
    best_step: int
    val_auc: float  # during training
    val: dict[str, float]  # of the head: auc, uauc
    tokens_per_s: float  # training tokens without padding
    precision: str
    split: str
    split_digest: str
    seed: int
    paths: Sequence[str]
    seconds: float


def cora_train(
    domain: str,
    *,
    base: str,
    settings: AnswerSettings = DEFAULT_ANSWER_SETTINGS,
    on: Sequence[str] = (),
    prompt: str = PROMPT,
    title_tokens: int = TITLE_TOKENS,
    name: str | None = None,
    device: str = "auto",
    checkpoint_s: float = 30.0,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> CoraTrainResult:
    """Train a plugin on the labeled pairs of `domain`, export the decoder with it, and fit the head on its answers.

    The decoder reads titles only, so the vectors of prompts are stored. A killed run continues from its checkpoint.

    Args:
        base: a decoder: a Hugging Face folder, a GGUF file, or a hub name.
        on: frozen plugins to train on, with those they were trained on.
        prompt, title_tokens: see `cora_fit`.
        name: by default DOMAIN-tallrec.
        device: auto | cpu | cuda.
        checkpoint_s: seconds between checkpoints.

    Raises:
        BadName, BadSetting, BadTable, BadArtifact, RuntimeMissing: see `cora_fit`.
        ParityError, StoreBusy, BadStore, NoSpace: see `export` and `encode`.
    """
    start, workspace, on_device = time.perf_counter(), Workspace.of(workspace), torch_device(device)
    check_number("--title-tokens", title_tokens, 1, np.inf)
    run = ClickRun(workspace, domain, name or f"{domain}-tallrec", TEXT, settings.seed, checkpoint_s, progress)
    name, path = run.folder.name, workspace.plugin(run.folder.name)
    source = decoder_of(base)
    settings = resolved(settings, source, on_device)
    source = fold_plugins(source, workspace, on)
    for plugin in source.chain:
        refuse_other_pairs(plugin.manifest.trained_on, run.clicks, f"plugin {plugin.name!r}")
    prompts = Prompts.of(prompt, run.titles, source.tokenizer(settings.max_tokens), title_tokens)
    train, valid = questions_of(run.clicks, run.titles, prompts, settings)
    identity = _identity(run, source, settings)
    identity["settings"] |= {"prompt": prompt, "title_tokens": title_tokens, "titles": digest_json(run.titles)}
    decides = digest_json(to_builtins([identity, on_device]))
    checkpoint = Checkpoint(path.with_name(f".{path.name}.training.safetensors"), decides, checkpoint_s)
    model, history = _trained(source, prompts, settings, on_device, train, valid, checkpoint, progress)
    delta = model.decoder.delta()
    metrics = PluginMetrics(
        val_auc=1 - history.eval_errors[history.best],
        n_train=train.pairs.n,
        n_valid=valid.pairs.n,
        n_steps=len(history.losses),
        best_step=history.eval_steps[history.best],
        tokens_per_s=history.units_per_s,
        seconds=time.perf_counter() - start,
    )
    manifest = PluginManifest(
        name=name,
        digest=delta_digest(delta),
        **identity,
        device=on_device,
        metrics=metrics,
        versions=versions("torch", "transformers", "peft", "numpy"),
    )
    with new_plugin(workspace, name, progress) as folder:
        write_delta(folder, delta, source.name)
        (folder / CURVE_FILE).write_text(history.to_json() + "\n")
        write_manifest(folder, manifest)
    how: dict[str, Any] = {"pooling": "last", "normalize": False, "max_tokens": settings.max_tokens}
    exported = export(name, base=base, plugins=[name], workspace=workspace, progress=progress, **how)
    head = fit_text(run, base, name, prompt, title_tokens, settings)
    checkpoint.remove()
    more = {**asdict(head), "n_train": train.pairs.n, "on": on, "seconds": time.perf_counter() - start}
    more["n_params"] = sum(part.a.size + part.b.size for part in delta.values())
    return summary(workspace, manifest, CoraTrainResult, {**more, "paths": (str(path), exported.path, head.path)})


def _trained(
    source: Base,
    prompts: Prompts,
    settings: AnswerSettings,
    device: str,
    train: Questions,
    valid: Questions,
    checkpoint: Checkpoint,
    progress: Progress,
) -> tuple[AdaptedModel, History]:
    yes, no = source.output_rows(prompts.answers())
    spec = source.spec(source.digest, settings.max_tokens, precision=settings.precision)
    decoder = adapted_encoder(spec, source.tensors, source.model, settings).to(device)
    model = AdaptedModel(decoder, (yes - no).to(device))
    with torch_threads(n_usable_threads()):
        return model, train_answers(model, train, valid, settings, checkpoint, progress)


def _identity(run: ClickRun, source: Base, settings: AnswerSettings) -> dict[str, Any]:
    clicks = run.clicks
    training = TrainingRun(
        domain=clicks.domain,
        table_digest=clicks.liked.digest,
        split=clicks.split,
        split_seed=run.seed,
        split_digest=clicks.digest,
        task=CLICK_TASK,
    )
    return lineage(source, (training,), settings)
