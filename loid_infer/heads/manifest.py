"""What the manifest of a fitted head holds: what it was fitted on, how far off it is, and the numbers of its model."""

from __future__ import annotations

from msgspec import Struct, field

from loid_infer.heads.presets import HeadSettings
from loid_infer.types import Spec

FORMAT = 2


class BaselineErrors(Struct, frozen=True):
    """Test MSE of each baseline, tuned on validation."""

    global_mean: float
    bias: float
    mf: float


class FitReport(Struct, frozen=True, kw_only=True):
    """How far off a head is. Errors are of predictions clipped to the rating range, in float64."""

    domain: str
    head: str
    encoder: str
    fingerprint: str
    preset: str
    protocol: str  # strict, or paper: then a review's own text is in view and errors mean little
    split: str
    split_seed: int
    split_digest: str
    train_mse: float | None  # in-sample IDs and biases: compare with `bias_train_mse`, not with the test
    bias_train_mse: float | None  # of the bias baseline
    val_mse: float | None
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
    seed: int


class HeadManifest(FitReport, frozen=True, kw_only=True, tag_field="kind", tag="head"):
    """`manifest.json` of a head."""

    format: int
    table_digest: str
    rating_range: tuple[float, float]
    card: Spec  # of the encoder, with the fingerprint above
    settings: HeadSettings
    share: float  # of the network's output that is added
    mean: float  # see `heads.foundation.Foundation`, as `intercept`
    intercept: float
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
