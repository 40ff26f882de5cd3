"""The checkpoint file of a training run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loid_infer.artifact import new_file
from loid_infer.tensors import save_tensors

if TYPE_CHECKING:
    from torch import Tensor


class Checkpoint:
    """One checkpoint file, which is replaced atomically."""

    def __init__(self, path: Path, run: str, every_s: float) -> None:
        """`run` is a digest of everything that decides the weights; a checkpoint is due every `every_s` seconds."""
        self._path, self._run, self._every_s = path, run, every_s
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether the last checkpoint is at least `every_s` old."""
        return time.monotonic() - self._saved >= self._every_s

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Replace the checkpoint. `state` must be serializable as JSON.

        Raises:
            NoSpace: the file cannot be written.
        """
        content = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        with new_file(self._path) as temporary:
            save_tensors(temporary, content, {"run_digest": self._run, "state": json.dumps(state)})
        self._saved = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last saved tensors and state; None without an intact file of the same run."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("run_digest") != self._run:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        except (FileNotFoundError, SafetensorError):
            return None
        return tensors, json.loads(metadata["state"])

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)
