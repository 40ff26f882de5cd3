"""`fit`: a domain's head, trained on vectors from the store and compared with the baselines on the same split.

This file ties table, store and head together; it computes nothing itself.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from loid_infer.artifact import MANIFEST, versions
from loid_infer.data.histories import CodePairs
from loid_infer.data.reviews import open_table
from loid_infer.data.splits import refuse_leak
from loid_infer.data.splits import split as split_of
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.errors import BadSetting
from loid_infer.heads.presets import head_settings
from loid_infer.heads.protocol import Head
from loid_infer.heads.saved import save_head
from loid_infer.heads.training import Fitted, fit_head, pairs_of
from loid_infer.kernels import metrics
from loid_infer.settings import Place, Workspace, slug
from loid_infer.store.reader import stored_vectors
from loid_infer.types import SILENT, Bools, Floats, Interactions, Progress, Split
from loid_infer.verbs.encoder import resolve


@dataclass(frozen=True, slots=True)
class BaselineErrors:
    """Test MSE of each baseline, tuned on validation."""

    global_mean: float
    bias: float
    mf: float


@dataclass(frozen=True, slots=True)
class FitResult:
    """What was fitted and how far off it is. Errors are of predictions clipped to the rating range, in float64."""

    domain: str
    head: str
    path: str
    encoder: str
    fingerprint: str
    preset: str
    protocol: str  # strict, or paper: then a review's own text is in view and errors mean little
    split: str
    split_seed: int
    split_digest: str
    train_mse: float  # in-sample IDs and biases: compare with `bias_train_mse`, not with the test
    bias_train_mse: float  # of the bias baseline
    val_mse: float
    test_mse: float
    test_mae: float
    warm_test_mse: float | None  # of pairs whose user and item have training reviews; None without any
    cold_test_mse: float | None  # of the others; None without any
    n_train: int
    n_valid: int
    n_test: int
    n_cold_test: int
    baselines: BaselineErrors
    network_share: float  # of the network's output that validation found worth adding, 0..1
    epochs: int
    best_epoch: int
    samples_per_s: float
    seconds: float
    seed: int


def fit(
    domain: str,
    *,
    workspace: Place = None,
    encoder: str | None = None,
    preset: str = "default",
    protocol: str = "strict",
    name: str | None = None,
    k: int = 5,
    lam: float = 0.2,
    margin: float | None = None,
    epochs: int | None = None,
    split: str = "random",
    split_seed: int | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> FitResult:
    """Train the head of `domain` and write it to `exports/heads/<name>/`.

    Args:
        name: of the head; the domain's, and `<domain>-paper` under the paper's protocol, if not given.
        k: reviews drawn from each history in training.
        lam: weight of the triplet loss (LoID eq. 10).
        margin: of the triplet loss (eq. 8); the preset's if not given.
        split_seed: `seed` if not given.

    Raises:
        BadName, BadSetting: a name or option outside its range, or a plugin that has seen the test reviews.
        BadTable: the domain has no table.
        BadArtifact: there is no such encoder.
        NotEncoded: texts of the domain lack vectors.
    """
    start = time.perf_counter()
    place = Workspace.of(workspace)
    settings = head_settings(preset, protocol, k=k, lam=lam, margin=margin, epochs=epochs)
    name = slug(name or (f"{domain}-paper" if protocol == "paper" else domain), "head")
    _check_seeds(seed, split_seed)
    _keep_others(place.head(name), domain)
    interactions = open_table(place.table(domain), domain).interactions(progress)
    parts = split_of(interactions, split, seed if split_seed is None else split_seed)
    found = _honest_encoder(place, encoder, domain, parts)
    store, encode = place.store(found.fingerprint), f"loid-infer encode --domain {domain} --encoder {found.name}"
    vectors = stored_vectors(store, found.card, found.fingerprint, interactions.digests, f"Run: {encode}")
    fitted = fit_head(interactions, parts, vectors, settings, seed, progress)
    if protocol == "paper":
        progress.say("paper protocol: histories hold the very review that states the rating; its errors are no results")
    errors = _errors(fitted, interactions, parts)
    result = FitResult(
        domain=domain, head=name, path=str(place.head(name)), encoder=found.name, fingerprint=found.fingerprint,
        preset=preset, protocol=protocol, split=parts.kind, split_seed=parts.seed, split_digest=parts.digest,
        n_train=int(parts.train.sum()), n_valid=int(parts.valid.sum()), n_test=int(parts.test.sum()),
        network_share=fitted.head.share, epochs=fitted.epochs, best_epoch=fitted.best_epoch,
        samples_per_s=fitted.samples_per_s, seconds=time.perf_counter() - start, seed=seed,
        train_mse=errors.train_mse, val_mse=errors.val_mse, test_mse=errors.test_mse, test_mae=errors.test_mae,
        warm_test_mse=errors.warm_test_mse, cold_test_mse=errors.cold_test_mse, n_cold_test=errors.n_cold_test,
        bias_train_mse=errors.bias_train_mse, baselines=errors.baselines,
    )  # fmt: skip
    manifest = _manifest(result, found)
    save_head(place.head(name), fitted.head, interactions, parts.train, manifest)
    return result


def _honest_encoder(place: Workspace, encoder: str | None, domain: str, parts: Split) -> EncoderFolder:
    """The encoder, none of whose plugins saw the domain's test reviews."""
    found = resolve(place, encoder, domain)
    for plugin in found.manifest.get("plugins", []):
        refuse_leak(plugin["trained_on"], domain, parts, f"plugin {plugin['name']!r} of encoder {found.name!r}")
    return found


