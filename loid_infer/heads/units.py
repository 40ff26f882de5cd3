"""The unit of ratings. Models are fitted on ratings converted to 1..5, for which penalties, priors and learning rates
are made, and converted back: so ratings of 0 to 100 give the same predictions, times 25, as ratings of 1 to 5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from loid_infer.types import Floats

if TYPE_CHECKING:
    from loid_infer.heads.baselines import Baselines, BiasModel
    from loid_infer.heads.loid import LoidHead
    from loid_infer.learning.loop import History

STANDARD_RANGE = (1.0, 5.0)
_LINEAR = ("user_bias", "item_bias", "bias_spread", "on_user", "on_item", "on_biases", "intercept")  # of a `Foundation`


@dataclass(frozen=True, slots=True)
class Unit:
    """`rating = offset + size * standard rating`."""

    size: float
    offset: float

    @staticmethod
    def of(rating_range: tuple[float, float]) -> Unit:
        """The unit in which `rating_range` is 1..5."""
        low, high = rating_range
        size = (high - low) / (STANDARD_RANGE[1] - STANDARD_RANGE[0])
        return Unit(size, low - size * STANDARD_RANGE[0])

    def standard(self, ratings: Floats) -> Floats:
        """Ratings `[n]` on the scale of 1 to 5, float64."""
        standard: Floats = (ratings.astype(np.float64) - self.offset) / self.size
        return standard

    def ratings(self, standard: Floats) -> Floats:
        """The inverse of `standard`."""
        return self.offset + self.size * standard

    def baselines(self, fitted: Baselines) -> Baselines:
        """Baselines that predict ratings, from those fitted on standard ratings."""

        def bias(model: BiasModel) -> BiasModel:
            user, item = self.size * model.user_bias, self.size * model.item_bias
            return replace(model, mean=self.offset + self.size * model.mean, user_bias=user, item_bias=item)

        factors = replace(fitted.factors, bias=bias(fitted.bias), users=self.size * fitted.factors.users)
        return replace(fitted, mean=bias(fitted.mean), bias=bias(fitted.bias), factors=factors)

    def head(self, head: LoidHead) -> LoidHead:
        """A head that predicts ratings, from one fitted on standard ratings. The network's last layers are changed."""
        start, net = head.foundation, head.net
        for layer in filter(None, (net.last, net.linear)):
            for parameter in layer.parameters():
                parameter.data.mul_(self.size)
        scaled = {name: self.size * getattr(start, name) for name in _LINEAR}
        return replace(head, foundation=replace(start, mean=self.offset + self.size * start.mean, **scaled))

    def history(self, history: History) -> History:
        """A learning curve of squared errors of ratings, from one of standard ratings."""
        losses, errors = ([self.size**2 * error for error in part] for part in (history.losses, history.eval_errors))
        return replace(history, losses=losses, eval_errors=errors)
