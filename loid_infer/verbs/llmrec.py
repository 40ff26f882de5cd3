"""`llmrec train`: trains LoRA to rank next items by texts (LLM-Rec, Tang et al. 2023), and everything that needs it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import to_builtins

from loid_infer.artifact import digest_json, versions, write_manifest
from loid_infer.data.sequences import NEXT_ITEM, refuse_other_split, split_sequences
from loid_infer.encoders.opening import torch_device
from loid_infer.encoders.processor import n_usable_threads, torch_threads
from loid_infer.errors import BadSetting
from loid_infer.graphs.bases import Base, fold_plugins, load_base
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import History
from loid_infer.plugins.adapter import AdaptedEncoder, adapted_encoder
from loid_infer.plugins.delta import delta_digest, write_delta
from loid_infer.plugins.folder import PluginManifest, PluginMetrics, new_plugin
from loid_infer.plugins.ranking import RankingData, train_ranking
from loid_infer.plugins.settings import DEFAULT_RANK_TRAIN_SETTINGS, RankTrainSettings
from loid_infer.rankers.joined import JoinedTexts
from loid_infer.settings import DEFAULT_BASE, TEMPLATE, TITLE_TOKENS, Workspace, WorkspaceLike, check_number
from loid_infer.types import SILENT, Progress, TrainingRun
from loid_infer.verbs.export import export
from loid_infer.verbs.plugins import summary
from loid_infer.verbs.rank import head_folder, llmrec_fit
from loid_infer.verbs.sequences import item_texts, read_sequences
from loid_infer.verbs.train import CURVE_FILE, lineage, resolved


@dataclass(frozen=True, slots=True)
class LlmrecTrainResult:
    """A trained plugin, the encoder with it, and the head on that. Metrics are of full ranking."""

    plugin: str
    encoder: str
    head: str
    domains: Sequence[str]
    base: str
    on: Sequence[str]
    n_params: int  # of LoRA
    n_steps: int
    best_step: int
    val_ndcg: float  # NDCG@10 during training, among at most 5,000 items a domain
    val: dict[str, float]  # of the head, by metric
    tokens_per_s: float  # training tokens without padding
    precision: str
    split: str
    split_digest: str
    seed: int
    paths: Sequence[str]
    seconds: float


def llmrec_train(
    domains: Sequence[str],
    *,
    settings: RankTrainSettings = DEFAULT_RANK_TRAIN_SETTINGS,
    base: str = DEFAULT_BASE,
    pooling: str = "auto",
    on: Sequence[str] = (),
    name: str | None = None,
    template: str = TEMPLATE,
    title_tokens: int = TITLE_TOKENS,
    split: str = "leave-one-out",
    device: str = "auto",
    checkpoint_s: float = 30.0,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> LlmrecTrainResult:
    """Train a plugin on the sequences of `domains`, export the encoder with it, and fit the head that ranks by texts.

    The three have the same name. A killed run continues from its checkpoint when it is started again.

    Args:
        base, pooling: see `export`.
        on: frozen plugins to train on, with those they were trained on.
        name: by default the domains joined by `_`, then `_llmrec`.
        template: the text of an item; see `Items.texts`.
        title_tokens: texts of items are cut after so many tokens.
        split: leave-one-out | time.
        device: auto | cpu | cuda.
        checkpoint_s: seconds between checkpoints.

    Raises:
        BadName, BadSetting: an invalid name or option, or a plugin of `on` that was trained on another split.
        BadTable, BadArtifact: a table, the base or a plugin of `on` cannot be used.
        RuntimeMissing: the device is not available.
        ParityError, StoreBusy, BadStore, NoSpace: see `export` and `llmrec_fit`.
    """
    start, workspace = time.perf_counter(), Workspace.of(workspace)
    name = name or "_".join([*sorted(domains), "llmrec"])
    path, on_device = workspace.plugin(name), torch_device(device)
    _check_name(workspace, name, domains, on)
    check_number("--title-tokens", title_tokens, 1, math.inf)
    sequences = read_sequences(workspace, domains, settings.seed, progress)
    parts = split_sequences(sequences, split)
    texts = item_texts(workspace, sequences, template, progress)
    source = load_base(base, pooling)
    settings = resolved(settings, source, on_device)
    source = fold_plugins(source, workspace, on)
    for plugin in source.chain:
        refuse_other_split(plugin.manifest.trained_on, sequences, parts, f"plugin {plugin.name!r}")
    tokenizer = source.tokenizer(settings.max_tokens)
    data = RankingData(sequences, parts, JoinedTexts.of(texts.texts, tokenizer, title_tokens), tokenizer)
    identity = lineage(source, _runs(data, settings.seed), settings)
    identity["settings"] |= {"pooling": source.reading.pooling, "template": template, "title_tokens": title_tokens}
    identity["settings"]["texts_digest"] = digest_json(data.texts.texts)
    run = digest_json(to_builtins([identity, on_device]))
    checkpoint = Checkpoint(path.with_name(f".{path.name}.training.safetensors"), run, checkpoint_s)
    model, history = _train(source, data, settings, on_device, checkpoint, progress)
    delta, metrics = model.delta(), _metrics(history, start)
    manifest = PluginManifest(
        name=path.name,
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
    shared: dict[str, Any] = {"workspace": workspace, "progress": progress}
    read: dict[str, Any] = {"base": base, "pooling": pooling, "max_tokens": settings.max_tokens}
    exported = export(name, plugins=[name], **read, **shared)
    of_texts: dict[str, Any] = {"history": "joined", "template": template, "title_tokens": title_tokens}
    of_data: dict[str, Any] = {"split": split, "seed": settings.seed}
    head = llmrec_fit(domains, text_only=True, encoder=name, name=name, **of_texts, **of_data, **shared)
    checkpoint.remove()
    more: dict[str, Any] = {"encoder": exported.encoder, "head": head.head, "domains": head.domains, "val": head.val}
    more |= {"on": on, "split": parts.kind, "split_digest": parts.digest}
    more["n_params"] = sum(part.a.size + part.b.size for part in delta.values())
    more |= {"paths": (str(path), exported.path, head.path), "seconds": time.perf_counter() - start}
    return summary(workspace, manifest, LlmrecTrainResult, more)


def _check_name(workspace: Workspace, name: str, domains: Sequence[str], on: Sequence[str]) -> None:
    if name in on:
        what, fix = "a plugin cannot replace one that it is trained on", "Choose another --name."
        raise BadSetting(what, where=f"--name {name}", fix=fix)
    head_folder(workspace, name, domains)


def _runs(data: RankingData, seed: int) -> tuple[TrainingRun, ...]:
    split = data.split
    return tuple(
        TrainingRun(
            domain=domain,
            table_digest=data.sequences.digest,
            split=split.kind,
            split_seed=seed,
            split_digest=split.digest,
            task=NEXT_ITEM,
        )
        for domain in data.sequences.domains
    )


def _train(
    source: Base,
    data: RankingData,
    settings: RankTrainSettings,
    device: str,
    checkpoint: Checkpoint,
    progress: Progress,
) -> tuple[AdaptedEncoder, History]:
    spec = source.spec(source.digest, settings.max_tokens, precision=settings.precision)
    model = adapted_encoder(spec, source.tensors, source.model, settings).to(device)
    with torch_threads(n_usable_threads()):
        return model, train_ranking(model, data, settings, checkpoint, progress)


def _metrics(history: History, start: float) -> PluginMetrics:
    return PluginMetrics(
        val_ndcg=1 - history.eval_errors[history.best],
        n_steps=len(history.losses),
        best_step=history.eval_steps[history.best],
        tokens_per_s=history.units_per_s,
        seconds=time.perf_counter() - start,
    )
