"""What was measured of this machine, kept for the next run: JSON, an object a key.

Knows nothing of what is measured.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from loid_infer.artifact import new_file
from loid_infer.errors import NoSpace
from loid_infer.types import Spec


def shape_key(spec: Spec) -> str:
    """What encoders must have in common for one measurement to hold for both."""
    sizes = f"{spec.n_layers} x {spec.hidden_dim} x {spec.feed_forward_dim}"
    return sizes if spec.architecture == "bert" else f"{spec.architecture} {sizes}"


def recall(key: str, memory: Path) -> dict[str, Any]:
    """What is kept under `key`; nothing where the file cannot be read."""
    return _read(memory).get(key, {})


def remember(key: str, answer: dict[str, Any], memory: Path) -> None:
    """Keep `answer` under `key`, beside the others; where the file cannot be written, nothing is kept."""
    answers = _read(memory) | {key: answer}
    with contextlib.suppress(NoSpace), new_file(memory) as temporary:
        temporary.write_text(json.dumps(answers, indent=1, sort_keys=True) + "\n")


def _read(memory: Path) -> dict[str, dict[str, Any]]:
    try:
        answers = json.loads(memory.read_text())
        return {key: dict(answer) for key, answer in answers.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
