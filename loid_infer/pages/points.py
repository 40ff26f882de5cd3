"""Drawings of measured points: calibration, errors by bucket, learning curves, distances on a logarithm.

Knows numbers and names, not what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loid_infer.figures import running_mean
from loid_infer.pages.markup import Html
from loid_infer.pages.plot import (
    Point,
    Scale,
    axis_below,
    axis_left,
    drawing,
    line,
    mark,
    padded,
    path,
    shortened,
    tick_text,
    words,
)

SERIES = (("global mean", "triangle", "gray"), ("bias", "square", "orange"), ("mf", "diamond", "green"),
          ("head", "circle", "blue"))  # fmt: skip
_WIDTH = 440.0
_SMOOTH_FROM, _MOST_POINTS = 40, 300


def calibration(points: Sequence[tuple[float, float, int]], said: str) -> Html:
    """(mean prediction, mean rating, pairs) of each group, beside the line on which both are equal."""
    height, left, top = 470.0, 46.0, 10.0
    low, high = padded([value for point in points for value in point[:2]], least=0.2)
    across, up = Scale(low, high, left, _WIDTH - 10), Scale(low, high, height - 46, top)
    ticks = across.ticks(5)
    names = [tick_text(tick, ticks) for tick in ticks]
    places = [(across(predicted), up(rated)) for predicted, rated, _ in points]
    most = max(1, *(n for *_, n in points))
    return drawing(
        _WIDTH, height, said,
        axis_below(across, top, height - 46, ticks, names), axis_left(up, left, _WIDTH - 10, ticks, names),
        line((across(low), up(low)), (across(high), up(high)), "axis.dashed", 1.5),
        path(places, "blue.stroke.light", 1.5),
        *(mark("circle", place, "blue.fill", 3 + 3 * (max(n, 0) / most) ** 0.5)
          for place, (*_, n) in zip(places, points, strict=True)),
        words((left + _WIDTH) / 2, height - 8, "mean prediction", "small.faint.middle"),
        words(left + 8, top + 14, "mean rating", "small.faint"),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Errors:
    """The errors of SERIES on one kind of pairs."""

    name: str
    n: int
    values: tuple[float, float, float, float]


def buckets(rows: Sequence[Errors], axis: str, said: str) -> Html:
    """One row a bucket, one mark a model."""
    left, right, step, top = 74.0, _WIDTH - 62, 34.0, 26.0
    bottom = top + step * len(rows)
    scale = Scale(0.0, 1.06 * max(max(row.values) for row in rows) or 1.0, left, right)
    ticks = scale.ticks(5)
    parts = [axis_below(scale, top - 4, bottom, ticks, [tick_text(tick, ticks) for tick in ticks]),
             words(_WIDTH, 14, "pairs", "small.faint.end"), words(0, 14, axis, "small.faint"),
             words((left + right) / 2, bottom + 38, "test MSE, less is better", "small.faint.middle")]  # fmt: skip
    for number, row in enumerate(rows):
        y = top + step * (number + 0.5)
        parts += [words(0, y + 4, shortened(row.name, 10), whole=row.name), words(_WIDTH, y + 4, f"{row.n:,}", "end"),
                  line((scale(min(row.values)), y), (scale(max(row.values)), y), "axis")]  # fmt: skip
        parts += [mark(kind, (scale(value), y), f"{color}.fill", 5.0)
                  for (_, kind, color), value in zip(SERIES, row.values, strict=True)]  # fmt: skip
    return drawing(_WIDTH, bottom + 46, said, *parts)


def learning_curve(
    losses: Sequence[Point], errors: Sequence[Point], step: str, said: str, reference: float | None = None
) -> Html:
    """Training losses as a line, validation errors as marks with a ring around the best.

    Args:
        losses, errors: (step, value); at least one of both.
        step: the name of the horizontal axis.
        reference: height of a horizontal line.
    """
    height, left, right, top, bottom = 260.0, 52.0, _WIDTH - 22, 12.0, 214.0
    heights = [value for _, value in errors] + ([] if reference is None else [reference])
    drawn = _smoothed(losses)
    # The few steep losses of a start would flatten everything else: the line leaves through the top.
    seen = [value for _, value in drawn]
    heights += [min(value, float(np.quantile(seen, 0.97)) * 1.1) for value in seen]
    heights += [float(np.quantile([value for _, value in losses], 0.02))] if losses else []
    low, high = padded(heights, 0.1, least=0.1 * max(map(abs, heights)))
    last = max(place for place, _ in (*losses, *errors))
    across, up = Scale(0.0, float(last) or 1.0, left, right), Scale(max(low, 0.0), high, bottom, top)
    ticks, levels = across.ticks(4), up.ticks(5)
    parts = [axis_left(up, left, right, levels, [tick_text(level, levels) for level in levels]),
             line((left, bottom), (right, bottom), "axis"),
             *(words(across(tick), bottom + 18, _count(tick), "small.faint.middle") for tick in ticks),
             words((left + right) / 2, height - 6, step, "small.faint.middle")]  # fmt: skip
    if reference is not None:
        parts.append(line((left, up(reference)), (right, up(reference)), "axis.dashed", 1.5))
    if len(drawn) < len(losses) or len(losses) >= _SMOOTH_FROM:
        parts.append(path(_placed(_thinned(losses), across, up), "orange.stroke.light", 0.8))
    if drawn:
        parts.append(path(_placed(drawn, across, up), "orange.stroke", 2.0))
    if errors:
        places = _placed(errors, across, up)
        best = min(range(len(errors)), key=lambda i: errors[i][1])
        parts += [path(places, "blue.stroke", 1.5), *(mark("circle", place, "blue.fill", 3.5) for place in places),
                  mark("circle", places[best], "blue.stroke", 8.0)]  # fmt: skip
    return drawing(_WIDTH, height, said, *parts)


def _smoothed(points: Sequence[Point]) -> list[Point]:
    if len(points) < _SMOOTH_FROM:
        return list(points)
    means = running_mean(np.array([value for _, value in points]), len(points) // 20)
    return _thinned([(place, float(mean)) for (place, _), mean in zip(points, means, strict=True)])


def _thinned(points: Sequence[Point]) -> list[Point]:
    """No more points than a screen can show."""
    kept = np.unique(np.linspace(0, len(points) - 1, min(len(points), _MOST_POINTS)).astype(int))
    return [points[i] for i in kept]


def _placed(points: Sequence[Point], across: Scale, up: Scale) -> list[Point]:
    return [(across(x), up(y)) for x, y in points]


def _count(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:,g}"


@dataclass(frozen=True, slots=True)
class Distance:
    """How far one thing is from what it should be."""

    name: str
    note: str
    worst: float
    mean: float
    gate: float | None  # what it may be
    passed: bool


_LEAST, _MOST = 1e-8, 1e-1  # of a distance that is drawn; float32 knows nothing smaller


def distances(rows: Sequence[Distance], axis: str, said: str) -> Html:
    """One row each on a logarithmic axis; the nearer to the left the better."""
    width, left, right, step, top = 920.0, 250.0, 780.0, 32.0, 8.0
    bottom = top + step * len(rows)
    scale = Scale(_LEAST, _MOST, left, right, log=True)
    ticks = scale.ticks()
    names = ["≤ 10⁻⁸", *(f"10⁻{digit}" for digit in "⁷⁶⁵⁴³²¹")]  # of _LEAST to _MOST
    parts = [axis_below(scale, top, bottom, ticks, names),
             words((left + right) / 2, bottom + 38, axis, "small.faint.middle")]  # fmt: skip
    for number, row in enumerate(rows):
        y = top + step * (number + 0.5)
        look = "blue" if row.passed else "red"
        worst, mean = (scale(max(_LEAST, value)) for value in (row.worst, row.mean))
        parts += [words(0, y + 4, shortened(row.name, 20), whole=row.name), words(150, y + 4, row.note, "small.faint"),
                  line((mean, y), (worst, y), f"{look}.stroke", 2.5), mark("circle", (mean, y), f"{look}.hollow", 4.5),
                  mark("circle", (worst, y), f"{look}.fill", 5.5)]  # fmt: skip
        said_gate = "passes" if row.passed else "misses its gate"
        if row.gate is not None:
            x = scale(row.gate)
            parts.append(line((x, y - step / 2), (x, y + step / 2), "red.stroke", 2.0))
        parts.append(words(width, y + 4, said_gate, "end.faint" if row.passed else "end.bold"))
    return drawing(width, bottom + 46, said, *parts)
