"""`fit`: trains the head of a domain on stored vectors and compares it with baselines on the same split."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct, structs, to_builtins

from loid_infer.artifact import MANIFEST, digest_json, versions
from loid_infer.data.reviews import open_table
from loid_infer.data.splits import split as split_of
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.encoders.opening import torch_device
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.evaluation.metrics import absolute_errors, clipped, mse, squared_errors
from loid_infer.heads.baselines import Head
from loid_infer.heads.manifest import BaselineErrors, FitReport
from loid_infer.heads.presets import DEFAULT_OPTIONS, HeadOptions, HeadSettings
from loid_infer.heads.saved import save_head
from loid_infer.heads.training import Fitted, fit_head, pairs_of
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.records import decode
from loid_infer.settings import Workspace, WorkspaceLike
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
    _check_seeds(seed, split_seed)
    _check_replaced(folder, domain)
    on_device, interactions = torch_device(device), open_table(workspace.table(domain), domain).interactions(progress)
    parts = split_of(interactions, split, seed if split_seed is None else split_seed)
    job = _Job(domain, interactions, parts, resolve_without_leak(workspace, encoder, domain, parts), folder, on_device)
    checkpoint = job.checkpoint(chosen, seed, checkpoint_s)
    with domain_vectors(workspace, job.encoder, domain, interactions.digests) as vectors:
        fitted = fit_head(interactions, parts, vectors, chosen, seed, progress, checkpoint, on_device)
    if chosen.protocol == "paper":
        progress.say(_PAPER)
    result = _result(job, fitted, start)
    save_head(job.folder, fitted.head, interactions, parts.train, fitted.history, _manifest(job, result))
    checkpoint.remove()
    return result


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """The inputs and the folder of a fit."""

    domain: str
    interactions: Interactions
    parts: Split
    encoder: EncoderFolder
    folder: Path
    device: str

    def checkpoint(self, settings: HeadSettings, seed: int, every_s: float) -> Checkpoint:
        """The checkpoint of this run, identified by everything that decides the weights."""
        run = digest_json(
            [
                to_builtins(settings),
                seed,
                self.parts.digest,
                self.interactions.digest,
                self.encoder.fingerprint,
                self.device,
                versions("torch"),
            ]
        )
        # The name contains the run, so that a fit with other settings keeps the checkpoint of a killed one.
        return Checkpoint(self.folder.with_name(f".{self.folder.name}.{run[:8]}.training.safetensors"), run, every_s)


def _result(job: _Job, fitted: Fitted, start: float) -> FitResult:
    data, parts, encoder = job.interactions, job.parts, job.encoder
    head, models, history = fitted.head, fitted.baselines, fitted.history

    def error(model: Head, rows: Bools) -> float:
        return mse(clipped(model.predict(pairs_of(data, parts, rows)), data.rating_range), data.ratings[rows])

    def part(rows: Bools) -> float | None:
        return float(squares[rows].mean()) if rows.any() else None

    test = pairs_of(data, parts, parts.test)
    predicted = clipped(fitted.predictor.predict(test), data.rating_range)
    ratings = data.ratings[parts.test]
    squares = squared_errors(predicted, ratings)
    cold = (test.users < 0) | (test.items < 0)
    return FitResult(
        domain=job.domain,
        head=job.folder.name,
        path=str(job.folder),
        encoder=encoder.name,
        fingerprint=encoder.fingerprint,
        preset=head.settings.preset,
        protocol=head.settings.protocol,
        split=parts.kind,
        split_seed=parts.seed,
        split_digest=parts.digest,
        train_mse=error(fitted.predictor, parts.train),
        bias_train_mse=error(models.bias, parts.train),
        val_mse=error(fitted.predictor, parts.valid),
        test_mse=float(squares.mean()),
        test_mae=float(absolute_errors(predicted, ratings).mean()),
        warm_test_mse=part(~cold),
        cold_test_mse=part(cold),
        n_train=int(parts.train.sum()),
        n_valid=int(parts.valid.sum()),
        n_test=int(parts.test.sum()),
        n_cold_test=int(cold.sum()),
        network_share=head.share,
        epochs=len(history.losses),
        baselines=BaselineErrors(*(error(model, parts.test) for model in (models.mean, models.bias, models.factors))),
        best_epoch=history.best + 1,
        samples_per_s=history.units_per_s,
        seconds=time.perf_counter() - start,
        seed=head.seed,
    )


class _DomainField(Struct):
    """A field of the manifest of a head."""

    domain: str


def _check_seeds(seed: int, split_seed: int | None) -> None:
    for option, value in (("--seed", seed), ("--split-seed", split_seed)):
        if value is not None and not 0 <= value < 1 << 63:
            raise BadSetting("invalid seed", where=option, expected="0 to 2^63 - 1", got=str(value))


def _check_replaced(folder: Path, domain: str) -> None:
    """Raise BadSetting if the head of another domain would be replaced."""
    try:
        other = decode(folder / MANIFEST, _DomainField, "").domain
    except BadArtifact:
        return  # missing or unusable
    if other != domain:
        raise BadSetting(
            "the head of that name belongs to another domain",
            where=str(folder),
            expected=domain,
            got=other,
            fix="Choose another --name.",
        )


def _manifest(job: _Job, result: FitResult) -> dict[str, object]:
    packages = versions("torch", "numpy", "safetensors")
    return {**structs.asdict(result), "card": job.encoder.spec, "versions": packages, "device": job.device}
