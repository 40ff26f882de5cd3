"""The manifest of a head: data, errors and scalar parameters."""

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
    """Errors of a head. Predictions are clipped to the rating range; errors are in float64."""

    domain: str
    head: str
    encoder: str
    fingerprint: str
    preset: str
    protocol: str  # strict | paper: histories may contain the target review, so errors are not valid results
    split: str
    split_seed: int
    split_digest: str
    train_mse: float | None  # in-sample; comparable with `bias_train_mse`, not with test_mse
    bias_train_mse: float | None  # of the bias baseline
    val_mse: float | None
    test_mse: float
    test_mae: float
    warm_test_mse: float | None  # user and item have training reviews; None without such pairs
    cold_test_mse: float | None  # the other pairs; None without such pairs
    n_train: int
    n_valid: int
    n_test: int
    n_cold_test: int
    baselines: BaselineErrors
    network_share: float  # share of the network's output that is added, chosen on validation, 0..1
    epochs: int
    best_epoch: int
    seed: int


class HeadManifest(FitReport, frozen=True, kw_only=True, tag_field="kind", tag="head"):
    """`manifest.json` of a head."""

    format: int
    table_digest: str
    rating_range: tuple[float, float]
    card: Spec  # the encoder's spec, with the fingerprint above
    settings: HeadSettings
    share: float  # share of the network's output that is added
    mean: float  # see `heads.foundation.Foundation`, as `intercept`
    intercept: float
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
