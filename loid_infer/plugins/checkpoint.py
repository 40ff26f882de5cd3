"""Where a training run stands, written beside its plugin now and then, and found again after a kill.

A checkpoint belongs to one run: it is taken up only where everything that decides the weights is the same. This file
knows tensors and counters, not what they mean.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loid_infer.artifact import new_folder, read_manifest
from loid_infer.errors import BadArtifact

_KIND = "training run"
if TYPE_CHECKING:
    from torch import Tensor

CURVE_FILE = "curve.safetensors"
_FILE = "state.safetensors"


@dataclass(slots=True)
class History:
    """How a run went so far."""

    losses: list[float]  # mean squared error of every step's batch
    eval_steps: list[int]
    eval_mse: list[float]  # on the validation part, predictions clipped

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        from safetensors.numpy import save_file

        save_file(
            {
                "losses": np.array(self.losses, np.float64),
                "eval_steps": np.array(self.eval_steps, np.int64),
                "eval_mse": np.array(self.eval_mse, np.float64),
            },
            path,
        )

    @staticmethod
    def load(path: Path) -> History:
        """Read what `save` wrote."""
        from safetensors.numpy import load_file

        parts = load_file(path)
        return History(*(parts[field].tolist() for field in History.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """All that the rest of a run depends on."""

    tensors: dict[str, dict[str, Tensor]]  # group, name
    counts: dict[str, int]
    history: History


class Checkpoint:
    """The checkpoint of one run."""

    def __init__(self, folder: Path, run: str, every_s: float) -> None:
        """Of the run that the digest `run` names, in `folder`, due every `every_s` seconds."""
        self._folder, self._run, self._every_s = folder, run, every_s
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() - self._saved >= self._every_s

    def save(self, snapshot: Snapshot) -> None:
        """Replace the last one.

        Raises:
            NoSpace: it cannot be written.
        """
        from safetensors.torch import save_file

        manifest: dict[str, Any] = {"kind": _KIND, "run": self._run, "counts": snapshot.counts}
        with new_folder(self._folder, manifest) as folder:
            flat = {f"{group}/{name}": tensor.detach().cpu() for group, part in snapshot.tensors.items()
                    for name, tensor in part.items()}  # fmt: skip
            save_file(flat, folder / _FILE)
            snapshot.history.save(folder / CURVE_FILE)
        self._saved = time.monotonic()

    def load(self) -> Snapshot | None:
        """What was saved last by the same run; None if there is nothing whole, or only another run's."""
        from safetensors.torch import load_file

        try:
            manifest = read_manifest(self._folder, _KIND, "")
        except BadArtifact:
            return None
        if manifest.get("run") != self._run:
            return None
        tensors: dict[str, dict[str, Tensor]] = {}
        for key, tensor in load_file(self._folder / _FILE).items():
            group, name = key.split("/", 1)
            tensors.setdefault(group, {})[name] = tensor
        return Snapshot(tensors, manifest["counts"], History.load(self._folder / CURVE_FILE))

    def remove(self) -> None:
        """Forget it: the run is finished."""
        shutil.rmtree(self._folder, ignore_errors=True)
