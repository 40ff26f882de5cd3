"""`fit`: trains the head of a domain on stored vectors and compares it with baselines on the same split."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from msgspec import structs, to_builtins

from loid_infer.artifact import MANIFEST, digest_json, versions
from loid_infer.data.reviews import open_table
from loid_infer.data.splits import split as split_of
from loid_infer.encoders.opening import torch_device
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.evaluation.metrics import absolute_errors, clipped, mse, squared_errors
from loid_infer.heads.baselines import Head
from loid_infer.heads.manifest import BaselineErrors, FitReport
from loid_infer.heads.presets import DEFAULT_OPTIONS, HeadOptions
from loid_infer.heads.saved import save_head
from loid_infer.heads.training import Fitted, fit_head, pairs_of
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.records import decode
from loid_infer.settings import MAX_SEED, Workspace, WorkspaceLike, check_number
from loid_infer.types import SILENT, Bools, Interactions, Progress, Split
from loid_infer.verbs.encoder import domain_vectors, resolve_without_leak

_PAPER = "paper protocol: histories contain the target review, so these errors are not valid results"


class FitResult(FitReport, frozen=True, kw_only=True):
    """A fitted head, its errors and its cost."""

    path: str
    samples_per_s: float
    seconds: float


def fit(
    domain: str,
    *,
    workspace: WorkspaceLike = None,
    encoder: str | None = None,
    settings: HeadOptions = DEFAULT_OPTIONS,
    name: str | None = None,
    split: str = "random",
    split_seed: int | None = None,
    seed: int = 0,
    device: str = "auto",
    checkpoint_s: float = 30.0,
    progress: Progress = SILENT,
) -> FitResult:
    """Train the head of `domain` and write it to `exports/heads/<name>/`.

    A killed run continues from its last checkpoint when it is started again.

    Args:
        name: name of the head; by default the domain, or `<domain>-paper` with the paper's protocol.
        split_seed: by default `seed`.
        device: auto | cpu | cuda; used for training the network.
        checkpoint_s: minimum seconds between checkpoints, which are written after an epoch.

    Raises:
        BadName, BadSetting: an invalid name or option, or a plugin that was trained on test reviews.
        BadTable: the domain has no table.
        BadArtifact: there is no such encoder.
        NotEncoded: some texts have no vectors.
        RuntimeMissing: the device is not available.
        NoSpace: the disk is full or the folder not writable.
    """
    start, workspace = time.perf_counter(), Workspace.of(workspace)
    chosen = settings.settings()
    folder = workspace.head(name or (f"{domain}-paper" if chosen.protocol == "paper" else domain))
    split_seed = seed if split_seed is None else split_seed
    check_number("--seed", seed, 0, MAX_SEED)
    check_number("--split-seed", split_seed, 0, MAX_SEED)
    with suppress(BadArtifact):  # missing or unusable
        other = decode(folder / MANIFEST, dict[str, Any], "").get("domain", domain)
        if other != domain:
            what = "the head of that name belongs to another domain"
            raise BadSetting(what, where=str(folder), expected=domain, got=str(other), fix="Choose another --name.")
    device, data = torch_device(device), open_table(workspace.table(domain), domain).interactions(progress)
    parts = split_of(data, split, split_seed)
    exported = resolve_without_leak(workspace, encoder, domain, parts)
    # Everything that decides the weights. The checkpoint's name contains it, so that a fit with other settings keeps
    # the checkpoint of a killed one.
    decides = [to_builtins(chosen), seed, parts.digest, data.digest, exported.fingerprint, device, versions("torch")]
    run = digest_json(decides)
    checkpoint = Checkpoint(folder.with_name(f".{folder.name}.{run[:8]}.training.safetensors"), run, checkpoint_s)
    with domain_vectors(workspace, exported, domain, data.digests) as vectors:
        fitted = fit_head(data, parts, vectors, chosen, seed, progress, checkpoint, device)
    if chosen.protocol == "paper":
        progress.say(_PAPER)
    figures = _figures(data, parts, fitted)
    result = FitResult(
        domain=domain,
        head=folder.name,
        path=str(folder),
        encoder=exported.name,
        fingerprint=exported.fingerprint,
        preset=chosen.preset,
        protocol=chosen.protocol,
        split=parts.kind,
        split_seed=parts.seed,
        split_digest=parts.digest,
        seed=seed,
        seconds=time.perf_counter() - start,
        **figures,
    )
    packages = versions("torch", "numpy", "safetensors")
    report = {**structs.asdict(result), "card": exported.spec, "versions": packages, "device": device}
    save_head(folder, fitted.head, data, parts.train, fitted.history, report)
    checkpoint.remove()
    return result


def _figures(data: Interactions, parts: Split, fitted: Fitted) -> dict[str, Any]:
    """The fields of the result that are measured."""
    models, history = fitted.baselines, fitted.history

    def error(model: Head, rows: Bools) -> float:
        return mse(clipped(model.predict(pairs_of(data, parts, rows)), data.rating_range), data.ratings[rows])

    def part(rows: Bools) -> float | None:
        return float(squares[rows].mean()) if rows.any() else None

    test, ratings = pairs_of(data, parts, parts.test), data.ratings[parts.test]
    predicted = clipped(fitted.predictor.predict(test), data.rating_range)
    squares = squared_errors(predicted, ratings)
    cold = (test.users < 0) | (test.items < 0)
    return {
        "train_mse": error(fitted.predictor, parts.train),
        "bias_train_mse": error(models.bias, parts.train),
        "val_mse": error(fitted.predictor, parts.valid),
        "test_mse": float(squares.mean()),
        "test_mae": float(absolute_errors(predicted, ratings).mean()),
        "warm_test_mse": part(~cold),
        "cold_test_mse": part(cold),
        "n_train": int(parts.train.sum()),
        "n_valid": int(parts.valid.sum()),
        "n_test": int(parts.test.sum()),
        "n_cold_test": int(cold.sum()),
        "network_share": fitted.head.share,
        "epochs": len(history.losses),
        "baselines": BaselineErrors(
            *(error(model, parts.test) for model in (models.mean, models.bias, models.factors))
        ),
        "best_epoch": history.best + 1,
        "samples_per_s": history.units_per_s,
    }
