"""`plugin train`: trains LoRA to predict a domain's ratings from its reviews (LoID eq. 3-5)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from msgspec import structs, to_builtins

from loid_infer.artifact import digest_json, versions, write_manifest
from loid_infer.data.reviews import ReviewTable, open_table
from loid_infer.data.splits import refuse_leak
from loid_infer.data.splits import split as split_of
from loid_infer.encoders.opening import torch_device
from loid_infer.encoders.processor import has_bf16, n_usable_threads, torch_threads
from loid_infer.graphs.bases import Base, fold_plugins, load_base
from loid_infer.heads.units import Unit
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.plugins.delta import delta_digest, write_delta
from loid_infer.plugins.folder import PluginManifest, PluginMetrics, new_plugin
from loid_infer.plugins.settings import DEFAULT_SETTINGS, TrainSettings
from loid_infer.settings import DEFAULT_BASE, Workspace, WorkspaceLike
from loid_infer.tensors import save_tensors
from loid_infer.types import SILENT, Array, Bools, Interactions, NamedDigest, Progress, Split, TrainingRun
from loid_infer.verbs.plugins import summary

if TYPE_CHECKING:
    from loid_infer.learning.loop import History
    from loid_infer.plugins.train import Examples, RatingModel

REGRESSOR_FILE, CURVE_FILE, PICTURE = "regressor.safetensors", "curve.json", "curve.png"
_MAX_EVALUATED = 10_000  # maximum number of reviews in the validation part and in the test part


@dataclass(frozen=True, slots=True)
class PluginTrainResult:
    """A trained plugin. Errors are of clipped predictions from a review's own text, not of a recommender."""

    plugin: str
    path: str
    digest: str
    domain: str
    base: str
    on: tuple[str, ...]  # names of the frozen plugins it was trained on
    n_params: int  # of LoRA
    val_mse: float
    test_mse: float
    test_variance: float  # of the test ratings: the MSE of predicting their mean
    n_train: int
    n_valid: int
    n_test: int
    n_steps: int
    best_step: int
    tokens_per_s: float  # training tokens without padding
    precision: str
    base_digest: str
    parent_digest: str
    split_digest: str
    seed: int
    seconds: float