def _check_seeds(seed: int, split_seed: int | None) -> None:
    for option, value in (("--seed", seed), ("--split-seed", split_seed)):
        if value is not None and not 0 <= value < 1 << 63:
            raise BadSetting("not a seed", where=option, expected="0 to 2^63 - 1", got=str(value), mend="Give another.")


def _keep_others(folder: Path, domain: str) -> None:
    """Refuse to replace another domain's head."""
    try:
        other = json.loads((folder / MANIFEST).read_text()).get("domain", domain)
    except (OSError, ValueError, AttributeError):
        return  # nothing there, or nothing that can be lost
    if other != domain:
        raise BadSetting(
            "the head of that name is another domain's",
            where=str(folder),
            expected=domain,
            got=str(other),
            mend="Choose another --name.",
        )


@dataclass(frozen=True, slots=True)
class _Errors:
    train_mse: float
    bias_train_mse: float
    val_mse: float
    test_mse: float
    test_mae: float
    warm_test_mse: float | None
    cold_test_mse: float | None
    n_cold_test: int
    baselines: BaselineErrors


def _errors(fitted: Fitted, interactions: Interactions, parts: Split) -> _Errors:
    def clipped(head: Head, pairs: CodePairs) -> Floats:
        return metrics.clipped(head.predict(pairs), interactions.rating_range)

    def measured(head: Head, rows: Bools) -> float:
        return metrics.mse(clipped(head, pairs_of(interactions, parts, rows)), interactions.ratings[rows])

    def part(rows: Bools) -> float | None:
        return metrics.mse(predicted[rows], ratings[rows]) if rows.any() else None

    test, ratings = pairs_of(interactions, parts, parts.test), interactions.ratings[parts.test]
    predicted = clipped(fitted.predictor, test)
    cold = (test.users < 0) | (test.items < 0)
    models = fitted.baselines
    return _Errors(
        train_mse=measured(fitted.predictor, parts.train),
        bias_train_mse=measured(models.bias, parts.train),
        val_mse=measured(fitted.predictor, parts.valid),
        test_mse=metrics.mse(predicted, ratings),
        test_mae=metrics.mae(predicted, ratings),
        warm_test_mse=part(~cold),
        cold_test_mse=part(cold),
        n_cold_test=int(cold.sum()),
        baselines=BaselineErrors(*(measured(head, parts.test) for head in (models.mean, models.bias, models.factors))),
    )


def _manifest(result: FitResult, encoder: EncoderFolder) -> dict[str, object]:
    # Times are left out: the same fit gives the same bytes.
    timed = ("samples_per_s", "seconds", "path")
    said = {name: value for name, value in asdict(result).items() if name not in timed}
    return said | {"card": asdict(encoder.card), "versions": versions("torch", "numpy", "safetensors"), "device": "cpu"}
