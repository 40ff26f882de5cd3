"""Differences with their intervals, one row each, around zero. Knows numbers and names, not what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loid_infer.pages.markup import Html, element, joined
from loid_infer.pages.plot import Scale, arrow, axis_below, dot, drawing, line, padded, words

_WIDTH, _ROW, _TOP = 920.0, 30.0, 30.0
_LEFT, _RIGHT = 292.0, 590.0  # of the plot; names before it, figures behind it
_VALUE, _MEAN = 660.0, 732.0  # where figures end
_NAME = 42  # letters there is room for


@dataclass(frozen=True, slots=True)
class Difference:
    """One row. Below zero is better."""

    name: str
    mse: float
    mean: float
    low: float | None  # 95 % interval; None: there is none
    high: float | None
    parts: tuple[float, ...]  # the difference on each split
    color: str  # gray: nothing to compete with
    reference: bool = False  # what the others are compared with
    far: bool = False  # does not decide the scale: drawn at the edge if it is beyond


def differences(rows: Sequence[Difference], said: str) -> Html:
    """Draw `rows` below one another.

    Args:
        said: for those who cannot see it.
    """
    bottom = _TOP + _ROW * len(rows)
    scale = Scale(*_span(rows), _LEFT, _RIGHT)
    zero = scale(0.0)
    drawn = joined(_row(row, _TOP + _ROW * (number + 0.5), scale) for number, row in enumerate(rows))
    return drawing(
        _WIDTH, bottom + 46, said, words(0, 16, "model", "small.faint"),
        words(_VALUE, 16, "test MSE", "small.faint.end"), words(_MEAN, 16, "difference", "small.faint.end"),
        words(_WIDTH, 16, "95 % interval", "small.faint.end"), axis_below(scale, _TOP - 4, bottom),
        line((zero, _TOP - 4), (zero, bottom), "axis", 1.5),
        words(_LEFT, bottom + 38, "← better", "small.faint"), words(_RIGHT, bottom + 38, "worse →", "small.faint.end"),
        drawn,
    )  # fmt: skip


def signed(value: float) -> str:
    """`value` with its sign, a true minus; without one where it rounds to nothing."""
    if abs(value) < 0.00005:
        return "0.0000"
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def _span(rows: Sequence[Difference]) -> tuple[float, float]:
    """What must be seen: every mean but those out of reach, and intervals as far as they leave the means apart."""
    firm = [row for row in rows if not row.far]
    points = [0.0, *(value for row in firm for value in (row.mean, *row.parts))]
    low, high = min(points), max(points)
    room = 6.0 * max(high - low, 1e-4)
    ends = [end for row in firm for end in (row.low, row.high) if end is not None]
    return padded([low, high, *(min(max(end, low - room), high + room) for end in ends)])


def _row(row: Difference, y: float, scale: Scale) -> Html:
    look, telling = row.color, False
    name = row.name if len(row.name) <= _NAME else f"{row.name[: _NAME - 1]}…"
    parts = [element("g", element("title", row.name), words(0, y + 4, name)),
             words(_VALUE, y + 4, f"{row.mse:.4f}", "end")]  # fmt: skip
    if row.reference:
        parts += [dot((scale(0.0), y), f"{look}.fill", 4.0), words(_MEAN, y + 4, "reference", "end.faint")]
        return joined(parts)
    if row.low is not None and row.high is not None:
        telling = row.low > 0 or row.high < 0
        parts.append(line((scale(row.low), y), (scale(row.high), y), f"{look}.stroke", 2.5))
        parts += [arrow((_LEFT - 2, y), f"{look}.fill", -5.0)] if row.low < scale.low else []
        parts += [arrow((_RIGHT + 2, y), f"{look}.fill", 5.0)] if row.high > scale.high else []
        parts.append(words(_WIDTH, y + 4, f"{signed(row.low)} to {signed(row.high)}", "end.faint"))
    parts += [dot((scale(part), y), f"{look}.fill.light", 2.5) for part in row.parts]
    if scale.low <= row.mean <= scale.high:
        parts.append(dot((scale(row.mean), y), f"{look}.fill" if telling else f"{look}.hollow", 5.5))
    else:
        parts.append(arrow((scale(row.mean), y), f"{look}.fill", -6.5 if row.mean < 0 else 6.5))
    parts.append(words(_MEAN, y + 4, signed(row.mean), "end.bold" if telling and look != "gray" else "end"))
    return joined(parts)
