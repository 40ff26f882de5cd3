"""What was measured of this machine, kept for the next run: JSON, an object a key."""

from __future__ import annotations

import contextlib
from pathlib import Path

from msgspec import Struct, field

from loid_infer.artifact import new_file
from loid_infer.errors import BadArtifact, NoSpace
from loid_infer.records import decode, to_json
from loid_infer.types import Spec


def shape_key(spec: Spec) -> str:
    """What encoders must have in common for one measurement to hold for both."""
    sizes = f"{spec.n_layers} x {spec.hidden_dim} x {spec.feed_forward_dim}"
    return sizes if spec.architecture == "bert" else f"{spec.architecture} {sizes}"


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was measured for one key; what was not is not written."""

    n_streams: int | None = None  # that compute most tokens a second
    tokens_per_s: dict[str, int] = field(default_factory=dict)  # by the number of streams
    max_tokens: int | None = None  # of a pack that fits into a GPU's memory


def recall(key: str, memory: Path) -> Answer:
    """What is kept under `key`; nothing where the file cannot be read."""
    return _read(memory).get(key, Answer())


def remember(key: str, answer: Answer, memory: Path) -> None:
    """Keep `answer` under `key`, beside the others; where the file cannot be written, nothing is kept."""
    answers = _read(memory) | {key: answer}
    with contextlib.suppress(NoSpace), new_file(memory) as temporary:
        temporary.write_text(to_json(answers, indent=1, sort_keys=True) + "\n")


def _read(memory: Path) -> dict[str, Answer]:
    try:
        return decode(memory, dict[str, Answer], "")
    except BadArtifact:
        return {}
