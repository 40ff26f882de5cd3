"""Measurements of this machine, kept for later runs in a JSON file: one object per key."""

from __future__ import annotations

import contextlib
from pathlib import Path

from msgspec import Struct, field

from loid_infer.artifact import new_file
from loid_infer.errors import BadArtifact, NoSpace
from loid_infer.records import decode, to_json
from loid_infer.types import Spec


def shape_key(spec: Spec) -> str:
    """The part of a key that describes the encoder's shape; encoders of one shape share measurements."""
    sizes = f"{spec.n_layers} x {spec.hidden_dim} x {spec.feed_forward_dim}"
    return sizes if spec.architecture == "bert" else f"{spec.architecture} {sizes}"


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The measurements under one key."""

    n_streams: int | None = None  # the fastest number of streams
    tokens_per_s: dict[str, int] = field(default_factory=dict)  # by number of streams
    max_tokens: int | None = None  # of a batch that fits into a GPU's memory


def recall(key: str, memory: Path) -> Answer:
    """The measurements under `key`; empty if there are none or the file cannot be read."""
    return _read(memory).get(key, Answer())


def remember(key: str, answer: Answer, memory: Path) -> None:
    """Store `answer` under `key`, if the file can be written."""
    answers = _read(memory) | {key: answer}
    with contextlib.suppress(NoSpace), new_file(memory) as temporary:
        temporary.write_text(to_json(answers, indent=1, sort_keys=True) + "\n")


def _read(memory: Path) -> dict[str, Answer]:
    try:
        return decode(memory, dict[str, Answer], "")
    except BadArtifact:
        return {}
