"""What the manifest of an exported encoder holds: its spec, its proof of parity, and what it was made of."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct, field

from loid_infer.types import NamedDigest, Spec, TrainingRun

# The cosine to the float32 reference that a precision must reach: of every text, or in the mean over texts.
GATES = {
    "fp32": ("cos_min", 0.99999),
    "bf16": ("cos_min", 0.9999),
    "fp16": ("cos_min", 0.9999),
    "int8": ("cos_mean", 0.998),
}


class Parity(Struct, frozen=True):
    """How far vectors are from the float32 reference, over `n_texts` texts."""

    cos_min: float
    cos_mean: float
    max_abs: float
    n_texts: int

    def passes(self, precision: str) -> bool:
        """Whether the gate of `precision` is met; never with a vector that is not finite."""
        return self.cosine(precision) >= GATES[precision][1]  # false for NaN

    def cosine(self, precision: str) -> float:
        """The cosine that the gate of `precision` looks at."""
        found: float = getattr(self, GATES[precision][0])
        return found


class ParityReport(Parity, frozen=True):
    """The proof in an encoder's manifest: the parity of the runtime that is fastest on the machine that exported."""

    passed: bool
    gate: str  # in words
    runtime: str  # the fastest
    runtimes: dict[str, Parity]


def gate(precision: str) -> str:
    """The gate of `precision`, for people."""
    which, least = GATES[precision]
    return f"cosine >= {least} {'for every text' if which == 'cos_min' else 'in the mean'}"


@dataclass(frozen=True, slots=True)
class Quantization:
    """What was chosen, and how far the vectors of held-out texts are from float32."""

    alpha: float
    n_products: int
    kept_float: tuple[str, ...]  # products that stayed in floating point because the gate needs it
    cos_min: float
    cos_mean: float
    n_calibration: int  # texts
    n_held_out: int


@dataclass(frozen=True, slots=True)
class HeadGate:
    """Test MSE of heads on float32 and on int8 vectors, means over the same splits."""

    mse_fp32: float
    mse_int8: float
    change: float  # relative; positive where int8 is worse
    n_reviews: int
    n_seeds: int


@dataclass(frozen=True, slots=True)
class Int8Report:
    """How int8 was calibrated, and what it costs."""

    calibrated_on: str
    table_digest: str
    choice: Quantization
    head: HeadGate


class FoldedPlugin(Struct, frozen=True, kw_only=True):
    """A plugin that was added to an encoder's base."""

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
    plugins: tuple[FoldedPlugin, ...] = ()  # with all that they were trained on
    precision_reason: str = ""
    int8: Int8Report | None = None
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
