"""Where a training run stands, written beside its plugin now and then, and found again after a kill.

A checkpoint belongs to one run: it is taken up only where everything that decides the weights is the same. This file
knows tensors and counters, not what they mean.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loid_infer.artifact import new_file
from loid_infer.tensors import save_tensors

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class History:
    """How a run went so far."""

    losses: list[float]  # mean squared error of every step's batch
    eval_steps: list[int]
    eval_mse: list[float]  # on the validation part, predictions clipped

    def to_json(self) -> str:
        """Every number as it is: Python's floats survive JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """All that the rest of a run depends on."""

    tensors: dict[str, dict[str, Tensor]]  # group, name
    counts: dict[str, int]
    history: History


class Checkpoint:
    """The checkpoint of one run, one file that is replaced whole."""

    def __init__(self, path: Path, run: str, every_s: float) -> None:
        """Of the run that the digest `run` names, at `path`, due every `every_s` seconds."""
        self._path, self._run, self._every_s = path, run, every_s
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() - self._saved >= self._every_s

    def save(self, snapshot: Snapshot) -> None:
        """Replace the last one.

        Raises:
            NoSpace: it cannot be written.
        """
        flat = {f"{group}/{name}": tensor.detach().cpu() for group, part in snapshot.tensors.items()
                for name, tensor in part.items()}  # fmt: skip
        state = {"run": self._run, "counts": json.dumps(snapshot.counts), "history": snapshot.history.to_json()}
        with new_file(self._path) as temporary:
            save_tensors(temporary, flat, state, copy=True)
        self._saved = time.monotonic()

    def load(self) -> Snapshot | None:
        """What was saved last by the same run; None if there is nothing whole, or only another run's."""
        from safetensors import SafetensorError, safe_open

        tensors: dict[str, dict[str, Tensor]] = {}
        try:
            with safe_open(self._path, framework="pt") as file:
                state = file.metadata() or {}
                if state.get("run") != self._run:
                    return None
                for key in file.keys():  # noqa: SIM118 - no dictionary
                    group, name = key.split("/", 1)
                    tensors.setdefault(group, {})[name] = file.get_tensor(key)
        except (FileNotFoundError, SafetensorError):
            return None
        return Snapshot(tensors, json.loads(state["counts"]), History(**json.loads(state["history"])))

    def remove(self) -> None:
        """Forget it: the run is finished."""
        self._path.unlink(missing_ok=True)
