"""What every head can do, the LoID head and the baselines alike. This file knows no model."""

from __future__ import annotations

from typing import Protocol

from loid_infer.data.histories import CodePairs
from loid_infer.types import Floats


class Head(Protocol):
    """Anything that gives ratings for pairs."""

    def predict(self, pairs: CodePairs) -> Floats:
        """Ratings `[n]`, float64, not clipped. Code -1 is an unknown user or item. A pair's rating depends on that
        pair only, not on what else is asked."""
