"""The checkpoint file of a training run, from which the same run continues after it was killed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loid_infer.artifact import new_file

if TYPE_CHECKING:
    from torch import Tensor


class Checkpoint:
    """The checkpoint of one run, one file that is replaced whole."""

    def __init__(self, path: Path, run: str, every_s: float) -> None:
        """Of the run with the digest `run` (of everything that decides its weights), due every `every_s` seconds."""
        self._path, self._run, self._every_s = path, run, every_s
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() - self._saved >= self._every_s

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Replace the last one by tensors and a state that JSON can hold.

        Raises:
            NoSpace: it cannot be written.
        """
        from safetensors.torch import save_file

        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with new_file(self._path) as temporary:
            save_file(content, temporary, metadata={"run_digest": self._run, "state": json.dumps(state)})
        self._saved = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and state that the same run saved last; None where there is no intact file of that run."""
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
        """Delete the file: the run is finished."""
        self._path.unlink(missing_ok=True)
