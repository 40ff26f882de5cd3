"""The manifest of a ranking head."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from loid_infer.types import Spec

FORMAT = 1


class TrialRecord(Struct, frozen=True):
    """Settings that were tried, and the NDCG@10 of the validation part."""

    settings: dict[str, Any]
    ndcg: float


class RankingManifest(Struct, frozen=True, kw_only=True, tag_field="kind", tag="ranking"):
    """`manifest.json` of a ranking head."""

    format: int
    head: str
    model: str  # see rankers.models
    domains: tuple[str, ...]
    sequences_digest: str  # of the interactions and the order of ties
    split: str  # leave-one-out | time
    split_digest: str
    seed: int
    options: dict[str, Any]  # RankOptions
    trials: tuple[TrialRecord, ...]
    val: dict[str, float]  # by metric
    epochs: int
    sequences_per_s: float
    encoder: str = ""  # of a head with texts
    fingerprint: str = ""
    card: Spec | None = None  # the encoder's spec
    template: str = ""
    histories: str = "mean"  # mean | joined: what a user is to a head without training
    title_tokens: int = 0  # after which texts are cut; 0: not
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
