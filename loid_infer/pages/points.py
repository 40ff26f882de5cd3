"""Drawings of measured points: calibration and learning curves. Knows numbers and names, not what was measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loid_infer.figures import running_mean
from loid_infer.pages.markup import Html
from loid_infer.pages.plot import Point, Scale, axis_below, axis_left, dot, drawing, line, padded, path, words

_WIDTH, _RIGHT, _TOP = 440.0, 420.0, 12.0
_MOST_POINTS = 300  # a screen shows no more


def calibration(points: Sequence[tuple[float, float, int]], said: str) -> Html:
    """(mean prediction, mean rating, pairs) of each group, beside the line on which both are equal."""
    height, left = 470.0, 46.0
    low, high = padded([value for point in points for value in point[:2]], least=0.2)
    across, up = Scale(low, high, left, _RIGHT), Scale(low, high, height - 46, _TOP)
    places = [(across(predicted), up(rated)) for predicted, rated, _ in points]
    most = max(1, *(n for *_, n in points))
    return drawing(
        _WIDTH, height, said, axis_below(across, _TOP, height - 46), axis_left(up, left, _RIGHT),
        line((across(low), up(low)), (across(high), up(high)), "axis.dashed", 1.5),
        path(places, "blue.stroke.light", 1.5),
        *(dot(place, "blue.fill", 3 + 3 * (max(n, 0) / most) ** 0.5)
          for place, (*_, n) in zip(places, points, strict=True)),
        words((left + _RIGHT) / 2, height - 8, "mean prediction", "small.faint.middle"),
        words(left + 8, _TOP + 14, "mean rating", "small.faint"),
    )  # fmt: skip


def learning_curve(
    losses: Sequence[Point], errors: Sequence[Point], step: str, said: str, reference: float | None = None
) -> Html:
    """The running mean of training losses as a line, validation errors as marks with a ring around the best.

    Args:
        losses, errors: (step, value); at least one of both.
        step: the name of the horizontal axis.
        reference: height of a horizontal line.
    """
    height, left, bottom = 260.0, 52.0, 214.0
    means = running_mean(np.array([value for _, value in losses]), len(losses) // 20)
    kept = np.unique(np.linspace(0, len(losses) - 1, min(len(losses), _MOST_POINTS)).astype(int))
    smooth = [(losses[i][0], float(means[i])) for i in kept]
    heights = [value for _, value in errors] + ([] if reference is None else [reference])
    # The few steep losses of a start would flatten everything else: the line leaves through the top.
    heights += np.minimum(means, 1.1 * np.quantile(means, 0.97)).tolist() if losses else []
    low, high = padded(heights, 0.1, least=0.1 * max(map(abs, heights)))
    across = Scale(0.0, max(place for place, _ in (*losses, *errors)) or 1.0, left, _RIGHT)
    up = Scale(max(low, 0.0), high, bottom, _TOP)
    parts = [axis_left(up, left, _RIGHT), axis_below(across, _TOP, bottom),
             words((left + _RIGHT) / 2, height - 6, step, "small.faint.middle")]  # fmt: skip
    if reference is not None:
        parts.append(line((left, up(reference)), (_RIGHT, up(reference)), "axis.dashed", 1.5))
    if smooth:
        parts.append(path([(across(at), up(value)) for at, value in smooth], "orange.stroke", 2.0))
    if errors:
        places = [(across(at), up(value)) for at, value in errors]
        best = min(range(len(errors)), key=lambda i: errors[i][1])
        parts += [path(places, "blue.stroke", 1.5), *(dot(place, "blue.fill", 3.5) for place in places),
                  dot(places[best], "blue.stroke", 8.0)]  # fmt: skip
    return drawing(_WIDTH, height, said, *parts)
