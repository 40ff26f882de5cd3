"""What every drawing is made of: scales, ticks, lines, marks and words of an inline SVG.

Colors are classes of the page's sheet, so that a drawing follows daylight and night. This file knows no figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loid_infer.pages.markup import Content, Html, element, joined

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scale:
    """Values from `low` to `high` along a line from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where `value` is; values beyond the ends are at the ends."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """At most five round values (about) within, each as it is written."""
        if not self.high > self.low:
            return [(self.low, f"{self.low:,.10g}")]
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(n * step, f"{n * step:,.10g}") for n in range(first, last + 1)]


def padded(values: Iterable[float], share: float = 0.06, least: float = 1e-6) -> tuple[float, float]:
    """The range of `values` with some room on both sides, never less than `least` wide."""
    found = list(values)
    low, high = min(found), max(found)
    room = max((high - low) * share, (least - (high - low)) / 2)
    return low - room, high + room


def drawing(width: float, height: float, said: str, *parts: Content) -> Html:
    """An SVG of that size in its own units; `said` tells those who cannot see it what it shows."""
    at = {"viewBox": f"0 0 {width:.0f} {height:.0f}", "role": "img", "aria-label": said}
    return element("div.wide", element("svg", *parts, at=at))


def words(x: float, y: float, said: str, look: str = "") -> Html:
    """Text whose baseline starts at `x, y`; `look` is of the classes end, middle, faint, small and bold."""
    return element(f"text.{look}" if look else "text", said, at={"x": x, "y": y})


def line(start: Point, end: Point, look: str, width: float = 1.0) -> Html:
    """A straight line."""
    at = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1], "stroke-width": width}
    return element(f"line.{look}", at=at)


def path(points: Sequence[Point], look: str, width: float = 1.0) -> Html:
    """A line through `points`."""
    drawn = "M" + " ".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return element(f"path.{look}", at={"d": drawn, "stroke-width": width, "stroke-linejoin": "round"})


def dot(at: Point, look: str, size: float = 5.0) -> Html:
    """A point."""
    return element(f"circle.{look}", at={"cx": at[0], "cy": at[1], "r": size})


def arrow(at: Point, look: str, size: float) -> Html:
    """An arrow head, to the left where `size` is negative."""
    x, y = at
    return path([(x + 0.6 * size, y), (x - 0.6 * size, y - 0.9 * size), (x - 0.6 * size, y + 0.9 * size)], look)


def legend(*entries: tuple[str, str]) -> Html:
    """A list of looks and what they mean: a dot where it is filled, else a line."""

    def sign(look: str) -> Html:
        drawn = dot((8, 8), look) if "fill" in look else line((0, 8), (16, 8), look, 2)
        return element("svg", drawn, at={"viewBox": "0 0 16 16", "aria-hidden": "true"})

    return element("ul.legend", *(element("li", sign(look), name) for look, name in entries))


def axis_below(scale: Scale, top: float, bottom: float) -> Html:
    """Vertical grid lines at round values, each named below."""
    return joined(part for value, name in scale.ticks() for part in (
        line((scale(value), top), (scale(value), bottom), "grid"),
        words(scale(value), bottom + 18, name, "small.faint.middle"),
    ))  # fmt: skip


def axis_left(scale: Scale, left: float, right: float) -> Html:
    """Horizontal grid lines at round values, each named to the left."""
    return joined(part for value, name in scale.ticks() for part in (
        line((left, scale(value)), (right, scale(value)), "grid"),
        words(left - 8, scale(value) + 4, name, "small.faint.end"),
    ))  # fmt: skip


def figure(title: str, sub: str, how: str, *drawn: Content) -> Html:
    """A drawing or table with its title, what it is of, and below it how to read it."""
    told = element("p.sub", sub) if sub else ""
    return element("figure", element("h3", title), told, *drawn, element("figcaption", how))