def plugin_train(
    domain: str,
    *,
    settings: TrainSettings = DEFAULT_SETTINGS,
    base: str = DEFAULT_BASE,
    on: Sequence[str] = (),
    name: str | None = None,
    split: str = "random",
    split_seed: int | None = None,
    device: str = "auto",
    checkpoint_s: float = 30.0,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> PluginTrainResult:
    """Train a plugin on the training part of `domain` and write it to `exports/plugins/<name>/`.

    A killed run continues from its checkpoint when it is started again.

    Args:
        base: `default`, a folder, a GGUF file, or a hub name; see `export`.
        on: frozen plugins to train on (re-LoRA, LoID eq. 5), with those they were trained on.
        name: name of the plugin; by default the domain.
        split_seed: by default the seed of the settings.
        device: auto | cpu | cuda.
        checkpoint_s: seconds between checkpoints.

    Raises:
        BadName, BadSetting: an invalid name or option, or a plugin of `on` that was trained on test reviews.
        BadTable, BadArtifact: the table, the base or a plugin of `on` cannot be used.
        RuntimeMissing: the device is not available.
        NoSpace: the disk is full or the folder not writable.
    """
    from loid_infer.plugins.train import clipped_mse

    start = time.perf_counter()
    workspace = Workspace.of(workspace)
    path = workspace.plugin(name or domain)
    on_device = torch_device(device)
    table = open_table(workspace.table(domain), domain)
    interactions = table.interactions(progress)
    parts = split_of(interactions, split, settings.seed if split_seed is None else split_seed)
    source = load_base(base)
    settings = resolved(settings, source, on_device)
    source = fold_plugins(source, workspace, on)
    for plugin in source.chain:
        refuse_leak(plugin.manifest.trained_on, domain, parts, f"plugin {plugin.name!r}")
    job = _Job(workspace, path.name, table, interactions, parts, source, tuple(on), settings, on_device)
    sets = _examples(job, progress)
    run = digest_json(to_builtins([job.lineage(), on_device]))
    checkpoint = Checkpoint(path.with_name(f".{path.name}.training.safetensors"), run, checkpoint_s)
    model, history = _train(job, sets, checkpoint, progress)
    test_mse = clipped_mse(model, sets["test"], interactions.rating_range, settings)
    result = _result(job, model, history, sets, test_mse, start, progress)
    checkpoint.remove()
    return result


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """The inputs of a training run."""

    workspace: Workspace
    name: str
    table: ReviewTable
    interactions: Interactions
    parts: Split
    source: Base
    on: tuple[str, ...]
    settings: TrainSettings
    device: str

    def lineage(self) -> dict[str, Any]:
        """The fields of the plugin's manifest that identify the training run."""
        parts = self.parts
        run = TrainingRun(
            domain=self.table.domain,
            table_digest=self.table.digest,
            split=parts.kind,
            split_seed=parts.seed,
            split_digest=parts.digest,
        )
        return lineage(self.source, (run,), self.settings)


Settings = TypeVar("Settings", bound=TrainSettings)


def resolved(settings: Settings, source: Base, device: str) -> Settings:
    """The settings for this base and device, without defaults that depend on them.

    Raises:
        BadSetting: one is outside its range.
    """
    known = source.family.targets(source.spec("", source.shape.max_tokens))
    settings.check(source.shape.n_layers, source.shape.hidden_dim, known)
    max_tokens, precision = source.max_tokens(settings.max_tokens or None), settings.precision
    if precision == "auto":
        precision = "bf16" if device != "cpu" or has_bf16() else "fp32"
    targets = settings.targets or tuple(known)
    return replace(settings, max_tokens=max_tokens, precision=precision, targets=targets)


def lineage(source: Base, runs: tuple[TrainingRun, ...], settings: TrainSettings) -> dict[str, Any]:
    """The fields of a plugin's manifest that identify its training on `source`, with the plugins folded into it."""
    return {
        "method": "train",
        "base": NamedDigest(source.name, source.base_digest),
        "parent_digest": source.digest,
        "tokenizer": source.tokenizer_digest(),
        "on": tuple(sorted(plugin.digest for plugin in source.chain)),
        "parents": (),
        "holds": (),
        "trained_on": runs,
        "settings": asdict(settings),
        "seed": settings.seed,
    }


def _examples(job: _Job, progress: Progress) -> dict[str, Examples]:
    """Tokens and ratings of the three parts. Each different text is tokenized once."""
    from loid_infer.plugins.train import Examples

    interactions, tokenizer = job.interactions, job.source.tokenizer(job.settings.max_tokens)
    first = np.unique(interactions.texts, return_index=True)[1]  # a row of each different text
    order = np.argsort(first)
    position = np.argsort(order)
    ids, lengths = [], []
    with progress.task("tokenize", len(first), "texts") as task:
        for rows, texts in job.table.texts(first[order]):
            tokens = tokenizer(texts)
            ids.append(tokens.flat_ids)
            lengths.append(tokens.lengths)
            task.advance(len(rows))
    examples = Examples(np.concatenate(ids), np.concatenate(lengths), np.zeros(len(first)))

    def part(rows: Bools, most: int) -> Examples:
        chosen = np.flatnonzero(rows)
        if len(chosen) > most:
            chosen = chosen[np.linspace(0, len(chosen) - 1, most).astype(int)]
        return examples.take(position[interactions.texts[chosen]], interactions.ratings[chosen].astype(np.float64))

    parts = job.parts
    return {
        "train": part(parts.train, interactions.n),
        "valid": part(parts.valid, _MAX_EVALUATED),
        "test": part(parts.test, _MAX_EVALUATED),
    }


def _train(
    job: _Job, sets: dict[str, Examples], checkpoint: Checkpoint, progress: Progress
) -> tuple[RatingModel, History]:
    from loid_infer.plugins.train import Data, rating_model, train

    settings, ratings = job.settings, sets["train"].ratings
    # LoRA is trained on pooled vectors, before dense layers and normalization.
    spec = job.source.spec(job.source.digest, settings.max_tokens, precision=settings.precision)
    spec = structs.replace(spec, dense=(), dense_dim=0, normalize=False)
    least = 1e-3 * Unit.of(job.interactions.rating_range).size  # of equal ratings
    scale = (float(ratings.mean()), max(float(ratings.std()), least))
    model = rating_model(spec, job.source.tensors, job.source.model, settings, scale).to(job.device)
    with torch_threads(n_usable_threads()):
        data = Data(sets["train"], sets["valid"], job.interactions.rating_range)
        return model, train(model, data, settings, checkpoint, progress)


def _result(
    job: _Job,
    model: RatingModel,
    history: History,
    sets: dict[str, Examples],
    test_mse: float,
    start: float,
    progress: Progress,
) -> PluginTrainResult:
    """Write the plugin."""
    delta = model.encoder.delta()
    regressor = {key: tensor.detach().cpu().float().numpy() for key, tensor in model.regressor().items()}
    regressor |= {"center": np.float64(model.center).reshape(1), "spread": np.float64(model.spread).reshape(1)}
    manifest = PluginManifest(
        name=job.name,
        digest=delta_digest(delta),
        **job.lineage(),
        device=job.device,
        metrics=PluginMetrics(
            val_mse=history.eval_errors[history.best],
            test_mse=test_mse,
            test_variance=float(sets["test"].ratings.var()),
            n_train=sets["train"].n,
            n_valid=sets["valid"].n,
            n_test=sets["test"].n,
            n_steps=len(history.losses),
            best_step=history.eval_steps[history.best],
            tokens_per_s=history.units_per_s,
            seconds=time.perf_counter() - start,
        ),
        versions=versions("torch", "transformers", "peft", "numpy"),
    )
    with new_plugin(job.workspace, job.name, progress) as folder:
        write_delta(folder, delta, job.source.name)
        _write_curve(folder, regressor, history, job)
        write_manifest(folder, manifest)
    more: dict[str, Any] = {"domain": job.table.domain, "on": job.on, "split_digest": job.parts.digest}
    more["n_params"] = sum(part.a.size + part.b.size for part in delta.values())
    return summary(job.workspace, manifest, PluginTrainResult, more)


def _write_curve(folder: Path, regressor: dict[str, Array], history: History, job: _Job) -> None:
    """Write the regressor, the learning curve and its plot for inspection."""
    from loid_infer.figures import Curve, learning_curves

    save_tensors(folder / REGRESSOR_FILE, regressor, copy=True)
    (folder / CURVE_FILE).write_text(history.to_json() + "\n")
    steps = range(1, len(history.losses) + 1)
    on = f" on {' + '.join(job.on)}" if job.on else ""
    variance = float(job.interactions.ratings[job.parts.valid].var())
    learning_curves(
        folder / PICTURE,
        f"{job.name}: ratings of {job.table.domain} from a review's own text",
        [Curve("", steps, history.losses, history.eval_steps, history.eval_errors)],
        reference=("variance of the validation ratings", variance),
        note=f"LoRA rank {job.settings.rank}{on}; training: MSE of a step's batch; validation: clipped predictions.",
    )
