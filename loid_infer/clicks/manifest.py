"""The manifest of a head on labeled pairs."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from loid_infer.types import NamedDigest, Spec

FORMAT = 1


class ClickManifest(Struct, frozen=True, kw_only=True, tag_field="kind", tag="clicks"):
    """`manifest.json` of a head on labeled pairs."""

    format: int
    head: str
    model: str  # mf | ncf | lightgcn | sasrec | text | cora | bdlm-llm | bdlm-drs
    domain: str
    split: str  # given | time
    split_digest: str  # of the table and the split
    seed: int
    val: dict[str, float]  # auc, uauc
    epochs: int
    collaborative: str = ""  # the model whose vectors are read, or the model itself; "" of text
    options: dict[str, Any] = field(default_factory=dict)  # RankOptions of the collaborative model
    prompt: str = ""  # template, of models that read titles
    title_tokens: int = 0
    candidates: int = 0  # that a prompt lists; 0: it is about one item
    encoder: str = ""  # of a model on stored vectors of prompts
    fingerprint: str = ""
    card: Spec | None = None  # the encoder's spec
    base: NamedDigest | None = None  # of cora and bdlm: what --base was, and the digest of its weights
    settings: dict[str, Any] = field(default_factory=dict)  # CoraSettings or BdlmSettings
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
