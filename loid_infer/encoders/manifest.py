"""The schema of an exported encoder's manifest, and the parity gates."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct, field

from loid_infer.types import NamedDigest, Spec, TrainingRun

# Required cosine to the float32 reference: minimum or mean over texts.
GATES = {
    "fp32": ("cos_min", 0.99999),
    "bf16": ("cos_min", 0.9999),
    "fp16": ("cos_min", 0.9999),
    "int8": ("cos_mean", 0.998),
}


class Parity(Struct, frozen=True):
    """Vectors compared with the float32 reference, over `n_texts` texts."""

    cos_min: float
    cos_mean: float
    max_abs: float
    n_texts: int

    def passes(self, precision: str) -> bool:
        """Whether the gate of `precision` is met; false for NaN."""
        return self.cosine(precision) >= GATES[precision][1]

    def cosine(self, precision: str) -> float:
        """The cosine that the gate of `precision` applies to."""
        cosine: float = getattr(self, GATES[precision][0])
        return cosine


class ParityReport(Parity, frozen=True):
    """The parity of the fastest runtime on the machine of the export."""

    passed: bool
    gate: str  # as text
    runtime: str
    runtimes: dict[str, Parity]


def gate(precision: str) -> str:
    """The gate of `precision` as text."""
    statistic, minimum = GATES[precision]
    return f"cosine >= {minimum} {'for every text' if statistic == 'cos_min' else 'in the mean'}"


@dataclass(frozen=True, slots=True)
class Quantization:
    """The quantization that was chosen, and the parity of held-out texts."""

    alpha: float
    n_products: int
    kept_float: tuple[str, ...]  # products kept in floating point to pass the gate
    cos_min: float
    cos_mean: float
    n_calibration: int  # texts
    n_held_out: int


@dataclass(frozen=True, slots=True)
class HeadGate:
    """Mean test MSE of heads on float32 and on int8 vectors, over the same splits."""

    mse_fp32: float
    mse_int8: float
    change: float  # relative; positive if int8 is worse
    n_reviews: int
    n_seeds: int


@dataclass(frozen=True, slots=True)
class Int8Report:
    """Calibration and loss of an int8 export."""

    calibrated_on: str
    table_digest: str
    choice: Quantization
    head: HeadGate


class FoldedPlugin(Struct, frozen=True, kw_only=True):
    """A plugin that was added to the base."""

    name: str
    digest: str
    method: str
    trained_on: tuple[TrainingRun, ...]


class EncoderManifest(Struct, frozen=True, kw_only=True, tag_field="kind", tag="encoder"):
    """`manifest.json` of an exported encoder."""

    name: str
    fingerprint: str  # of `card`
    card: Spec
    base: NamedDigest
    parity: ParityReport
    plugins: tuple[FoldedPlugin, ...] = ()  # including the plugins they were trained on
    precision_reason: str = ""
    int8: Int8Report | None = None
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
