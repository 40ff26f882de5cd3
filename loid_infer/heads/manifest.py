"""What the manifest of a fitted head holds: what it was fitted on, how far off it is, and the numbers of its model."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct, field

from loid_infer.heads.presets import HeadSettings
from loid_infer.types import Spec

KIND, FORMAT = "head", 2


@dataclass(frozen=True, slots=True)
class BaselineErrors:
    """Test MSE of each baseline, tuned on validation."""

    global_mean: float
    bias: float
    mf: float


class HeadManifest(Struct, frozen=True, kw_only=True, tag_field="kind", tag=KIND):
    """`manifest.json` of a head. Of the errors see `verbs.fit.FitResult`, which they are taken from."""

    format: int
    head: str
    domain: str
    table_digest: str
    rating_range: tuple[float, float]
    encoder: str
    fingerprint: str  # of `card`
    card: Spec
    preset: str
    protocol: str
    settings: HeadSettings
    seed: int
    share: float  # of the network's output that is added
    mean: float  # see `heads.foundation.Foundation`, as `intercept`
    intercept: float
    split: str
    split_seed: int
    split_digest: str
    train_mse: float | None
    bias_train_mse: float | None
    val_mse: float | None
    test_mse: float
    test_mae: float
    warm_test_mse: float | None
    cold_test_mse: float | None
    n_train: int
    n_valid: int
    n_test: int
    n_cold_test: int
    baselines: BaselineErrors
    network_share: float
    epochs: int
    best_epoch: int
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
